"""One text is enough: it is cut by bytes, whatever holds it; and with many documents, whole ones are held out."""

import gzip
import json
import random
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memexp.cli.main import main
from memexp.config.groups import Data
from memexp.data.corpus import Corpus, open_corpus
from memexp.data.library import folder_of, prepare
from memexp.data.sources import Document
from memexp.data.splits import RULE
from memexp.errors import UserError
from memexp.files import read_json
from memexp.report.corpus.files import to_terminal
from memexp.report.corpus.statistics import inspect_corpus
from memexp.report.corpus.table import corpora_table, list_corpora
from memexp.store.folder import all_runs

from ..messages import says

MakeData = Callable[..., Data]

CUT = {"valid_documents": None, "test_documents": None}
WORDS = ["data=text", "data.tokenizer.kind=bytes"]


def lines_of(size: int, *, seed: int = 0) -> str:
    """A text of about `size` bytes, in which no line comes twice."""
    draw = random.Random(seed)
    lines, left = [], size
    while left > 0:
        lines.append(f"{draw.getrandbits(64):x} {'é' * draw.randrange(40)}")
        left -= len(lines[-1].encode()) + 1
    return "\n".join(lines) + "\n"


TEXT = lines_of(400_000)


def texts_of(corpus: Corpus, split: str) -> list[str]:
    """In the order of the text."""
    documents = sorted(corpus.split(split), key=lambda document: document.id)
    return [corpus.tokenizer.decode(document.tokens) for document in documents]


def as_file(place: Path) -> Path:
    (place / "input.txt").write_text(TEXT)
    return place / "input.txt"


def as_folder(place: Path) -> Path:
    return as_file(place).parent


def as_gzip(place: Path) -> Path:
    (place / "input.gz").write_bytes(gzip.compress(TEXT.encode()))
    return place / "input.gz"


