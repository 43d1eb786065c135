"""Writing files whole or not at all, reading JSON, and checksums that show a later change."""

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from memexp.errors import UserError
from memexp.lock import hold
from memexp.machine import why_full

LARGEST = 1 << 30
"""Bytes of the largest file of text that is read at once."""

DEEPEST = 50
"""Lists and mappings within each other that are read back. What memexp writes has fewer than ten."""

DIGITS = 18
"""Digits of the longest whole number that is read back; it fits into 64 bits."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Half a character, as JSON can write it. No file and no terminal takes it."""

Content = bytes | Callable[[IO[bytes]], object]
"""The bytes of a file, or a function that writes them to the open binary file."""

SUMMARY = "summary.json"
"""The file that marks a run or a score as complete, because it is written last."""

SHORT = 8
"""Digits of the checksum of a line. It only has to show damage."""


def write_atomically(path: Path, content: Content, *, make_folder: bool = True) -> None:
    """Write `path` through a temporary file beside it, so that no reader ever sees half of it.

    Args:
        path: the file to make or replace.
        make_folder: make its folder when absent.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file at `path` is unchanged.
    """
    with _temporary(path, content, make_folder=make_folder) as name:
        Path(name).replace(path)


def write_together(folder: Path, files: Mapping[str, Content | None], *, summary: Mapping[str, Any]) -> None:
    """Write files that belong together: first all to temporary files, which are then renamed one right after another.

    Only one process at a time does this in a folder. Temporary files that a killed process left are deleted.

    Args:
        files: contents by file name; None deletes the file.
        summary: the content of `SUMMARY`, to which the checksums of the files are added under "files". It marks the files
            as complete: an older one is deleted first, and the new one is renamed last.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old files are unchanged.
    """
    with _locked(folder), ExitStack() as stack:
        for leftover in folder.glob(".*.partial"):
            leftover.unlink()
        temporary = {
            name: stack.enter_context(_temporary(folder / name, content))
            for name, content in files.items()
            if content is not None
        }
        sums = {name: checksum(Path(written)) for name, written in temporary.items()}
        last = stack.enter_context(_temporary(folder / SUMMARY, as_json(sealed({**summary, "files": sums}))))
        (folder / SUMMARY).unlink(missing_ok=True)
        for name in files:
            if name in temporary:
                Path(temporary[name]).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        Path(last).replace(folder / SUMMARY)


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Replace the text of `path` by `change(text)`, whole or not at all; an absent file counts as empty.

    Only one process at a time does this in a folder, so no process overwrites what another has just written.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file at `path` is unchanged.
    """
    with _locked(path.parent):
        write_text(path, change(path.read_text(encoding="utf-8") if path.exists() else ""))


def make_writable(folder: Path) -> None:
    """Make a folder and check that it can be written.

    Raises:
        UserError: it cannot be made or written.
    """
    with _locked(folder):
        pass


def refuse_as_output(path: Path, *, folder: bool = False) -> None:
    """Refuse a place where nothing can be written, before the work whose result shall go there. Nothing is made.

    Args:
        folder: files will be written into `path`; otherwise it is the file.

    Raises:
        UserError: something else is there, or it or the folder that it will be in cannot be written.
    """
    try:
        mode = path.stat().st_mode
    except NotADirectoryError:
        pass  # said below
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(path, error) from error
    else:
        if folder and not stat.S_ISDIR(mode):
            raise _unwritable(path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
        if not folder:
            _refuse_other_kinds(path)
    place = path
    while not place.exists() or (place == path and not folder):
        place = place.parent
    if not place.is_dir():
        raise _unwritable(path, OSError(errno.ENOTDIR, f"{place} is a file"))
    if not os.access(place, os.W_OK | os.X_OK):
        raise _unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _refuse_other_kinds(path: Path) -> None:
    """Refuse to replace a folder, a pipe or a device by a file.

    Raises:
        UserError: one of these is at `path`.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise UserError(f"cannot write {path}: it is {kind}; expected a file, or a place where nothing is")


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing was written but a lock, unless another process writes in it."""

    def leave(process: str) -> None:
        raise UserError(f"{folder} is in use by {process}")

    with suppress(OSError, UserError):
        if {path.name for path in folder.iterdir()} <= {".lock"}:
            with hold(folder / ".lock", busy=leave):
                (folder / ".lock").unlink(missing_ok=True)
                folder.rmdir()


def _locked(folder: Path) -> AbstractContextManager[None]:
    def wait(process: str) -> None:
        print(f"Waiting for {process}, which is writing in {folder}", file=sys.stderr)

    return hold(folder / ".lock", busy=wait)


@contextmanager
def _temporary(path: Path, content: Content, *, make_folder: bool = True) -> Iterator[str]:
    """Write `content` to a temporary file beside `path` and yield its name; it is deleted at the end unless it was renamed."""
    _refuse_other_kinds(path)
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        if isinstance(content, bytes) and Path(name).read_bytes() != content:
            raise OSError(errno.EIO, "it does not hold what was written to it")
        Path(name).chmod(0o644)
        yield name
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; the old file, if there was one, is untouched{why_full(error, path)}"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror}; expected a folder that can be written{why_full(error, path)}"
    )


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all.

    Raises:
        UserError: the text cannot be written as UTF-8.
    """
    write_atomically(path, encoded(text))


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all; numbers that are not finite become null.

    Raises:
        UserError: a text in it cannot be written as UTF-8.
    """
    write_atomically(path, as_json(content))


def as_json(content: Any) -> bytes:
    """`content` as indented JSON in UTF-8, as `write_json` writes it.

    Raises:
        UserError: a text in it cannot be written as UTF-8.
    """
    return encoded(json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def as_json_line(content: Any) -> str:
    """`content` as one line of JSON without its end; numbers that are not finite become null."""
    return json.dumps(finite(content), allow_nan=False)


def encoded(text: str) -> bytes:
    """The UTF-8 of a text.

    Raises:
        UserError: it has none, because a part of it was never valid UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        seen = text[max(0, error.start - 20) : error.end].splitlines()[-1]
        raise UserError(
            f"the text {seen!a} cannot be written to a file; expected UTF-8. Likely cause: a value or a file name on the command "
            "line is in another encoding, such as Latin-1"
        ) from error


