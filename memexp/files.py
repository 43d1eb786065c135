"""Files that are either whole or absent, and the checksums that tell whether they still are."""

import errno
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from memexp.errors import UserError
from memexp.lock import hold

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says when there is no room left."""

Content = bytes | Callable[[IO[bytes]], object]
"""What a file is to hold, or what writes that to the open binary file."""


def write_atomically(path: Path, content: Content) -> None:
    """Write `path` through a temporary file beside it, so that no reader ever sees half of it.

    Args:
        path: the file to make or replace; its folder is made when absent.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    with _beside(path, content) as written:
        Path(written).replace(path)


def write_together(folder: Path, files: Mapping[str, Content | None]) -> None:
    """Write files that belong together: all beside their places first, which they then take one right after another.

    Only one process at a time does so in a folder; what one that was killed left half written goes.

    Args:
        files: by name, None for one that is to go. The last one says that the others are whole: it is taken away first and takes
            its place last.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood there is untouched.
    """
    with _locked(folder), ExitStack() as stack:
        for left in folder.glob(".*.partial"):
            left.unlink()
        written = {
            name: stack.enter_context(_beside(folder / name, content))
            for name, content in files.items()
            if content is not None
        }
        (folder / list(files)[-1]).unlink(missing_ok=True)
        for name in files:
            if name in written:
                Path(written[name]).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Replace the text of `path` (empty where it is absent) by what `change` makes of it, whole or not at all.

    Only one process at a time does so in a folder, so that none loses what another has just written.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    with _locked(path.parent):
        write_text(path, change(path.read_text(encoding="utf-8") if path.exists() else ""))


def make_writable(folder: Path) -> None:
    """Make a folder, and see that it can be written.

    Raises:
        UserError: it cannot.
    """
    with _locked(folder):
        pass


def _locked(folder: Path) -> AbstractContextManager[None]:
    def wait(process: str) -> None:
        print(f"Waiting for {process}, which writes in {folder}", file=sys.stderr)

    return hold(folder / ".lock", busy=wait)


@contextmanager
def _beside(path: Path, content: Content) -> Iterator[str]:
    """The name of a temporary file beside `path` that holds what is to be there; it is gone in the end if it is not moved."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        yield name
    except OSError as error:
        full = ". Likely cause: the disk is full or a quota is used up" if error.errno in FULL else ""
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched{full}"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror}; expected a folder that can be written")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_atomically(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all."""
    write_atomically(path, as_json(content))


def as_json(content: Any) -> bytes:
    """`content` as files here hold it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: `path` is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}; expected JSON. Likely cause: it was edited or damaged"
        ) from error


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum of its content, so that a change by hand is seen."""
    write_json(path, sealed(content))


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """With a checksum of it under "checksum"."""
    return content | {"checksum": fingerprint(content)}


def read_sealed(path: Path) -> Any:
    """Read what `write_sealed` wrote; of an older file, which has no checksum, none is compared.

    Raises:
        UserError: `path` is absent, is not JSON, or is not as it was written.
    """
    return unsealed(read_json(path), path)


def unsealed(content: Any, path: Path) -> Any:
    """What `sealed` was given; where no checksum stands in it, none is compared.

    Args:
        path: where it stands, for the message.

    Raises:
        UserError: it is not as it was written.
    """
    if not isinstance(content, dict) or "checksum" not in content:
        return content
    bare = {name: value for name, value in content.items() if name != "checksum"}
    if content["checksum"] != (seen := fingerprint(bare)):
        raise UserError(
            f"{path} is not as memexp wrote it: its content has the checksum {seen[:8]}; expected {str(content['checksum'])[:8]}, "
            "which stands in it. Likely cause: it was edited"
        )
    return bare


def checksum(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """A SHA-256 of JSON content that does not depend on the order of keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def find_root(root: str | None) -> Path:
    """The folder that holds `data/` and `results/`: as asked, else the checkout, else the working directory."""
    if root is not None:
        path = Path(root).expanduser().resolve()
        if not root or not path.is_dir():
            raise UserError(f"root is {root!r}, which is no folder; expected one that exists")
        return path
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
