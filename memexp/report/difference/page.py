"""A difference as one HTML file that needs no other: the text coloured by gain, with what the memory was read at."""

import base64
import json
import zlib
from typing import Any

import numpy as np

from memexp.report.difference.breakdown import Breakdown, Group, notes
from memexp.report.difference.token_kinds import KINDS
from memexp.report.difference.token_text import Wording
from memexp.report.difference.tokens import Bin, Difference, bin_width, by_position
from memexp.report.escape import escape
from memexp.report.template import render

RUNNING = 256
"""Tokens of the plots' running mean."""
_BINS = 12
"""Bins by position that are shown at most."""


def page(found: Difference, summary: dict[str, Any], breakdown: Breakdown, wording: Wording) -> str:
    """The page.

    Args:
        summary: what summary.json holds.
    """
    return render(
        "difference",
        **summary,
        interval=summary["gain_interval_95"],
        notes=notes(found, breakdown),
        tables=_tables(found, breakdown),
        running=RUNNING,
        # Nothing in a document may end the element that holds it.
        data=json.dumps(_data(found, wording), separators=(",", ":")).replace("<", "\\u003c"),
    )


def _tables(found: Difference, breakdown: Breakdown) -> list[tuple[str, str, list[Group]]]:
    """Title, head of the first column, and rows of each."""
    total = float(found.gain_N.sum()) or 1.0
    places = [_group(one, total) for one in by_position(found, width=bin_width(found, most=_BINS))]
    return [*breakdown.titled(), ("By place among the scored tokens of a document", "tokens", places)]


def _group(one: Bin, total: float) -> Group:
    return Group(f"{one.first:,} to {one.last:,}", one.tokens, one.gain, one.gain * one.tokens / total)


def _data(found: Difference, wording: Wording) -> dict[str, Any]:
    """What the script reads: numbers of all tokens in columns, packed, and each text once."""
    strings: dict[str, int] = {}
    text_N = np.array([strings.setdefault(text, len(strings)) for text in wording.texts])
    columns = {
        "a": _thousandths(found.a.nats_N),
        "b": _thousandths(found.b.nats_N),
        "text": text_N.astype("<u2" if len(strings) <= 1 << 16 else "<u4"),
        "kind": wording.kind_N.astype("u1"),
    }
    places = 0
    if found.b.retrieved is not None:
        places = found.b.retrieved.shape[1]
        columns["distance"] = found.b.retrieved["distance"].T.ravel().astype("<u4")
        columns["weight"] = _thousandths(found.b.retrieved["weight"].T.ravel())
    # The wide ones first, so that each begins where its type may.
    ordered = sorted(columns.items(), key=lambda item: -item[1].itemsize)
    packed = zlib.compress(b"".join(column.tobytes() for _, column in ordered))
    return {
        "documents": [
            {"id": escape(name), "tokens": end - start, "start": start, "gain": float(gain / max(end - start, 1))}
            for (name, _), (start, end), gain in zip(found.a.documents, found.spans, found.gain_D, strict=True)
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
