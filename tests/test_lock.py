"""Locks between processes, on file systems that have locks and on those that have none."""

import errno
import fcntl
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from memexp.errors import UserError
from memexp.lock import hold, is_held

from .messages import says

HOLDS = """
import errno, fcntl, sys, time
from pathlib import Path
from memexp.lock import hold

def missing(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

if sys.argv[2] == "no locks":
    fcntl.flock = missing
with hold(Path(sys.argv[1]), busy=print):
    print("held", flush=True)
    time.sleep(600)
"""


def missing(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def refuse(process: str) -> None:
    raise UserError(process)


@contextmanager
def another_process(path: Path, system: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock; killed at the end, so that it cannot let go by itself."""
    command = [sys.executable, "-c", HOLDS, str(path), system]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(params=["locks", "no locks"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system has; without locks, the call fails as on Lustre mounted without `flock`."""
    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", missing)
    return str(request.param)


def test_a_process_that_is_killed_lets_go(system: str, tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    with another_process(path, system) as process:
        assert is_held(path)
        with pytest.raises(UserError, check=says(f"process {process.pid}")), hold(path, busy=refuse):
            pass
        assert is_held(path)
    assert not is_held(path)
    with hold(path, busy=refuse):
        assert is_held(path)
    assert not is_held(path)


def test_whoever_waits_is_told_for_whom_and_then_goes_on(system: str, tmp_path: Path) -> None:
    path, told = tmp_path / "lock", []
    with another_process(path, system) as process:

        def busy(holder: str) -> None:
            told.append(holder)
            process.kill()
            process.wait()

        with hold(path, busy=busy):
            assert [holder.split()[:2] for holder in told] == [["process", str(process.pid)]]


def test_an_older_lock_file_is_no_obstacle(system: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("12345")
    os.utime(path, (1e9, 1e9))
    assert not is_held(path)
    with hold(path, busy=refuse):
        assert path.read_text().split()[0] == str(os.getpid())


def test_a_lock_of_another_machine_without_locks_names_it_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", missing)
    path = tmp_path / "lock"
    path.write_text("12345\nnode7\n")
    with pytest.raises(UserError, check=says("process 12345 on node7", f"remove {path}")), hold(path, busy=refuse):
        pass
    path.unlink()
    with hold(path, busy=refuse):
        pass


@pytest.mark.parametrize("left", ["", "no number", "0" * 30 + "1" * 30, None])
def test_a_process_that_is_gone_is_not_waited_for_by_name(left: str | None, tmp_path: Path) -> None:
    """The file has the number of the process before until the one that holds it has written its own."""
    path = tmp_path / "lock"
    if left is None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        left = str(gone.pid)
    path.write_text(left)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"^another process$"), hold(path, busy=refuse):
            raise AssertionError("two hold it")
        path.write_text(str(os.getpid()))
        with pytest.raises(UserError, match=rf"^process {os.getpid()}$"), hold(path, busy=refuse):
            raise AssertionError("two hold it")


def test_looking_never_keeps_a_process_from_its_lock(tmp_path: Path) -> None:
    path, done = tmp_path / "lock", threading.Event()
    path.touch()

    def look() -> None:
        while not done.is_set():
            is_held(path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(50):
            with hold(path, busy=refuse):
                pass
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def test_the_lock_of_a_folder_that_cannot_be_written_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    path.touch()
    descriptor, opened = os.open, io.open

    def denied(name: object) -> PermissionError:
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))

    def read_descriptor(name: Path, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise denied(name)
        return descriptor(name, flags, *rest, **more)

    def read_file(name: Path, mode: str = "r", *rest: Any, **more: Any) -> IO[Any]:
        if set(mode) & set("wax+"):
            raise denied(name)
        return opened(name, mode, *rest, **more)

    with another_process(path, "locks"):
        monkeypatch.setattr(os, "open", read_descriptor)  # a test that root runs is denied nothing
        monkeypatch.setattr(io, "open", read_file)
        assert is_held(path)
    assert not is_held(path)
    with pytest.raises(UserError, check=says(f"cannot write {tmp_path}: Permission denied")), hold(path, busy=refuse):
        pass


def test_a_file_system_that_refuses_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none_left)
    (tmp_path / "lock").touch()
    words = (
        f"cannot lock {tmp_path / 'lock'}: {os.strerror(errno.ENOLCK)}",
        "expected a file system with locks",
        "Likely cause",
    )
    with pytest.raises(UserError, check=says(*words)), hold(tmp_path / "lock", busy=refuse):
        pass
    with pytest.raises(UserError, check=says(*words)):
        is_held(tmp_path / "lock")
