"""Where a gain comes from: by kind of token, by its frequency, by how long ago it was last seen, and from whose memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memexp.report.difference.token_kinds import KINDS
from memexp.report.difference.tokens import Difference
from memexp.runs.scores import TokenScores

_COUNTS = (1, 2, 10, 100, 1000)
"""Where groups of frequencies begin."""
_DISTANCES = (1, 64, 256, 1024, 4096, 16384, 65536)
"""Where groups of distances begin, in tokens."""


@dataclass(frozen=True)
class Group:
    """Tokens that have something in common: how many, their mean gain, and their part of the summed gain of all."""

    label: str
    tokens: int
    gain: float
    share: float


@dataclass(frozen=True)
class Breakdown:
    """A difference by groups of tokens.

    Attributes:
        kinds, frequency, distance: groups that hold any token.
        half: smallest share of the tokens that together make half of what all that gain do.
        foreign: mean gain from A to B where B reads the memory of another document; None where that was not scored.
    """

    kinds: list[Group]
    frequency: list[Group]
    distance: list[Group]
    half: float
    foreign: float | None

    def titled(self) -> list[tuple[str, str, list[Group]]]:
        """Title, what the labels count, and groups."""
        return [
            ("By kind of token", "kind", self.kinds),
            ("By frequency in the scored text", "times", self.frequency),
            ("By distance to the same token before it in the document", "tokens", self.distance),
        ]


@dataclass(frozen=True)
class Note:
    """A remark, and the command that it is about or nothing."""

    text: str
    command: str = ""


def notes(found: Difference, breakdown: Breakdown) -> list[Note]:
    """What the gain is with another document's memory, and how to have what is not there yet."""
    if not found.b.has_memory:
        return []
    remarks = []
    if breakdown.foreign is not None:
        remarks.append(
            Note(f"Mean gain with another document's memory in place of B's: {breakdown.foreign:+.4f} nats a token.")
        )
    elif len(found.b.documents) > 1:
        remarks.append(
            Note("B with another document's memory is not scored yet; this does it:", found.b.command(memory="foreign"))
        )
    if found.b.retrieved is None:
        remarks.append(
            Note(
                "Where B's memory was read is not kept; for a memory of pairs this keeps it:",
                found.b.command("retrieved=4"),
            )
        )
    return remarks


def break_down(found: Difference, kind_N: np.ndarray, foreign: TokenScores | None) -> Breakdown:
    """All groups of a difference.

    Args:
        kind_N: of each token, an index of `KINDS`.
        foreign: B with the memory of another document.
    """
    _, index_N, counts = np.unique(found.a.tokens_N, return_inverse=True, return_counts=True)
    frequency_N, distance_N = counts[index_N], since_last(found)
    distance_groups = np.where(distance_N == 0, 0, np.searchsorted(_DISTANCES, distance_N, side="right"))
    return Breakdown(
        kinds=sorted(_groups(found, kind_N, KINDS), key=lambda group: -group.share),
        frequency=_groups(found, np.searchsorted(_COUNTS, frequency_N, side="right") - 1, _ranges(_COUNTS)),
        distance=_groups(found, distance_groups, ["never before", *_ranges(_DISTANCES)]),
        half=half(found),
        foreign=None if foreign is None else float((found.a.nats_N - foreign.nats_N).mean()),
    )


def since_last(found: Difference) -> np.ndarray:
    """Scored tokens from each token back to the same one in its document; 0 where there is none."""
    order = np.lexsort((found.position_N, found.a.tokens_N, found.document_N))
    keys = [array[order] for array in (found.document_N, found.a.tokens_N)]
    again = np.logical_and(*(key[1:] == key[:-1] for key in keys))
    distance_N = np.zeros(len(order), dtype=np.int64)
    distance_N[order[1:]] = np.where(again, np.diff(found.position_N[order]), 0)
    return distance_N


def half(found: Difference) -> float:
    """The smallest share of the tokens that together make half of what all that gain do; 0 where none gains."""
    gains = np.sort(found.gain_N[found.gain_N > 0])[::-1]
    if not len(gains):
        return 0.0
    sums = np.cumsum(gains)
    return float(np.searchsorted(sums, sums[-1] / 2) + 1) / len(found.gain_N)


def _ranges(starts: Sequence[int]) -> list[str]:
    """'1', '2 to 9', ..., '1,000 and more'."""
    ends = [start - 1 for start in starts[1:]]
    between = [f"{a:,} to {b:,}" if a < b else f"{a:,}" for a, b in zip(starts, ends, strict=False)]
    return [*between, f"{starts[-1]:,} and more"]


def _groups(found: Difference, index_N: np.ndarray, labels: Sequence[str]) -> list[Group]:
    counts = np.bincount(index_N, minlength=len(labels))
    sums = np.bincount(index_N, weights=found.gain_N, minlength=len(labels))
    total = float(sums.sum()) or 1.0
    return [
        Group(label, int(count), float(gain / count), float(gain / total))
        for label, count, gain in zip(labels, counts, sums, strict=True)
        if count
    ]
