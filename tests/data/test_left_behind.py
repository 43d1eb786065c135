"""Builds that were refused or killed leave nothing behind that nobody needs, and a corpus outlives its source."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import FilesOptions
from memexp.data import shards
from memexp.data.library import folder_of, prepare
from memexp.errors import UserError
from memexp.files import read_json, write_json
from memexp.lock import hold

from ..messages import says
from .test_preparation import Stop, stop_at

MakeData = Callable[..., Data]


def hidden(root: Path) -> set[str]:
    """Kinds of hidden folders and files in data/."""
    return {path.name.rpartition(".")[2] for path in (root / "data").glob(".*")}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 5000)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"min_document": 10**6}, "min_document"),
    ({"valid_documents": 50}, "valid_documents"),
    ({"tokenizer": Tokenizer(kind="bpe", vocabulary=60_000)}, "vocabulary"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_refused_build_leaves_nothing(
    changes: dict[str, Any], words: str, folder: Path, tmp_path: Path, text_data: MakeData
) -> None:
    with pytest.raises(UserError, check=says(words)):
        prepare(text_data(folder, **changes), tmp_path)
    assert hidden(tmp_path) == set()


def test_a_document_that_is_no_text_leaves_nothing(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    (folder / "file5.txt").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, check=says("file5.txt", "not UTF-8")):
        prepare(text_data(folder), tmp_path)
    assert hidden(tmp_path) == set()


def test_what_a_killed_build_left_goes_at_the_next_start_of_any_build(
    folder: Path,
    tmp_path: Path,
    text_data: MakeData,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only what its own command can continue stays, and is named."""
    data = tmp_path / "data"
    for name, inside in (
        ("a", "done/00000.text"),
        ("b", "partial/tokens.bin"),
        ("c", f"partial/{shards.WORK}/00000.text"),
    ):
        word, _, rest = inside.partition("/")
        (data / f".{name}.{word}" / rest).parent.mkdir(parents=True)
        (data / f".{name}.{word}" / rest).write_bytes(b"0" * 5000)
    with monkeypatch.context() as patch:
        stop_at(7, patch, Stop())
        with pytest.raises(Stop):
            prepare(text_data(folder, min_document=10), tmp_path)
    assert hidden(tmp_path) == {"partial", "lock"}
    capsys.readouterr()
    prepare(text_data(folder), tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "was stopped" in line]
    (partial,) = data.glob(".*.partial")
    assert says(str(partial), "MB", "continues it", "delete")(line)
    assert prepare(text_data(folder, min_document=10), tmp_path).made
    assert hidden(tmp_path) == {"lock"}


