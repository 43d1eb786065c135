"""Folders and paths of every kind: each file is read once, what is left out is said, and nothing waits without end."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import FilesOptions
from memexp.data.library import prepare
from memexp.data.sources import places
from memexp.data.sources.notes import notes_of, said
from memexp.errors import UserError

from ...messages import says
from .every import FOLDERS, SOURCES, TEXTS, all_text


def folder(path: Path, source: str, *texts: str) -> Path:
    """A folder with a file for each text."""
    path.mkdir(parents=True)
    for text in texts:
        (path / f"{text}{TEXTS[source]}").write_text(f"{text}\n")
    return path


def words(source: Any) -> list[str]:
    return sorted(all_text(source).replace("\n", " ").split())


def notes(source: Any) -> str:
    list(source)
    return "; ".join(said(notes_of(source)))


@pytest.mark.parametrize("name", FOLDERS)
def test_linked_folders_are_read_once(tmp_path: Path, name: str) -> None:
    top = folder(tmp_path / "top", name, "own")
    folder(top / "sub", name, "below")
    far = folder(tmp_path / "far", name, "away")
    folder(far / "deep", name, "deeper")
    (top / "linked").symlink_to(far)
    (top / "again").symlink_to(far)
    (top / "deep").symlink_to(far / "deep")
    (top / "same").symlink_to(top / "sub")
    (top / "circle").symlink_to(top)
    (top / "up").symlink_to(tmp_path)
    (far / "back").symlink_to(top / "sub")
    (top / f"two{TEXTS[name]}").symlink_to(top / f"own{TEXTS[name]}")
    source = SOURCES[name](top)
    assert words(source) == ["away", "below", "deeper", "own"]
    line = notes(source)
    assert says(places.AGAIN, "circle", "same")(line.replace("...", "circle same"))
    assert says(places.CIRCLE, "up")(line)


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_no_file_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    top = folder(tmp_path / "top", name, "own")
    os.mkfifo(top / f"pipe{TEXTS[name]}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / f"socket{TEXTS[name]}"))
        (top / f"device{TEXTS[name]}").symlink_to("/dev/zero")
        (top / ".hidden").mkdir()
        (top / "nothing").symlink_to("nowhere")
        source = SOURCES[name](top)
        if name == "files":  # which takes every name
            with pytest.raises(UserError, check=says("nothing", "No such file")):
                list(source)
            (top / "nothing").unlink()
            source = SOURCES[name](top)
        assert words(source) == ["own"]
        line = notes(source)
    assert says(places.NO_FILES, "pipe", "a socket", "a device", places.HIDDEN, ".hidden")(line)
    assert name == "files" or places.DANGLING in line


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    top = folder(tmp_path / "top", name, "own")
    folder(top / "closed", name, "secret")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, check=says("cannot read", "closed", "Permission denied")):
        SOURCES[name](top)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def served(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (fifo, "a pipe"),
        (served, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to("nowhere"), "a link to nowhere"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_path_that_is_no_file(tmp_path: Path, name: str, make: Callable[[Path], object], seen: str) -> None:
    make(tmp_path / "it")
    with pytest.raises(UserError, check=says(str(tmp_path / "it"), seen, "expected")):
        SOURCES[name](tmp_path / "it")


@pytest.mark.parametrize("name", SOURCES)
def test_odd_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, check=says("aaa", "File name too long")):
        SOURCES[name](tmp_path / ("a" * 300))
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file" / "below", "a\0b", "new\nline"):
        with pytest.raises(UserError, check=says("does not exist")):
            SOURCES[name](path)
    (tmp_path / "link").symlink_to("file")
    assert words(SOURCES[name](tmp_path / "link")) == ["text"]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EFBIG, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ESTALE]
)
def test_errors_of_the_system_name_the_file(
    tmp_path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file is opened, and where it is read; neither error has a file's name."""
    top = folder(tmp_path / "top", name, "text")
    source = SOURCES[name](top)
    opened, made = os.open, os.fdopen

    class Broken:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *failure: object) -> None:
            self.file.close()

        def __getattr__(self, word: str) -> Any:
            if word.startswith("read"):
                raise OSError(number, os.strerror(number))
            return getattr(self.file, word)

    def refuse(path: Any, *more: Any, **options: Any) -> int:
        if str(path).endswith(TEXTS[name]):
            raise OSError(number, os.strerror(number))
        return opened(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(UserError, check=says("cannot read", f"text{TEXTS[name]}", os.strerror(number))):
            list(source)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda handle, mode: Broken(made(handle, mode)))
        with pytest.raises(UserError, check=says("cannot read", f"text{TEXTS[name]}", os.strerror(number))):
            list(source)


NAMES = [
    b"new\nline",
    b"bell\x07",
    b"\x1b[31mred",
    b"\xff\xfe",
    b"caf\xe9",
    "\u202eturned".encode(),
    "\u2028".encode(),
    b"tab\t",
]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("odd", NAMES)
def test_names_are_made_to_print(tmp_path: Path, name: str, odd: bytes) -> None:
    top = folder(tmp_path / "top", name)
    for place in (top / os.fsdecode(odd + TEXTS[name].encode()), top / os.fsdecode(odd) / f"a{TEXTS[name]}"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("text")
    source = SOURCES[name](top)
    ids = [document.id for document in source]
    assert ids
    assert "".join(ids).isprintable()
    assert str(source.describe()).encode()
    assert source.identity() == SOURCES[name](top).identity()
    (top / os.fsdecode(odd) / f"b{TEXTS[name]}").write_bytes(b"\xff")
    if name != "repositories":  # where that is a binary file
        with pytest.raises(UserError, check=says("not UTF-8")) as error:
            list(SOURCES[name](top))
        assert str(error.value).isprintable()


def test_a_corpus_of_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number, odd in enumerate(NAMES):
        (top / os.fsdecode(odd)).write_text(f"text {number}")
    os.mkfifo(top / os.fsdecode(b"pipe\n\xff"))
    data = Data(
        name="text", source=FilesOptions(), tokenizer=Tokenizer(kind="bytes"), valid_documents=1, test_documents=1,
        path=str(top),
    )  # fmt: skip
    corpus = prepare(data, tmp_path)
    assert sum(split["documents"] for split in corpus.manifest["splits"].values()) == len(NAMES)
    assert r"pipe\n\xff" in str(corpus.manifest["source"]["notes"][places.NO_FILES]["first"][0])
    assert places.NO_FILES in capsys.readouterr().err


def test_names_that_print_stay_as_they_are(tmp_path: Path) -> None:
    names = [
        "plain.txt",
        "a b.txt",
        "\u00fc\u4e2d.txt",
        "no\u00a0break.txt",
        "\U0001f468\u200d\U0001f469.txt",
        "back\\slash.txt",
    ]
    for name in names:
        (tmp_path / name).write_text("text")
    assert sorted(document.id for document in SOURCES["files"](tmp_path)) == sorted(names)
