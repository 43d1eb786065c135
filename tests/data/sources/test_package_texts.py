"""A corpus out of a package, from what pip fetches to the tokens; and every way in which a part does not fit."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from memexp.config.checks import check
from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import PackageTextsOptions, read_source
from memexp.data.corpus import Corpus
from memexp.data.duplicates import SHARE, WORDS
from memexp.data.library import prepare
from memexp.data.sources import PackageTexts
from memexp.data.sources.fetch import RECORD
from memexp.errors import UserError
from memexp.files import checksum, write_json

from ...messages import says
from . import made

MakePart = Callable[..., dict[str, Any]]


def prose(seed: int, words: int) -> str:
    random = Random(seed)
    return " ".join(f"word{random.randrange(1000)}" for _ in range(words)) + "\n"


SPEECHES = {f"data/{number}-{name}.txt": prose(number, 100 + number) for number, name in enumerate("AABBCCDDEE")}
EDITED = {"data/90-F.txt": prose(3, 60) + prose(90, 20), "data/91-F.txt": prose(4, 20) + prose(91, 80)}
"""Mostly what is in number 3, and a little of what is in number 4."""


def cached(root: Path, version: str, files: dict[str, bytes]) -> str:
    """Put a wheel where one that pip fetched would be; its SHA-256."""
    folder = root / "data" / "downloads" / f"pip-made-up-{version}"
    folder.mkdir(parents=True)
    wheel = made.wheel(folder / f"made_up-{version}-py3-none-any.whl", files)
    write_json(folder / RECORD, {"file": wheel.name, "sha256": checksum(wheel)})
    return checksum(wheel)


@pytest.fixture
def part(tmp_path: Path) -> MakePart:
    """Settings of a part, whose package of small texts is in the cache."""
    files = {f"made_up/{name}": text.encode() for name, text in (SPEECHES | EDITED).items()}
    sha256 = cached(
        tmp_path, "1.0", files | {"made_up/data/notes.md": b"no text", "made_up/data/latin.bin": b"caf\xe9"}
    )

    def settings(**changes: Any) -> dict[str, Any]:
        return {
            "client": "pip",
            "version": "1.0",
            "sha256": sha256,
            "licence": "CC0-1.0",
            "attribution": "Somebody",
            "folder": "made_up/data",
            "files": ["*.txt"],
            "group": "[A-Z](?=.txt)",
            **changes,
        }

    return settings


def options_of(part: dict[str, Any], name: str = "made-up") -> PackageTextsOptions:
    """Checked, as they are before a source is made of them."""
    target = "memexp.data.sources.PackageTexts"
    options = read_source({"_target_": target, "what": "made up", "parts": {name: part}, "root": "gone"})
    check(options, "data.source")
    assert isinstance(options, PackageTextsOptions)
    return options


def source_of(part: dict[str, Any], root: Path) -> PackageTexts:
    return PackageTexts(options_of(part), root / "data" / "downloads")


def prepared(part: dict[str, Any], root: Path) -> Corpus:
    source = options_of(part)
    data = Data(name="made", source=source, tokenizer=Tokenizer(kind="bytes"), valid_documents=2, test_documents=2)
    return prepare(data, root)


def test_a_corpus_holds_the_texts_but_near_duplicates(part: MakePart, tmp_path: Path) -> None:
    corpus = prepared(part(), tmp_path)
    splits = {name: corpus.split(name) for name in ("train", "valid", "test")}
    found = {
        document.id: corpus.tokenizer.decode(document.tokens) for documents in splits.values() for document in documents
    }
    texts = SPEECHES | {"data/91-F.txt": EDITED["data/91-F.txt"]}
    assert found == {f"made-up/{name.removeprefix('data/')}": text for name, text in texts.items()}
    source = corpus.manifest["source"]
    assert source["near_duplicates"] == {
        "made-up/90-F.txt": {"of": "made-up/3-B.txt", "share": pytest.approx(0.7, abs=0.03)}
    }
    (told,) = source["parts"]
    assert (told["name"], told["version"], told["licence"], told["attribution"]) == (
        "made-up",
        "1.0",
        "CC0-1.0",
        "Somebody",
    )
    assert told["file"] == "made_up-1.0-py3-none-any.whl"
    assert len(told["sha256"]) == 64
    assert source["absent"] == []


def test_no_group_and_no_near_duplicate_is_on_two_sides(part: MakePart, tmp_path: Path) -> None:
    corpus = prepared(part(), tmp_path)
    sides = {
        name: [(document.id, corpus.tokenizer.decode(document.tokens).split()) for document in corpus.split(name)]
        for name in ("train", "valid", "test")
    }
    authors = {name: {id.split("-")[-1] for id, _ in documents} for name, documents in sides.items()}
    assert not authors["train"] & authors["test"]
    assert not authors["train"] & authors["valid"]
    assert not authors["valid"] & authors["test"]

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[place : place + WORDS]) for place in range(len(words) - WORDS + 1)}

    for _, held_out in [*sides["test"], *sides["valid"]]:
        for _, trained_on in sides["train"]:
            shorter = min(runs(held_out), runs(trained_on), key=len)
            assert len(runs(held_out) & runs(trained_on)) <= SHARE * len(shorter)


def test_it_is_fetched_when_it_is_read(part: MakePart, tmp_path: Path) -> None:
    source = source_of(part(sha256="0" * 64), tmp_path)
    assert source.identity()["parts"]["made-up"]["files"] == ["*.txt"]
    with pytest.raises(UserError, check=says("made_up-1.0-py3-none-any.whl", "SHA-256", f"expected {'0' * 64}")):
        next(iter(source))
    source = source_of(part(), tmp_path)
    texts = list(source)
    assert len(texts) == len(SPEECHES) + 1  # one of those that were edited is nearly another
    assert list(source) == texts


def test_identity_is_what_texts_depend_on(part: MakePart, tmp_path: Path) -> None:
    def identity(**changes: Any) -> Any:
        return source_of(part(**changes), tmp_path).identity()

    assert identity(licence="other", attribution="other", form="source", sha256="0") == identity()
    others = ({"version": "2.0"}, {"files": ["*"]}, {"without": ["1*"]}, {"join": 9}, {"format": "html"}, {"group": ""})
    assert all(identity(**changes) != identity() for changes in others)


def test_what_is_taken(part: MakePart, tmp_path: Path) -> None:
    def ids(**changes: Any) -> list[str]:
        return [document.id for document in source_of(part(**changes), tmp_path)]

    assert ids(without=["[1-9]*"]) == ["made-up/0-A.txt"]
    assert ids(folder="", files=["*/0-A.txt"]) == ["made-up/made_up/data/0-A.txt"]
    assert len(ids(join=10**6, group="")) == 1
    (document,) = source_of(part(files=["0*"], group=""), tmp_path)
    assert document.group == document.id
    assert document.text == SPEECHES["data/0-A.txt"]


def test_texts_are_joined_within_their_group(part: MakePart, tmp_path: Path) -> None:
    """Else a document would be in one split with a piece of another group, which is in another split."""
    joined = {document.group: document.text for document in source_of(part(join=10**6, files=["[0-9]-*"]), tmp_path)}
    assert list(joined) == list("ABCDE")
    for letter, text in joined.items():
        assert text == "".join(words for name, words in SPEECHES.items() if name.endswith(f"{letter}.txt"))


def test_settings_that_do_not_fit(part: MakePart, tmp_path: Path) -> None:
    def refuses(settings: dict[str, Any], *words: str) -> None:
        with pytest.raises(UserError, check=says(*words)):
            list(source_of(settings, tmp_path))

    refuses(part(licens="x"), "data.source.parts.made-up.licens", "expected", "did you mean licence?")
    refuses({"client": "pip", "licence": "x", "files": []}, "data.source.parts.made-up", "attribution")
    refuses({"licence": "x", "files": []}, "client is ''", "expected", "pip")
    refuses(part(client="conda"), "client is 'conda'", "expected", "pip, apt, apt-source")
    refuses(part(format="htm"), "format is 'htm'", "expected")
    refuses(part(version=None), "version=None", "sha256=", "expected both")
    refuses(part(sha256=None), "version=1.0", "sha256=None", "expected both")
    refuses(part(client="apt"), "version=1.0", "none with", "Debian")
    refuses(part(form="wheel"), "form is 'wheel'", "expected")
    refuses(part(version="1.0 -r x"), "'1.0 -r x'", "expected letters")
    with pytest.raises(UserError, check=says("'--x'", "expected")):
        options_of(part(), name="--x")
    refuses(part(files=["*.tex"]), "*.tex", "made_up/data")
    refuses(part(files=["latin.bin"]), "cannot read made-up")
    sha256 = cached(tmp_path, "3.0", {"d.bz2": made.wikipedia([("A", 0, "one"), ("A", 0, "two")])})
    two = {"version": "3.0", "sha256": sha256, "folder": "", "files": ["*.bz2"], "format": "wiki_markup"}
    refuses(part(**two), "two documents", "made-up/A")