def finite(content: Any) -> Any:
    """JSON content with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def read_json(path: Path, *, remedy: str = "") -> Any:
    """Read a JSON file.

    Args:
        remedy: what the user can do if the file is damaged.

    Raises:
        UserError: `path` is absent or is not JSON.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected a JSON file that memexp wrote") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error, expected="JSON", remedy=remedy) from error
    return parse_json(text, path, remedy=remedy)


def unreadable(path: Path, error: Exception, *, expected: str, remedy: str = "") -> UserError:
    """The error that a file of memexp's own cannot be read.

    Args:
        expected: what the file should hold.
        remedy: what the user can do if the file is damaged, which is the likely cause unless the system refused to read it.
    """
    if isinstance(error, PermissionError):
        end = "Likely cause: it belongs to another user"
    else:
        end = f"Likely cause: it was edited or damaged{'; ' if remedy else ''}{remedy}"
    seen = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"cannot read {path}: {seen}; expected {expected}. {end}")


def read_text(path: Path) -> str:
    """The text of a file, in UTF-8. The file may come from somebody else: a device or a pipe, which never ends, is not read.

    Raises:
        OSError: it cannot be read, or is no ordinary file.
        ValueError: it is too large, or is not UTF-8.
    """
    return read_bytes(path).decode("utf-8").replace("\r\n", "\n")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, as `read_text` reads it.

    Raises:
        OSError: it cannot be read, or is no ordinary file.
        ValueError: it is too large.
    """
    with open_ordinary(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise ValueError(f"it has {size:,} bytes, more than {LARGEST:,}")
        return file.read()


def open_ordinary(path: Path) -> BufferedReader:
    """Open a file to read it; of a pipe or device one could wait for bytes without end.

    Raises:
        OSError: it cannot be opened, or is no ordinary file.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no ordinary file")
    return file


def is_there(path: Path) -> bool:
    """Whether something is at `path`. What the system refuses to say counts as yes: whatever reads it then says why it cannot."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def folders_with(folder: Path, name: str) -> list[Path]:
    """The folders directly in `folder` that hold a file `name`, sorted; none if `folder` is absent.

    One that the system does not let us look into is among them, so that it is not left out without a word.

    Raises:
        OSError: `folder` cannot be read.
    """
    try:
        members = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [member for member in members if is_there(member / name)]


def parse_yaml(text: str, *, events: bool = False) -> Any:
    """The content of YAML text: lists, mappings, text, numbers and dates, and no other object.

    Args:
        events: give what the parser meets one after another, and build nothing.

    Raises:
        yaml.YAMLError: it is not YAML, or has a tag.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it is eight times as fast, where it is installed
    return yaml.parse(text, Loader=loader) if events else yaml.load(text, Loader=loader)