def as_row(place: Path) -> Path:
    (place / "rows.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    return place / "rows.jsonl"


def as_one_of_short_ones(place: Path) -> Path:
    (place / "short.txt").write_text("x" * 99)
    (place / "rows.jsonl").write_text("".join(json.dumps({"text": word}) + "\n" for word in ("one", "two")))
    return as_folder(place)


@pytest.mark.parametrize("held_by", [as_file, as_folder, as_gzip, as_row])
def test_a_text_is_cut_alike_whatever_holds_it(
    held_by: Callable[[Path], Path], tmp_path: Path, text_data: MakeData
) -> None:
    (tmp_path / "own").mkdir()
    corpus = prepare(text_data(held_by(tmp_path / "own"), **CUT), tmp_path)
    (train,) = texts_of(corpus, "train")
    valid, test = "".join(texts_of(corpus, "valid")), "".join(texts_of(corpus, "test"))
    assert TEXT.startswith(train)
    assert TEXT.endswith(test)
    between, after = TEXT[len(train) : -len(test)].split(valid)
    for part, share in ((train, 0.9), (valid, 0.05), (test, 0.05)):
        assert len(part.encode()) == pytest.approx(share * len(TEXT.encode()), rel=0.01)
        assert part.endswith("\n")
    assert 1000 <= len(between.encode()) < 1200
    assert 1000 <= len(after.encode()) < 1200
    seen = corpus.manifest["splitting"]
    assert (seen["by"], seen["documents"], seen["whole"]) == ("bytes", 1, 0)
    assert seen["left_out"] == len((between + after).encode())
    assert says("split by bytes", "1 document", "5 %", f"{seen['left_out']:,} bytes")(seen["said"])
    for row in read_json(corpus.path / "documents.json"):
        part = TEXT.encode()[row["start"] : row["start"] + row["bytes"]].decode()
        assert part in texts_of(corpus, row["split"])


def test_short_documents_beside_a_text_are_trained_on_whole(tmp_path: Path, text_data: MakeData) -> None:
    (tmp_path / "own").mkdir()
    corpus = prepare(text_data(as_one_of_short_ones(tmp_path / "own"), **CUT), tmp_path)
    assert sorted(texts_of(corpus, "train"), key=len)[:3] == ["one", "two", "x" * 99]
    assert {document.id.split(":")[0] for document in corpus.split("test")} == {"input.txt"}
    assert says("4 documents", "trained on whole: 3 documents")(corpus.manifest["splitting"]["said"])


def test_each_of_two_texts_is_cut(tmp_path: Path, text_data: MakeData) -> None:
    (tmp_path / "own").mkdir()
    for name, size in (("a.txt", 300_000), ("b.txt", 60_000)):
        (tmp_path / "own" / name).write_text(lines_of(size, seed=size))
    corpus = prepare(text_data(tmp_path / "own", **CUT), tmp_path)
    for split in ("train", "valid", "test"):
        assert {document.id.split(":")[0] for document in corpus.split(split)} == {"a.txt", "b.txt"}
        assert all(text.endswith("\n") for text in texts_of(corpus, split))  # of the second as well
    assert says("2 documents", "of each")(corpus.manifest["splitting"]["said"])


def test_many_documents_stay_whole(tmp_path: Path, text_data: MakeData) -> None:
    rows = [{"text": lines_of(2000, seed=number)} for number in range(44)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = prepare(text_data(tmp_path / "rows.jsonl", **CUT), tmp_path)
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [36, 4, 4]
    assert sorted(text for split in ("train", "valid", "test") for text in texts_of(corpus, split)) == sorted(
        row["text"] for row in rows
    )
    assert says("whole documents", "5 %", "at least 8", "at most 10 %")(corpus.manifest["splitting"]["said"])


def test_a_number_for_one_split_keeps_documents_whole(tmp_path: Path, text_data: MakeData) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(lines_of(50_000, seed=number))
    corpus = prepare(text_data(tmp_path, valid_documents=None, test_documents=3), tmp_path / "root")
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [8, 1, 3]
    with pytest.raises(UserError, check=says("1 documents", "expected 3", "null")):
        prepare(text_data(tmp_path / "1.txt", valid_documents=1, test_documents=3), tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            lines_of(10_000).encode()[:10_000],
            ("1 document", "10,000 bytes", "expected", "100,000 bytes", "Give more text"),
        ),
        (b"", ("input.txt is empty", "expected text")),
        (b"\xff\xfe" + bytes(range(256)) * 500, ("input.txt", "expected", "UTF-")),
        (b"ab\0" * 99_999, ("NUL", "expected text")),
        (None, ("does not exist", "expected a file or a folder")),
    ],
    ids=["small", "empty", "binary", "NUL", "absent"],
)
def test_what_is_no_text_to_cut_is_one_line(
    content: bytes | None, words: tuple[str, ...], tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "input.txt"
    if content is not None:
        file.write_bytes(content)
    assert main(["prepare", *WORDS, f"data.path={file}", f"root={tmp_path}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Reading")]
    assert len(lines) == 1
    assert says("memexp prepare: ", *words)(lines[0])


@pytest.mark.parametrize("text", ["x" * 150_000, "é" * 75_000, "one two " * 20_000], ids=["x", "é", "words"])
def test_one_line_is_cut_too(text: str, tmp_path: Path, text_data: MakeData) -> None:
    (tmp_path / "input.txt").write_text(text)
    corpus = prepare(text_data(tmp_path / "input.txt", **CUT), tmp_path)
    parts = [texts_of(corpus, split) for split in ("train", "valid", "test")]
    assert all(part in text and "\ufffd" not in part for own in parts for part in own)
    assert all(len("".join(part).encode()) >= 10_000 for part in parts)


def test_documents_with_a_label_are_not_cut(tmp_path: Path, text_data: MakeData) -> None:
    rows = [{"text": lines_of(50_000, seed=number), "kind": number % 2} for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = text_data(tmp_path / "rows.jsonl", **CUT)
    assert prepare(data, tmp_path).manifest["splitting"]["by"] == "bytes"
    data.source.label = "kind"
    with pytest.raises(
        UserError, check=says("5 different documents", "labels", "expected at least 40", "data.test_documents=1")
    ):
        prepare(data, tmp_path)


def test_what_a_source_holds_out_is_not_cut(
    tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Given:
        def __iter__(self) -> Any:
            return (
                Document(split, split, lines_of(200_000, seed=at), split)
                for at, split in enumerate(("train", "valid", "test"))
            )

        def describe(self) -> dict[str, Any]:
            return {"what": "given", "parts": [], "absent": []}

        def identity(self) -> Any:
            return None

    monkeypatch.setattr("memexp.data.library.open_source", lambda *_: Given())
    corpus = prepare(text_data(tmp_path, **CUT), tmp_path)
    assert [len(corpus.split(split)) for split in ("train", "valid", "test")] == [1, 1, 1]
    assert corpus.manifest["splitting"]["by"] == "source"


def test_wherever_a_build_is_stopped_the_next_one_cuts_alike(
    tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .test_preparation import Stop, contents, stop_at

    data = text_data(as_file(tmp_path), **CUT)
    calls = stop_at(0, monkeypatch, Stop())
    expected = contents(prepare(data, tmp_path / "whole").path)
    for number in range(3, calls[0], 2):
        root = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(number, patch, Stop())
            with pytest.raises(Stop):
                prepare(data, root)
        assert contents(prepare(data, root).path) == expected


def test_a_cut_corpus_is_used_when_its_text_is_gone(tmp_path: Path, text_data: MakeData) -> None:
    file = as_file(tmp_path)
    data = text_data(file, **CUT)
    made = prepare(data, tmp_path)
    file.unlink()
    assert prepare(data, tmp_path).path == made.path


def test_another_rule_is_another_corpus(tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a version that splits otherwise does not take what an older one has prepared."""
    file = as_file(tmp_path)
    names = [folder_of(text_data(file, **settings), tmp_path).name for settings in (CUT, {})]
    monkeypatch.setitem(RULE, "gap", 2000)
    changed = [folder_of(text_data(file, **settings), tmp_path).name for settings in (CUT, {})]
    assert changed[0] != names[0]
    assert changed[1] == names[1]  # given numbers mean what they have always meant


def test_what_describes_a_corpus_says_how_it_was_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, f"data.path={as_file(tmp_path)}", f"root={tmp_path}"]
    for _ in range(2):  # also if it was prepared already
        assert main(["prepare", *words]) == 0
        assert "split by bytes (1 document; from 40 on" in capsys.readouterr().out
    console = Console(width=300, record=True, file=StringIO())
    (corpus,) = (tmp_path / "data").glob("[!.]*")
    console.print(to_terminal(inspect_corpus(open_corpus(corpus), split="test", ngram=8, sample=0)))
    console.print(corpora_table(list_corpora(tmp_path, [])))
    said = console.export_text()
    assert "split by bytes (1 document" in said
    assert "text (cut by bytes)" in said


@pytest.mark.hard
def test_one_text_from_training_to_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, f"data.path={as_file(tmp_path)}", f"root={tmp_path}", "size=tiny", "steps=2", "device=cpu"]
    words += ["eval.max_document=256"]
    for arch in ("arch=knn mem=64", "arch=xl mem=16"):
        for _ in range(2):
            assert main(["train", *arch.split(), *words]) == 0
            assert "text is split by bytes" in capsys.readouterr().out
    names = [run.name for run in all_runs(tmp_path)]
    assert len(names) == 2
    assert main(["eval", names[0], "memory=off", f"root={tmp_path}"]) == 0
    assert main(["diff", *names, f"root={tmp_path}"]) == 0
    assert main(["generate", names[0], "prompt=a", "tokens=5", f"root={tmp_path}"]) == 0
    shutil.rmtree(tmp_path / "data")
    assert main(["train", "arch=xl", "mem=16", *words]) == 0
    assert "nothing to train" in capsys.readouterr().out  # the same cuts, so the same run
