"""A build reads its source once, with little of it in memory, and goes on where it was stopped, wherever that is."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import FilesOptions
from memexp.data import encoding, shards
from memexp.data.encoding import Encoder, cut
from memexp.data.library import prepare
from memexp.data.shards import Entry
from memexp.data.sources import Document, Files
from memexp.data.tokenizers import Tokenizer as AnyTokenizer
from memexp.errors import UserError
from memexp.files import read_json
from memexp.machine import cores

from ..messages import says

MakeData = Callable[..., Data]

BPE = Tokenizer(kind="bpe", vocabulary=320)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two or three documents, and blocks of a few lines."""
    monkeypatch.setattr(shards, "SHARD", 5000)
    monkeypatch.setattr(encoding, "BLOCK", 300)


class Stop(BaseException):
    """What ends a process, as far as the code that it runs can tell."""


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> list[int]:
    """Let the system call that makes a file safe fail once, at its `number`-th time, and else do nothing, for it is slow;
    gives the calls so far."""
    calls = [0]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise failure

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


def contents(path: Path) -> dict[str, bytes]:
    """All files of a corpus but for the manifest, which tells the time."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("tokenizer", [Tokenizer(kind="bytes"), BPE], ids=lambda tokenizer: tokenizer.kind)
def test_tokens_are_those_of_whole_documents_in_the_order_of_the_source(
    folder: Path, tmp_path: Path, text_data: MakeData, tokenizer: Tokenizer
) -> None:
    corpus = prepare(text_data(folder, tokenizer=tokenizer), tmp_path)
    whole = [corpus.tokenizer.encode(document.text) for document in Files(FilesOptions(), str(folder))]
    assert (corpus.path / "tokens.bin").read_bytes() == np.concatenate(whole).tobytes()
    rows = read_json(corpus.path / "documents.json")
    assert [row["tokens"] for row in rows] == [len(tokens) for tokens in whole]
    assert [list(row) for row in rows] == [["id", "group", "bytes", "split", "tokens"]] * 6
    assert sorted(contents(corpus.path)) == ["documents.json", "tokenizer.model", "tokens.bin"]


@pytest.mark.hard
@pytest.mark.usefixtures("small")
def test_wherever_it_is_stopped_the_next_one_gives_the_same(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 8000)  # three
    data = text_data(folder, tokenizer=BPE)
    expected = contents(prepare(data, tmp_path / "whole").path)
    number, stopped = 0, True
    while stopped:
        number += 1
        root = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(number, patch, Stop())
            try:
                prepare(data, root)
                stopped = False
            except Stop:
                assert all(path.name.startswith(".") for path in (root / "data").iterdir())
        assert contents(prepare(data, root).path) == expected
        assert sorted(path.name[-5:] for path in (root / "data").iterdir() if path.name.startswith(".")) == [".lock"]
    assert number > 15  # shards, the tokenizer, tokens of each shard, and what is written at the end


@pytest.mark.usefixtures("small")
def test_what_was_done_is_not_done_again(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when the last shard's tokens are there, the next one reads, trains and encodes nothing."""
    data = text_data(folder, tokenizer=BPE)
    calls = stop_at(0, monkeypatch, Stop())
    prepare(data, tmp_path / "whole")
    stop_at(calls[0] - 2, monkeypatch, Stop())
    with pytest.raises(Stop):
        prepare(data, tmp_path)
    for name in (f"{Files.__module__}.Files.__iter__", "memexp.data.tokenizers.train", "memexp.data.encoding._encoded"):
        monkeypatch.setattr(name, lambda *arguments: pytest.fail("done again"))
    assert prepare(data, tmp_path).made


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [4, 12])
def test_a_full_disk_is_one_line_and_leaves_what_was_whole(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        stop_at(number, patch, OSError(28, "No space left on device"))
        with pytest.raises(UserError, check=says("cannot write", str(tmp_path), "No space left on device")):
            prepare(text_data(folder), tmp_path)
    assert list((tmp_path / "data").glob(".*.partial/work/00000.json"))
    assert prepare(text_data(folder), tmp_path).made


def test_a_file_that_cannot_grow_is_one_line_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """Unlike a call that fails once, the system refuses again when the file is closed."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": f"{number:05} " * 99}) + "\n" for number in range(50))
    )
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from memexp.config.groups import Data, Tokenizer; from memexp.config.sources import FilesOptions\n"
        "from memexp.data import shards; from memexp.data.library import prepare\n"
        "from memexp.errors import UserError\n"
        "shards.SHARD = 8_000\n"
        "data = Data(name='text', source=FilesOptions(), path=sys.argv[1],\n"
        "            tokenizer=Tokenizer(kind='bytes'))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    prepare(data, Path(sys.argv[2]))\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "print(prepare(data, Path(sys.argv[2])).made)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rows.jsonl"), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    refused, made = done.stdout.splitlines()
    assert says("cannot write", "File too large", "expected free space", "last complete part")(refused)
    assert made == "True"


@pytest.mark.usefixtures("small")
def test_what_an_older_version_has_begun_is_begun_anew(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose rows lack what a split is made by."""
    with monkeypatch.context() as patch:
        patch.setattr(shards, "LAYOUT", 1)
        patch.setattr(hashlib, "blake2b", lambda *_, **__: SimpleNamespace(hexdigest=lambda: ""))
        stop_at(5, patch, Stop())
        with pytest.raises(Stop):
            prepare(text_data(folder), tmp_path)
    assert list((tmp_path / "data").glob(".*.partial/work/00000.json"))
    rows = json.loads((prepare(text_data(folder), tmp_path).path / "documents.json").read_text())
    assert len({row["group"] for row in rows}) == len(rows) > 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("told", [True, False])
def test_a_source_that_has_changed_since_is_read_anew(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Where its name does not tell: by what it says of itself, else by the documents that were read."""
    monkeypatch.setattr(Files, "identity", lambda source: "a folder")
    if not told:
        monkeypatch.setattr(Files, "describe", lambda source: {"what": "files", "parts": [], "absent": []})
    with monkeypatch.context() as patch:
        stop_at(16 if told else 5, patch, Stop())
        with pytest.raises(Stop):
            prepare(text_data(folder), tmp_path)
    assert list((tmp_path / "data").glob(".*.partial/work/00000.json"))
    before = (folder / "file1.txt").read_text()
    (folder / "file1.txt").write_text(before[:-99])
    corpus = prepare(text_data(folder), tmp_path)
    read = [
        corpus.tokenizer.decode(each.tokens) for split in ("train", "valid", "test") for each in corpus.split(split)
    ]
    assert sorted(read) == sorted(file.read_text() for file in folder.iterdir())
    assert (corpus.path / "tokens.bin").stat().st_size == 2 * sum(map(len, read))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("number", "name"), [(9, "work/00000.text"), (13, "tokens.bin")])
def test_what_was_damaged_since_is_made_anew(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    expected = contents(prepare(text_data(folder), tmp_path / "whole").path)
    with monkeypatch.context() as patch:
        stop_at(number, patch, Stop())
        with pytest.raises(Stop):
            prepare(text_data(folder), tmp_path)
    (file,) = (tmp_path / "data").glob(f".*.partial/{name}")
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert contents(prepare(text_data(folder), tmp_path).path) == expected


@pytest.mark.usefixtures("small")
def test_force_goes_on_from_nothing(
    folder: Path, tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(13, patch, Stop())
        with pytest.raises(Stop):
            prepare(text_data(folder), tmp_path)
    monkeypatch.setattr(Files, "__iter__", lambda source: pytest.fail("read again"))
    with pytest.raises(pytest.fail.Exception):
        prepare(text_data(folder), tmp_path, force=True)


class Given:
    """A source of the documents that a test gives."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def describe(self) -> dict[str, Any]:
        return {"what": "given", "parts": [], "absent": []}

    def identity(self) -> Any:
        return None


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (
            [Document(name, name, text) for name, text in ("a1", "b2", "c3", "a4")],
            ("two documents are called a", "expected different names"),
        ),
        (
            [Document("a", "g", "x", "train"), Document("b", "g", "x", "test")],
            ("document b", "group g", "test", "train"),
        ),
        *(
            (
                [Document(split, split, "x" * (split != name), split) for split in ("train", "valid", "test")],
                (f"no document of {name}", "expected", "Likely cause", "data.min_document=1"),
            )
            for name in ("train", "valid", "test")
        ),
    ],
)
def test_every_document_is_in_one_split_and_none_is_empty(
    tmp_path: Path,
    text_data: MakeData,
    monkeypatch: pytest.MonkeyPatch,
    documents: list[Document],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr("memexp.data.library.open_source", lambda *nothing: Given(documents))
    with pytest.raises(UserError, check=says(*words)):
        prepare(text_data(tmp_path, min_document=1), tmp_path)


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """64 MB of text, prepared with 48 MB beside what the program needs before it has read any."""
    line = json.dumps({"text": "0123456789abcdef\n" * 30_000}) + "\n"
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number in range(128):
            file.write(line.replace("0123", f"{number:04}"))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "import memexp.data.preparation\n"
        "from memexp.config.groups import Data, Tokenizer; from memexp.config.sources import FilesOptions\n"
        "from memexp.data.library import prepare\n"
        "before = int(next(line for line in open('/proc/self/status') if line.startswith('VmData')).split()[1]) << 10\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (before + (48 << 20),) * 2)\n"
        "data = Data(name='text', source=FilesOptions(), path=sys.argv[1],\n"
        "            tokenizer=Tokenizer(kind='bytes'))\n"
        "print(prepare(data, Path(sys.argv[2])).manifest['splits']['train']['documents'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "112"), done.stderr


def test_processes_give_the_same_tokens_in_order_and_name_what_they_cannot_encode(
    sentencepiece: AnyTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BLOCK", 5000)
    monkeypatch.setattr(encoding, "ALONE", 0)
    lines = [f"def name_{number}(left, right): return left + {number}\n" for number in range(1000)]
    texts = [(Entry(f"d{number}", "", 0), "".join(lines[number * 90 :]).encode()) for number in range(11)]
    with Encoder(sentencepiece, bytes=1, processes=2) as encoder:
        found = list(encoder.encode(texts))
        with pytest.raises(UserError, check=says("document broken", "not UTF-8", "offset 6007")):
            list(encoder.encode([*texts, (Entry("broken", "", 0), b"line\n" * 1200 + b"a line \xff")]))
    assert [block.entry.id for block, _ in found] == [block.entry.id for block in cut(texts, by_line=True)]
    whole = [sentencepiece.encode(text.decode()) for _, text in texts]
    assert np.concatenate([tokens for _, tokens in found]).tolist() == np.concatenate(whole).tolist()


@pytest.mark.parametrize("told", [{0, 1, 2}, None])
def test_a_process_a_core_whether_or_not_the_system_tells_which(
    monkeypatch: pytest.MonkeyPatch, told: set[int] | None
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.delattr(os, "sched_getaffinity")
    if told is not None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: told, raising=False)
    assert cores() == (3 if told else 5)


def test_blocks_end_lines_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BLOCK", 6)
    texts = [(Entry("a", "", 0), b"ab\ncd\nefg\n0123456789\nh"), (Entry("b", "", 0), b"no end at all")]
    blocks = list(cut(texts, by_line=True))
    assert [block.data for block in blocks] == [b"ab\ncd\n", b"efg\n", b"0123456789\n", b"h", b"no end at all"]
    assert [block.start for block in blocks] == [0, 6, 10, 21, 0]
    assert [block.data for block in cut(texts, by_line=False)] == [data for _, data in texts]


def test_a_text_is_on_one_side_of_a_split(tmp_path: Path) -> None:
    """Under whatever names, and what belongs together with one of them as well."""
    for number in range(24):
        (tmp_path / f"{number}.txt").write_text("the same" if number < 12 else f"number {number}")
    corpus = prepare(data_of(tmp_path, valid=3, test=3), tmp_path)
    rows = json.loads((corpus.path / "documents.json").read_text())
    assert len({row["split"] for row in rows if int(row["id"].removesuffix(".txt")) < 12}) == 1
    assert len({row["group"] for row in rows}) == 13
    assert {row["split"] for row in rows} == {"train", "valid", "test"}


def test_what_a_source_holds_out_and_trains_on_is_counted(
    tmp_path: Path, text_data: MakeData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [Document(f"{split}{at}", f"{split}{at}", text, split) for split, at, text in (
        ("train", 0, "the same"), ("train", 1, "other"), ("valid", 0, "of its own"), ("test", 0, "the same"), ("test", 1, "new"),
    )]  # fmt: skip
    monkeypatch.setattr("memexp.data.library.open_source", lambda *nothing: Given(documents))
    prepare(text_data(tmp_path, min_document=1), tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "held-out" in line]
    assert says("training split", "1, such as test0")(line)


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"\xff.txt")
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("memexp.data.library.open_source", lambda *_: Given([Document(name, name, "text")]))
    with pytest.raises(UserError, check=says("the name of document", r"'\udcff.txt'", "expected Unicode text")):
        prepare(data_of(tmp_path / "a.txt"), tmp_path)


def data_of(folder: Path, *, valid: int = 1, test: int = 1) -> Data:
    return Data(
        name="text", source=FilesOptions(), path=str(folder), tokenizer=Tokenizer(kind="bytes"),
        min_document=1, valid_documents=valid, test_documents=test,
    )  # fmt: skip


@pytest.mark.usefixtures("small")
def test_what_was_left_out_is_kept_wherever_it_is_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.jsonl").write_text('{"text": "good"}\nnull\n{"text": 3}\n')
    (folder / "pipe").symlink_to("/dev/null")
    data = data_of(folder)
    data.source = FilesOptions(bad_rows="skip")
    notes, number, stopped = list[Any](), 0, True
    while stopped:
        number += 4
        root = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(number, patch, Stop())
            try:
                prepare(data, root)
                stopped = False
            except Stop:
                pass
        notes.append(prepare(data, root).manifest["source"]["notes"])
    assert len(notes) > 3
    assert all(each == notes[0] for each in notes)
    assert sorted(note["count"] for note in notes[0].values()) == [1, 2]


def test_an_error_of_the_system_while_a_source_is_read_names_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the corpus's folder, which is written at the same time."""

    class Broken(Given):
        def __iter__(self) -> Iterator[Document]:
            yield Document("a\n", "a", "text")
            raise OSError(27, "File too large")

    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("memexp.data.library.open_source", lambda *_: Broken([]))
    with pytest.raises(UserError, check=says("cannot read documents", "File too large", r"a\n", "expected a source")):
        prepare(data_of(tmp_path / "a.txt"), tmp_path)