def parse_json(text: str, path: Path, *, remedy: str = "") -> Any:
    """The content of JSON text, which may come from somebody else.

    Args:
        path: where it was read, for the message.
        remedy: what the user can do if it is damaged.

    Raises:
        UserError: it is not JSON, or holds what memexp never writes: numbers beyond 64 bits, or deeply nested lists.
    """
    try:
        content = json.loads(text, parse_int=_whole_number)
        check_depth(content)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        seen = "lists or mappings are nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(
            f"cannot read {path}: {seen}; expected JSON as memexp writes it. Likely cause: it was edited or damaged"
            f"{remedy and f'; {remedy}'}"
        ) from error
    return content


def _whole_number(text: str) -> int:
    if len(text) > DIGITS + 1:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def check_depth(content: Any) -> None:
    """Refuse lists and mappings that are nested deeper than `DEEPEST`, before something walks them recursively.

    Raises:
        RecursionError: they are.
    """
    level, depth = [content], 0
    while level:
        if (depth := depth + 1) > DEEPEST + 1:
            raise RecursionError
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum of its content, so that a later edit is detected; its folder must exist."""
    write_atomically(path, as_json(sealed(content)), make_folder=False)


def sealed(content: Mapping[str, Any], *, digits: int = 64) -> dict[str, Any]:
    """`content` with the first digits of its checksum added under "checksum"; numbers that are not finite become None."""
    plain: dict[str, Any] = finite(content)
    return plain | {"checksum": fingerprint(plain)[:digits]}


def read_sealed(path: Path, *, remedy: str = "") -> Any:
    """Read a file that `write_sealed` wrote; an older file without a checksum is read unchecked.

    Args:
        remedy: what the user can do if the file is damaged.

    Raises:
        UserError: `path` is absent, is not JSON, or was changed after it was written.
    """
    return unsealed(read_json(path, remedy=remedy), path, remedy=remedy)


def unsealed(content: Any, path: Path, *, remedy: str = "") -> Any:
    """Undo `sealed`: check the checksum and remove it; content without a checksum is returned unchecked.

    Args:
        path: the file it was read from, for the message.
        remedy: what the user can do if the file is damaged.

    Raises:
        UserError: the content was changed after it was written.
    """
    if not isinstance(content, dict) or "checksum" not in content:
        return content
    bare = {name: value for name, value in content.items() if name != "checksum"}
    expected, seen = str(content["checksum"]), fingerprint(bare)
    if len(expected) not in (SHORT, len(seen)) or not seen.startswith(expected):
        raise _changed(path, seen, expected, "written in it", remedy)
    return bare


def verify(path: Path, expected: str, *, where: str, remedy: str = "") -> None:
    """Compare a file with the checksum that was kept of it.

    Args:
        where: where the checksum stands, for the message.
        remedy: what the user can do if the file is damaged.

    Raises:
        UserError: the file was changed after it was written, or cannot be read.
    """
    try:
        seen = checksum(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; expected the file that memexp wrote. {remedy}".rstrip(" .")
        ) from error
    if seen != expected:
        raise _changed(path, seen, expected, where, remedy)


def with_last_line(text: str) -> bytes:
    """`text` followed by a comment, in YAML, with the checksum of the text."""
    data = encoded(text)
    return data + f"# checksum: {hashlib.sha256(data).hexdigest()}\n".encode()


def without_last_line(data: bytes, path: Path) -> str:
    """Undo `with_last_line`: check the checksum and remove it; a text without one is returned unchecked.

    Raises:
        UserError: the text was changed after it was written.
        UnicodeDecodeError: it is not UTF-8.
    """
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    digits = last[-64:]
    if len(digits) < 64 or (b"checksum" not in last and not last.startswith(b"# ")):
        return data.decode()
    if (seen := hashlib.sha256(body + b"\n").hexdigest()) != digits.decode(errors="replace"):
        raise _changed(
            path,
            seen,
            digits.decode(errors="replace"),
            "in its last line",
            "delete that line if you edited the file yourself",
        )
    return (body + b"\n").decode()


def _changed(path: Path, seen: str, expected: str, where: str, remedy: str = "") -> UserError:
    return UserError(
        f"{path} is not as memexp wrote it: its content has the checksum {seen[:SHORT]}; expected {expected[:SHORT]}, "
        f"the checksum {where}. Likely cause: it was edited, or the disk or a copy damaged it{'; ' if remedy else ''}{remedy}"
    )


def checksum(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; of no pipe or device, as `open_ordinary`."""
    with open_ordinary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """The SHA-256 of JSON content, in hexadecimal; the order of keys does not change it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def find_root(root: str | None) -> Path:
    """The folder that holds `data/` and `results/`: `root` if given, else the checkout, else the working directory.

    Raises:
        UserError: `root` is not a folder.
    """
    if root is not None:
        path = Path(root).expanduser().resolve()
        if not root or not path.is_dir():
            raise UserError(f"root is {root!r}, which is not a folder; expected an existing folder")
        return path
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
