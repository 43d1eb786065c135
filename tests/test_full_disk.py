"""Every kind of write on a full disk: one line with the file and the file system, and what was there before is whole."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memexp import machine
from memexp.cli.main import main
from memexp.data.shards import writing
from memexp.errors import UserError
from memexp.files import make_writable, rewrite, write_atomically, write_json, write_sealed, write_text, write_together
from memexp.lock import hold
from memexp.machine import why_full
from memexp.store.folder import Run
from memexp.train import checkpoint
from memexp.train.metrics_file import MetricsFile

from .messages import says
from .tiny import TINY


def metrics(folder: Path) -> None:
    file = MetricsFile(folder / "metrics.jsonl", upto=0)
    try:
        file.append({"step": 1})
        file.flush()
    finally:
        file.close()


def locked(folder: Path) -> None:
    with hold(folder / "lock", busy=print):
        pass


WRITES: dict[str, Callable[[Path], Any]] = {
    "atomic": lambda folder: write_atomically(folder / "a.bin", b"x" * 5000),
    "text": lambda folder: write_text(folder / "a.txt", "x" * 5000),
    "json": lambda folder: write_json(folder / "a.json", ["x" * 5000]),
    "sealed": lambda folder: write_sealed(folder / "a.json", {"x": "x" * 5000}),
    "together": lambda folder: write_together(folder, {"a.bin": b"x" * 5000}, summary={"y": 1}),
    "rewrite": lambda folder: rewrite(folder / "runs.jsonl", lambda text: "x" * 5000),
    "config": lambda folder: Run(folder).write_config({"tag": "x" * 5000}),
    "checkpoint": lambda folder: checkpoint.save(folder / "step-0000001.pt", {"step": 1}),
    "metrics": metrics,
}


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("kind", WRITES)
def test_the_file_and_the_disk_are_named_and_nothing_is_left(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, check=says("cannot write", str(tmp_path), "No space left", "is full", "file system")):
        WRITES[kind](tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


def usage(free: dict[str, int]) -> Callable[[Path], Any]:
    """Every file system with this much free space, by where it is mounted; others have plenty."""
    return lambda place: SimpleNamespace(total=10**9, free=free.get(str(place), 10**8))


@pytest.mark.parametrize(
    ("free", "named"),
    [
        ({"/": 0}, "file system /: 0 kB"),
        ({"/dev/shm": 0}, "/dev/shm is full"),
        ({}, "quota"),
    ],
)
def test_the_file_system_that_is_full_is_named(
    free: dict[str, int], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", usage(free))
    monkeypatch.setattr(machine, "_mount", lambda path: Path("/"))
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert named in why_full(error, tmp_path)
    with pytest.raises(UserError, check=says(named, str(tmp_path))), writing(tmp_path):
        raise error
    assert why_full(OSError(errno.EACCES, "denied"), tmp_path) == ""


def test_an_error_without_a_file_names_what_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(words: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(machine.shutil, "disk_usage", usage({"/dev/shm": 0}))
    monkeypatch.setattr("memexp.cli.main._dispatch", refuse)
    assert main(["table"]) == 2
    assert says("cannot write", "/dev/shm is full")(capsys.readouterr().err)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("only root can mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, *, leave: int) -> None:
    stats = os.statvfs(place)
    (place / "filler").write_bytes(bytes(max(0, stats.f_bavail * stats.f_bsize - leave)))


@pytest.mark.parametrize("kind", [*WRITES, "folder", "lock"])
def test_a_disk_that_is_really_full(kind: str, small_disk: Path) -> None:
    write = WRITES | {"folder": make_writable, "lock": locked}
    folder = small_disk / "run"
    folder.mkdir()
    fill(small_disk, leave=0)
    with pytest.raises(
        UserError, check=says("cannot write", str(folder), "No space left", f"file system {small_disk}")
    ):
        write[kind](folder)
    assert not list(folder.glob("**/.*.partial"))
    (small_disk / "filler").unlink()
    write[kind](folder)


@pytest.mark.hard
@pytest.mark.parametrize("leave", [0, 4096, 40_000, 200_000, 400_000, 600_000, 800_000])
def test_train_on_a_small_disk_names_the_file_and_goes_on_later(
    leave: int, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "root").mkdir()
    fill(small_disk, leave=leave)
    words = ["train", *TINY, f"root={small_disk}/root", "checkpoint_every=1"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert says(str(small_disk), "No space left", f"file system {small_disk}")(printed.err.splitlines()[-1])
    assert "Traceback" not in printed.err
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert main(words) == 0
