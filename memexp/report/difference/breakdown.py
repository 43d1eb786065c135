"""A gain by groups of tokens: by kind, by frequency, and by distance to the last occurrence of the same token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memexp.report.difference.token_kinds import KINDS
from memexp.report.difference.tokens import Difference
from memexp.store.scores import TokenScores

_COUNTS = (1, 2, 10, 100, 1000)
"""Smallest frequency of each group."""
_DISTANCES = (1, 64, 256, 1024, 4096, 16384, 65536)
"""Smallest distance of each group, in tokens."""


@dataclass(frozen=True)
class Group:
    """A group of tokens: their number, their mean gain, and their share of the summed gain of all tokens."""

    label: str
    tokens: int
    gain: float
    share: float


@dataclass(frozen=True)
class Breakdown:
    """A difference by groups of tokens.

    Attributes:
        kinds, frequency, distance: the groups that are not empty. No distance is known if only answers are scored and the rest of the
            document is not there.
        half: the smallest share of the tokens that makes up half of all gains; see `half`.
        foreign: mean gain from A to B with the memory of another document; None if this was not scored.
    """

    kinds: list[Group]
    frequency: list[Group]
    distance: list[Group]
    half: float
    foreign: float | None

    def titled(self) -> list[tuple[str, str, list[Group]]]:
        """For each table its title, the head of its column of labels, and its groups."""
        titled = [
            ("By kind of token", "kind", self.kinds),
            ("By frequency in the scored text", "times", self.frequency),
            ("By distance to the last occurrence of the same token in the document", "tokens", self.distance),
        ]
        return [each for each in titled if each[2]]


@dataclass(frozen=True)
class Note:
    """A remark, and the command that it is about, if any."""

    text: str
    command: str = ""


def notes(diff: Difference, breakdown: Breakdown) -> list[Note]:
    """The gain with another document's memory, and the commands that make scores which are missing."""
    if not diff.b.has_memory:
        return []
    remarks = []
    if breakdown.foreign is not None:
        remarks.append(
            Note(f"Mean gain with another document's memory in place of B's: {breakdown.foreign:+.4f} nats a token.")
        )
    elif len(diff.b.documents) > 1:
        remarks.append(
            Note(
                "B with another document's memory is not scored yet; this command does it:",
                diff.b.command(memory="foreign"),
            )
        )
    if diff.b.retrieved is None and diff.b.retrieves and not diff.of_answers:
        remarks.append(
            Note(
                "The places where B's memory was read are not kept; this command keeps them:",
                diff.b.command("retrieved=4"),
            )
        )
    return remarks


def break_down(diff: Difference, kind_N: np.ndarray, foreign: TokenScores | None) -> Breakdown:
    """All groups of a difference.

    Args:
        kind_N: kind of each token, an index of `KINDS`.
        foreign: B with the memory of another document.
    """
    _, index_N, counts = np.unique(diff.a.tokens_N, return_inverse=True, return_counts=True)
    frequency_N, distances = counts[index_N], []
    if not diff.of_answers or diff.read is not None:
        distance_N = since_last(diff)
        distance_groups = np.where(distance_N == 0, 0, np.searchsorted(_DISTANCES, distance_N, side="right"))
        distances = _groups(diff, distance_groups, ["never before", *_ranges(_DISTANCES)])
    return Breakdown(
        kinds=sorted(_groups(diff, kind_N, KINDS), key=lambda group: -group.share),
        frequency=_groups(diff, np.searchsorted(_COUNTS, frequency_N, side="right") - 1, _ranges(_COUNTS)),
        distance=distances,
        half=half(diff),
        foreign=None if foreign is None else float((diff.a.nats_N - foreign.nats_N).mean()),
    )


def since_last(diff: Difference) -> np.ndarray:
    """Distance of each scored token to the last occurrence of the same token in its document, in tokens; 0 if there is none."""
    known = diff.known
    order = np.lexsort((known.index_R, known.tokens_R, known.document_R))
    keys = [array[order] for array in (known.document_R, known.tokens_R)]
    again = np.logical_and(*(key[1:] == key[:-1] for key in keys))
    distance_R = np.zeros(len(order), dtype=np.int64)
    distance_R[order[1:]] = np.where(again, np.diff(known.index_R[order]), 0)
    distance_N: np.ndarray = distance_R[known.place_N]
    return distance_N


def half(diff: Difference) -> float:
    """The smallest share of the tokens whose gains make up half of all gains; losses do not count. 0 if no token gains."""
    gains = np.sort(diff.gain_N[diff.gain_N > 0])[::-1]
    if not len(gains):
        return 0.0
    sums = np.cumsum(gains)
    return float(np.searchsorted(sums, sums[-1] / 2) + 1) / len(diff.gain_N)


def _ranges(starts: Sequence[int]) -> list[str]:
    """'1', '2 to 9', ..., '1,000 and more'."""
    ends = [start - 1 for start in starts[1:]]
    between = [f"{a:,} to {b:,}" if a < b else f"{a:,}" for a, b in zip(starts, ends, strict=False)]
    return [*between, f"{starts[-1]:,} and more"]


def _groups(diff: Difference, index_N: np.ndarray, labels: Sequence[str]) -> list[Group]:
    counts = np.bincount(index_N, minlength=len(labels))
    sums = np.bincount(index_N, weights=diff.gain_N, minlength=len(labels))
    total = float(sums.sum()) or 1.0
    return [
        Group(label, int(count), float(gain / count), float(gain / total))
        for label, count, gain in zip(labels, counts, sums, strict=True)
        if count
    ]
