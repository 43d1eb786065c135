"""What a source has to say of what it did not take, or took otherwise than one could think: how many, and the first names."""

from collections.abc import Iterable, Mapping
from typing import Any

from memexp.terminal import escape

FIRST = 3
"""The number of names that are kept and said."""

ROWS_LEFT_OUT = "rows left out (data.source.bad_rows=skip)"


class Notes:
    """Counts, each with its first names, by what is said of them: `hidden files and folders left out: 2 (.git, .cache)`."""

    def __init__(self, noted: Mapping[str, Iterable[str]] | None = None) -> None:
        self._noted: dict[str, dict[str, Any]] = {}
        for what, names in (noted or {}).items():
            for name in names:
                self.add(what, name)

    def add(self, what: str, name: object) -> None:
        """Count one more."""
        note = self._noted.setdefault(what, {"count": 0, "first": []})
        note["count"] += 1
        if note["count"] <= FIRST:
            note["first"].append(escape(name))

    def content(self) -> dict[str, Any]:
        """For the manifest."""
        return self._noted


def said(notes: Mapping[str, Any]) -> list[str]:
    """A line for each note of a manifest."""
    return [
        f"{what}: {note['count']:,} ({', '.join(note['first'])}{', ...' if note['count'] > len(note['first']) else ''})"
        for what, note in notes.items()
    ]


def notes_of(source: Any) -> dict[str, Any]:
    """What a source has noted while it was read; empty for one that notes nothing."""
    notes = getattr(source, "notes", None)
    return notes.content() if isinstance(notes, Notes) else {}
