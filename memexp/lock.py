"""Locks between processes: a file that one process at a time holds."""

import errno
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memexp.errors import UserError
from memexp.machine import why_full

if TYPE_CHECKING:
    from filelock import BaseFileLock

TRIES = 5
PAUSE_SECONDS = 0.02
"""How often, and after which pause, a process tries a lock again: `is_held` of another process may hold it for an instant."""

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers of file systems that refuse locks. Those that answer ENOSYS have none: there a file's presence is the lock."""

HEALING_SECONDS = 3.0
"""How long filelock watches a lock file that it did not write, such as a copy from a file system with locks, before it replaces
the file."""


@contextmanager
def hold(path: Path, *, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; a process that dies releases it.

    On a file system without locks, the presence of the file is the lock. If the process that wrote it was killed on this
    machine, the file does not count. If it ran on another machine, the file has to be removed by hand.

    Args:
        path: the lock file; its folder is made when absent.
        busy: called with a description of the process that holds the lock, before this function waits for it. An error
            that it raises ends the wait.

    Raises:
        UserError: the file cannot be written, is no ordinary file, or the file system refuses to lock it.
    """
    from filelock import FileLock, SoftFileLock

    lock = FileLock(path, poll_interval=PAUSE_SECONDS)
    _refuse_other_kinds(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flock not supported")
            if not _acquired_in_new_folder(lock, path.parent):
                by_file = isinstance(lock, SoftFileLock)  # filelock changes the class on a file system without locks
                if not (isinstance(lock, SoftFileLock) and lock.pid is None and _acquired(lock, HEALING_SECONDS)):
                    busy(_holder(path, by_file=by_file))
                    lock.acquire()
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        if not isinstance(lock, SoftFileLock):  # a SoftFileLock writes the process id itself
            _sign(path)
        yield
    finally:
        lock.release()


def is_ours(path: Path) -> bool:
    """Whether the lock file `path`, which this process took, is still there and not another process's by now."""
    try:
        return path.read_text(encoding="ascii", errors="replace").split()[:1] == [str(os.getpid())]
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`; if none does, this takes the lock for an instant.

    Raises:
        UserError: the file cannot be read, is no ordinary file, or the file system refuses to answer.
    """
    from filelock import SoftFileLock, Timeout, lock_descriptor

    _refuse_other_kinds(path)
    try:
        with path.open("rb") as file:  # read only: the file may belong to another user
            for _ in range(TRIES):
                if lock_descriptor(file.fileno(), blocking=False):
                    return False
                time.sleep(PAUSE_SECONDS)
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise _unusable(path, error) from error
        if error.errno != errno.ENOSYS:
            raise UserError(
                f"cannot read {path}: {error.strerror}; expected a file that tells whether a process works in its folder"
            ) from error
    lock = SoftFileLock(path, timeout=TRIES * PAUSE_SECONDS, poll_interval=PAUSE_SECONDS)
    if lock.pid is None:
        return False
    try:
        # More than one try: the first may only remove the file of a killed process.
        with lock:
            return False
    except Timeout:
        return True
    except OSError as error:
        raise _unusable(path, error) from error


def _refuse_other_kinds(path: Path) -> None:
    """Refuse a link, a pipe or a device. The folder may come from somebody else: a link could lead to any file, which would be
    overwritten, and opening a pipe can wait without end.

    Raises:
        UserError: `path` is there and is no ordinary file.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # it is absent; or its folder cannot be read, which is said where the file is opened
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no ordinary file"
        raise UserError(f"{path} is {kind}; expected a lock file. Remove it")


def _acquired_in_new_folder(lock: "BaseFileLock", folder: Path) -> bool:
    for _ in range(TRIES):  # another process may remove a folder in which it has written nothing
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return _acquired(lock, TRIES * PAUSE_SECONDS)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


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
        words = []  # the lock was released just now
    process = f"process {words[0]}" if words else "another process"
    if not by_file:
        # until the holder has written its own number, the file has that of the one before, which may be gone
        return process if words and _lives(words[0]) else "another process"
    machine = f" on {words[1]}" if len(words) > 1 else ""
    return f"{process}{machine} (if that process no longer runs, remove {path})"


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _unusable(path: Path, error: OSError) -> UserError:
    if error.errno in NO_LOCKS:
        return UserError(
            f"cannot lock {path}: {error.strerror}; expected a file system with locks. Likely cause: this one is mounted without "
            "locks; set root=DIR to a folder on another file system"
        )
    full = why_full(error, path)
    return UserError(
        f"cannot write {path if full else path.parent}: {error.strerror}; expected a folder that can be written{full}"
    )
