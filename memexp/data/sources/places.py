"""Finds and opens the files of a source: every file once, and nothing that one could wait for without end."""

import errno
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from memexp.errors import UserError
from memexp.terminal import escape

DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What reading a file raises that cannot be read, is cut off or damaged."""

HIDDEN = "hidden files and folders left out"
NO_FILES = "pipes, sockets and devices left out"
AGAIN = "links to what is read already left out"
CIRCLE = "links to a folder above left out"
DANGLING = "links to nothing left out"


class Member(NamedTuple):
    """A file below a folder."""

    path: Path
    real: str
    """Where it is without links."""
    linked: bool
    """Whether it is a link itself."""


class Walked(NamedTuple):
    """What there is in a folder and in all folders below it."""

    root: Path
    members: list[Member]
    dangling: list[Path]
    """Links to nothing."""
    left_out: dict[str, list[str]]
    """Names of what is never taken, by the reason."""


class Picked(NamedTuple):
    """The files that are read."""

    files: list[Path]
    left_out: dict[str, list[str]]


def unreadable(file: Path, error: BaseException) -> UserError:
    """The error for a file that cannot be read or is damaged."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return UserError(
        f"cannot read {escape(file)}: {reason or type(error).__name__}; expected a file of documents that can be read"
    )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn errors of the system and of damaged files into one line that names `file`.

    Raises:
        UserError: `file` cannot be read.
    """
    try:
        yield
    except DAMAGED as error:
        raise unreadable(file, error) from error


def irregular(mode: int) -> str:
    """What a file is that is neither a regular file nor a folder, such as `a pipe`; empty for these two."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def open_file(file: Path) -> IO[bytes]:
    """Open a regular file; from anything else one could wait for bytes without end.

    Raises:
        UserError: it cannot be opened, or is no regular file.
    """
    with reading(file):
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket
                raise UserError(f"{escape(file)} is a socket or a device; expected a regular file") from error
            raise
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise UserError(f"{escape(file)} is {irregular(mode)}; expected a regular file. Copy what it gives to a file first")


def walk(root: Path, *, hidden: bool = False) -> Walked:
    """All files in a folder and below it. Links to folders are followed, each folder once.

    Args:
        hidden: also files and folders whose name begins with a dot.

    Raises:
        UserError: a folder cannot be read.
    """
    found = Walked(root, [], [], {})
    above = {_key(folder) for folder in root.resolve().parents}
    seen = {_key(root)}
    waiting, links = [root], list[Path]()
    while waiting or links:
        # Linked folders come last, so that a folder that is there itself is read under its own name.
        folder = waiting.pop() if waiting else links.pop(0)
        with reading(folder), os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        real = os.path.realpath(folder)
        linked = []
        for entry in listed:
            path = Path(folder, entry.name)
            if entry.name.startswith(".") and not hidden:
                _leave(found, HIDDEN, path)
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink() or error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise unreadable(path, error) from error
                found.dangling.append(path)
                continue
            if kind := irregular(status.st_mode):
                _leave(found, NO_FILES, f"{path.relative_to(root)}: {kind}")
            elif stat.S_ISREG(status.st_mode):
                link = entry.is_symlink()
                found.members.append(Member(path, os.path.realpath(path) if link else f"{real}/{entry.name}", link))
            elif entry.is_symlink():
                linked.append(path)
            elif (key := (status.st_dev, status.st_ino)) in seen:
                _leave(found, AGAIN, path)
            else:
                seen.add(key)
                waiting.append(path)
        links += linked
        while links and not waiting:
            key = _key(links[0])
            if key not in above and key not in seen:
                seen.add(key)
                break
            _leave(found, CIRCLE if key in above else AGAIN, links.pop(0))
    return found


def pick(walked: Walked, suffixes: Sequence[str] = ()) -> Picked:
    """The files with these endings (none: all), sorted by name, each once; and what is left out.

    A link to nothing is taken if it has such an ending, so that reading it says what is wrong.
    """
    endings = tuple(suffixes)
    others = f"files with other endings than {' '.join(endings[:6])}{' ...' if len(endings) > 6 else ''} left out"
    left_out = {what: list(names) for what, names in walked.left_out.items()}
    files, read = [], dict[str, Path]()
    for member in sorted(walked.members, key=lambda member: (member.linked, member.path)):
        name = str(member.path.relative_to(walked.root))
        if endings and not member.path.name.endswith(endings):
            left_out.setdefault(others, []).append(name)
        elif member.real in read:
            left_out.setdefault(AGAIN, []).append(name)
        else:
            read[member.real] = member.path
            files.append(member.path)
    for path in walked.dangling:
        if not endings or path.name.endswith(endings):
            files.append(path)
        else:
            left_out.setdefault(DANGLING, []).append(str(path.relative_to(walked.root)))
    return Picked(sorted(files), left_out)


def _leave(found: Walked, what: str, name: Path | str) -> None:
    shown = str(name.relative_to(found.root)) if isinstance(name, Path) else name
    found.left_out.setdefault(what, []).append(shown)


def _key(folder: Path) -> tuple[int, int]:
    with reading(folder):
        status = folder.stat()
    return status.st_dev, status.st_ino
