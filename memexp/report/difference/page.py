"""A difference as a single HTML file: the text coloured by gain, and where the memory was read for each token."""

import base64
import json
import zlib
from typing import Any

import numpy as np

from memexp.files import finite
from memexp.report.difference.breakdown import Breakdown, Note, notes
from memexp.report.difference.evidence import bars, evidence
from memexp.report.difference.settings import Side, differing, told
from memexp.report.difference.token_kinds import KINDS
from memexp.report.difference.token_text import Wording
from memexp.report.difference.tokens import Difference, bin_width, by_position
from memexp.report.escape import escape
from memexp.report.template import render

RUNNING = 256
"""Tokens in a running mean of the plots."""
ANSWERS_ALONE = Note(
    "Only answers are scored, so the text below is that of the answers alone; `memexp diff` shows what stands before those that gain and "
    "lose most."
)
_BINS = 12
"""Largest number of bins by position to show."""


def page(diff: Difference, summary: dict[str, Any], breakdown: Breakdown, wording: Wording) -> str:
    """The page as HTML.

    Args:
        summary: the content of summary.json.
    """
    return render(
        "difference",
        **summary,
        interval=summary["gain_interval_95"],
        differ=[(escape(name), *(escape(told(value)) for value in values)) for name, values in differing(diff).items()],
        trained=[escape(Side(scores).trained) for scores in (diff.a, diff.b)],
        # The gain with another document's memory has a card of its own.
        notes=[note for note in notes(diff, breakdown) if note.command] + [ANSWERS_ALONE] * diff.of_answers,
        evidence=evidence(summary),
        rest=[bars("by_frequency", summary["by_frequency"]), bars("by_position", _positions(diff))],
        running=RUNNING,
        # No text of a document may end the element that holds the data.
        data=json.dumps(finite(_data(diff, wording)), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    )


def _positions(diff: Difference) -> list[dict[str, Any]]:
    """Groups of tokens by position, as wide as a page has room for."""
    total = float(diff.gain_N.sum()) or 1.0
    return [
        {
            "label": f"{group.first:,} to {group.last:,}",
            "tokens": group.tokens,
            "gain": group.gain,
            "share": group.gain * group.tokens / total,
        }
        for group in by_position(diff, width=bin_width(diff, most=_BINS))
    ]


def _data(diff: Difference, wording: Wording) -> dict[str, Any]:
    """The data for the script: compressed columns of numbers, one entry for each token, and each distinct text once."""
    strings: dict[str, int] = {}
    text_N = np.array([strings.setdefault(text, len(strings)) for text in wording.texts])
    columns = {
        "a": _thousandths(diff.a.nats_N),
        "b": _thousandths(diff.b.nats_N),
        "text": text_N.astype("<u2" if len(strings) <= 1 << 16 else "<u4"),
        "kind": wording.kind_N.astype("u1"),
    }
    places = 0
    if diff.b.retrieved is not None:
        places = diff.b.retrieved.shape[1]
        columns["distance"] = diff.b.retrieved["distance"].T.ravel().astype("<u4")
        columns["weight"] = _thousandths(diff.b.retrieved["weight"].T.ravel())
    # Wide types come first, so that every column is aligned for its type.
    ordered = sorted(columns.items(), key=lambda item: -item[1].itemsize)
    packed = zlib.compress(b"".join(column.tobytes() for _, column in ordered))
    return {
        "documents": [
            {"id": escape(name), "tokens": end - start, "start": start, "gain": float(gain / max(end - start, 1))}
            for (name, _), (start, end), gain in zip(diff.a.documents, diff.spans, diff.gain_D, strict=True)
        ],
        "strings": list(strings),
        "kinds": KINDS,
        "places": places,
        "running": RUNNING,
        "layout": [(name, column.dtype.str, len(column)) for name, column in ordered],
        "columns": base64.b64encode(packed).decode(),
    }


def _thousandths(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.rint(values.astype(np.float64) * 1000), (1 << 16) - 1).astype("<u2")
