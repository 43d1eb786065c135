"""metrics.jsonl: one JSON object a line, never ahead of the checkpoint that a run goes on from."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from memexp.errors import UserError
from memexp.files import write_text


class MetricsFile:
    """Appends lines; opened at a step, it first drops what was logged after it."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """Open `path`, keeping only the lines of steps up to `upto`.

        Raises:
            UserError: a line is damaged, or the disk is full.
        """
        # What follows the last line's end is half a line, of a process that was killed or found the disk full.
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
        kept = [line + "\n" for number, line in enumerate(lines, start=1) if _step(path, number, line) <= upto]
        write_text(path, "".join(kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, line: dict[str, Any]) -> None:
        """Add a line."""
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def flush(self) -> None:
        """Bring what was appended to the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # it tries again to write the line that `append` has complained about
            self._file.close()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self._path}: {error.strerror}; the newest checkpoint is whole. "
            "Likely cause: the disk is full. Make room, and the same command goes on"
        )


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"line {number} of {path} is {line[:40]!r}; expected JSON with a step. It was edited or damaged: delete that "
            "line, and the same command goes on"
        ) from error
