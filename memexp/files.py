"""Files that are either whole or absent, and the checksums that tell whether they still are."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from memexp.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write `path` through a temporary file beside it, so that no reader ever sees half of it.

    Args:
        path: the file to make or replace; its folder is made when absent.
        write: is given the open binary file.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; expected a folder that can be written") from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched. "
            "Likely cause: the disk is full or a quota is used up"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
    write_json(path, content | {"checksum": fingerprint(content)})


def read_sealed(path: Path) -> Any:
    """Read what `write_sealed` wrote; of an older file, which has no checksum, none is compared.

    Raises:
        UserError: `path` is absent, is not JSON, or is not as it was written.
    """
    found = read_json(path)
    if not isinstance(found, dict) or "checksum" not in found:
        return found
    content = {name: value for name, value in found.items() if name != "checksum"}
    if found["checksum"] != (seen := fingerprint(content)):
        raise UserError(
            f"{path} is not as memexp wrote it: its content has the checksum {seen[:8]}; expected {str(found['checksum'])[:8]}, "
            "which stands in it. Likely cause: it was edited"
        )
    return content


def checksum(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(content: Any) -> str:
    """A SHA-256 of JSON content that does not depend on the order of keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
