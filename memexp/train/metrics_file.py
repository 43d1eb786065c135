"""metrics.jsonl: one JSON object per line, never ahead of the checkpoint from which a run continues."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from memexp.errors import UserError
from memexp.files import SHORT, as_json_line, read_bytes, sealed, unreadable, unsealed, write_text
from memexp.machine import why_full
from memexp.terminal import same_command


class MetricsFile:
    """Appends lines to metrics.jsonl; on opening, it drops the lines after the given step."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """Open `path`, keeping only the lines of steps up to `upto`.

        Raises:
            UserError: the file cannot be read, a line is damaged, or the disk is full.
        """
        # Text after the last newline is an incomplete line: the process was killed, or the disk was full.
        lines = _read(path).split("\n")[:-1]
        kept = [line + "\n" for number, line in enumerate(lines, start=1) if _step(path, number, line) <= upto]
        write_text(path, "".join(kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, line: dict[str, Any]) -> None:
        """Append a line with its checksum."""
        try:
            self._file.write(as_json_line(sealed(line, digits=SHORT)) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def flush(self) -> None:
        """Force the appended lines to the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # closing tries again to write a line that `append` could not write
            self._file.close()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self._path}: {error.strerror}; the newest checkpoint is whole, and "
            f"{same_command()} continues from it{why_full(error, self._path)}"
        )


class NoMetrics:
    """In place of the file in a process that writes none, because the first process does."""

    def append(self, line: dict[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _read(path: Path) -> str:
    """The text of the file; empty if it is absent."""
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise unreadable(path, error, expected="one JSON object per line") from error


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(unsealed(json.loads(line), path)["step"])
    except (ValueError, TypeError, KeyError, UserError) as error:
        raise UserError(
            f"line {number} of {path} is {line[:40]!r}; expected JSON with a step. Likely cause: it was edited or damaged; "
            f"delete that line, then {same_command()} continues"
        ) from error
