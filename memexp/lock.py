"""Locks between processes: a file that one process at a time holds."""

import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memexp.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

TRIES = 5
PAUSE_SECONDS = 0.02
"""`is_held` takes a free lock for an instant. Who meets it in that instant tries again, so many times and so long apart."""

HEALING_SECONDS = 3.0
"""How long filelock watches a file that is no lock of its own, such as a copy from a file system with locks, until it replaces it."""


@contextmanager
def hold(path: Path, *, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; a process that dies lets go of it.

    On a file system without locks, the presence of the file is the lock. A file that a process of this machine left when
    it was killed does not count there; that of another machine has to be removed by hand.

    Args:
        path: the lock file; its folder is made when absent.
        busy: is called with words for the process that holds the lock, before that is waited for. An error that it raises
            ends the wait.

    Raises:
        UserError: the file cannot be written, or the file system refuses to lock it.
    """
    from filelock import FileLock, SoftFileLock

    lock = FileLock(path, poll_interval=PAUSE_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flock not supported")
            if not _acquired(lock, TRIES * PAUSE_SECONDS):
                by_file = isinstance(lock, SoftFileLock)  # which it becomes where the file system has no locks
                if not (isinstance(lock, SoftFileLock) and lock.pid is None and _acquired(lock, HEALING_SECONDS)):
                    busy(_holder(path, by_file=by_file))
                    lock.acquire()
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        if not isinstance(lock, SoftFileLock):  # which writes more than this by itself
            _sign(path)
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`; takes it for an instant where none does.

    Raises:
        UserError: the file cannot be read, or the file system refuses to tell.
    """
    from filelock import SoftFileLock, Timeout, lock_descriptor

    try:
        with path.open("rb") as file:  # which somebody else may have made: it need not be writable
            for _ in range(TRIES):
                if lock_descriptor(file.fileno(), blocking=False):
                    return False
                time.sleep(PAUSE_SECONDS)
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise _unusable(path, error) from error
    lock = SoftFileLock(path, timeout=TRIES * PAUSE_SECONDS, poll_interval=PAUSE_SECONDS)
    if lock.pid is None:
        return False
    try:
        # More than one try, for the first may only remove what a killed process has left.
        with lock:
            return False
    except Timeout:
        return True
    except OSError as error:
        raise _unusable(path, error) from error


def _acquired(lock: "BaseFileLock", seconds: float) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def _sign(path: Path) -> None:
    try:
        path.write_text(str(os.getpid()), encoding="ascii")
    except OSError as error:
        raise _unusable(path, error) from error


def _holder(path: Path, *, by_file: bool) -> str:
    try:
        words = path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        words = []  # it has let go just now
    process = f"process {words[0]}" if words else "another process"
    if not by_file:
        return process
    machine = f" on {words[1]}" if len(words) > 1 else ""
    return f"{process}{machine} (if that is no longer there, remove {path})"


def _unusable(path: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        return UserError(
            f"cannot lock {path}: {error.strerror}; expected a file system with locks. Likely cause: it is mounted without "
            "them; give root=DIR on another"
        )
    return UserError(f"cannot write {path.parent}: {error.strerror}; expected a folder that can be written")