def test_what_another_process_is_writing_stays(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    busy = [tmp_path / "data" / ".a.partial", tmp_path / "data" / ".a.done"]
    for path in busy:
        path.mkdir(parents=True)
    with hold(tmp_path / "data" / ".a.lock", busy=print):
        # as another process sees it, for which the lock is held
        prepare(text_data(folder), tmp_path)
        assert all(path.exists() for path in busy)
    prepare(text_data(folder), tmp_path)
    assert not any(path.exists() for path in busy)


@pytest.mark.parametrize("between", ["old and new", "new and nothing"])
def test_a_build_that_was_killed_between_its_renames_is_finished(
    between: str, folder: Path, tmp_path: Path, text_data: MakeData
) -> None:
    path = prepare(text_data(folder), tmp_path).path
    if between == "old and new":
        shutil.copytree(path, path.with_name(f".{path.name}.replaced"))
        path.rename(path.with_name(f".{path.name}.partial"))
    else:
        path.rename(path.with_name(f".{path.name}.replaced"))
    corpus = prepare(text_data(folder), tmp_path)
    assert (corpus.path, corpus.made) == (path, False)
    assert hidden(tmp_path) == {"lock"}


# ------------------------------------------------------------------------------------ the source is gone


@pytest.mark.parametrize("purged", ["folder", "files"])
def test_a_corpus_is_used_when_its_source_is_gone(
    purged: str, folder: Path, tmp_path: Path, text_data: MakeData, capsys: pytest.CaptureFixture[str]
) -> None:
    made = prepare(text_data(folder), tmp_path)
    shutil.rmtree(folder)
    if purged == "files":
        folder.mkdir()
    capsys.readouterr()
    again = prepare(text_data(folder), tmp_path)
    assert (again.path, again.made, again.content) == (made.path, False, made.content)
    assert says(str(folder), "not there any more", made.path.name, "Not checked")(capsys.readouterr().err)
    assert folder_of(text_data(folder), tmp_path) == made.path
    with pytest.raises(UserError, check=says("data.path", str(folder))):
        prepare(text_data(folder), tmp_path, force=True)


@pytest.mark.parametrize("way", ["linked folder", "folder in a folder"])
def test_a_source_whose_files_lie_deeper_is_not_gone(
    way: str, folder: Path, tmp_path: Path, text_data: MakeData, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a changed text gives another corpus, and not the one that was prepared before."""
    above = tmp_path / "above"
    above.mkdir()
    if way == "linked folder":
        (above / "link").symlink_to(folder)
    else:
        folder = folder.rename(above / "below")
    first = prepare(text_data(above), tmp_path)
    file = sorted(path for path in folder.rglob("*") if path.is_file())[0]
    file.write_text("another text, which is as long as a document has to be\n" * 50)
    second = prepare(text_data(above), tmp_path)
    assert second.made
    assert second.path != first.path
    assert "any more" not in capsys.readouterr().err


def test_a_source_that_cannot_be_listed_is_not_gone(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(text_data(folder), tmp_path)
    listed = os.scandir

    def denied(place: Any) -> Any:
        if Path(os.fspath(place)) == folder:
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, check=says(str(folder), "Permission denied")):
        prepare(text_data(folder), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"min_document": 3},
        {"tokenizer": Tokenizer(kind="bpe", vocabulary=320)},
        {"test_documents": 2},
        {"source": FilesOptions(field="other")},
        {"path": "/somewhere/else"},
        {"name": "other"},
    ],
    ids=str,
)
def test_a_corpus_of_other_settings_is_not_used(
    change: dict[str, Any], folder: Path, tmp_path: Path, text_data: MakeData
) -> None:
    prepare(text_data(folder), tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(UserError, check=says("data.path")):
        prepare(replace(text_data(folder), **change), tmp_path)


def test_two_corpora_of_one_path_are_not_told_apart(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    first = prepare(text_data(folder), tmp_path)
    (folder / "file0.txt").write_text("changed\n" * 300)
    second = prepare(text_data(folder), tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(UserError, check=says(first.path.name, second.path.name, "move the corpora away")):
        prepare(text_data(folder), tmp_path)


def test_a_corpus_of_an_older_version_is_known_by_its_path(folder: Path, tmp_path: Path, text_data: MakeData) -> None:
    made = prepare(text_data(folder), tmp_path)
    manifest = read_json(made.path / "manifest.json")
    from memexp.files import fingerprint

    bare = {name: value for name, value in manifest.items() if name not in ("given", "checksum")}
    write_json(made.path / "manifest.json", {**bare, "checksum": fingerprint(bare)})
    shutil.rmtree(folder)
    assert prepare(text_data(folder), tmp_path).path == made.path
    with pytest.raises(UserError, check=says("data.path")):
        prepare(text_data(folder, source=FilesOptions(field="other")), tmp_path)


# ------------------------------------------------------------------------------ one flipped byte in the work


def test_a_flipped_byte_in_what_a_stopped_build_left_is_never_used(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch, chance: Any
) -> None:
    data = text_data(folder, tokenizer=Tokenizer(kind="bpe", vocabulary=320))
    expected = {file.name: file.read_bytes() for file in prepare(data, tmp_path / "whole").path.iterdir()}
    calls = stop_at(0, monkeypatch, Stop())
    prepare(data, tmp_path / "count")
    number = calls[0] - 2
    stop_at(number, monkeypatch, Stop())
    with pytest.raises(Stop):
        prepare(data, tmp_path / "stopped")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    kept = [path for path in (tmp_path / "stopped").rglob("*") if path.is_file() and "lock" not in path.name]
    assert len(kept) > 5
    for file in kept:
        root = tmp_path / "again"
        shutil.copytree(tmp_path / "stopped", root)
        flipped = root / file.relative_to(tmp_path / "stopped")
        content = bytearray(flipped.read_bytes())
        if not content:
            continue
        at = chance.randrange(len(content))
        content[at] ^= 1 << chance.randrange(8)
        flipped.write_bytes(content)
        made = prepare(data, root).path
        for name in ("tokens.bin", "documents.json", "tokenizer.model"):
            assert (made / name).read_bytes() == expected[name], f"{file}, byte {at}"
        shutil.rmtree(root)
