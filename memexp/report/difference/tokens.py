"""The difference between two scores of the same tokens: what each token gains on the way from A to B.

Gain is A's nats less B's, so a positive gain says that B predicts the token better. Shapes: N scored tokens of D
documents, one after another.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from memexp.errors import UserError
from memexp.report.statistics import Losses, gap
from memexp.runs.scores import TokenScores

HELPED = 0.01
"""Nats from which a token counts as helped, or below its negative as hurt."""
BIN = 512
"""Tokens of a bin of positions."""


@dataclass(frozen=True)
class Difference:
    """Two scores of the same tokens."""

    a: TokenScores
    b: TokenScores

    @cached_property
    def gain_N(self) -> np.ndarray:
        """Nats that each token gains; float64."""
        return self.a.nats_N - self.b.nats_N

    @cached_property
    def document_N(self) -> np.ndarray:
        """Index of each token's document."""
        return np.repeat(np.arange(len(self.a.documents)), self.a.lengths)

    @cached_property
    def position_N(self) -> np.ndarray:
        """Index of each token in its document, or of an answer's among these, from 1: a first token is never scored."""
        starts = np.cumsum(self.a.lengths) - self.a.lengths
        position_N: np.ndarray = np.arange(len(self.gain_N)) - starts[self.document_N] + 1
        return position_N

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last (excluded) index of each document's tokens."""
        ends = np.cumsum(self.a.lengths).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @cached_property
    def gain_D(self) -> np.ndarray:
        """Summed gain of each document."""
        return np.bincount(self.document_N, weights=self.gain_N, minlength=len(self.a.documents))

    @property
    def mean(self) -> float:
        """Mean gain in nats a token."""
        return float(self.gain_N.mean())

    @property
    def helped(self) -> float:
        """Share of tokens that gain more than `HELPED` nats."""
        return float((self.gain_N > HELPED).mean())

    @property
    def hurt(self) -> float:
        """Share of tokens that lose more than `HELPED` nats."""
        return float((self.gain_N < -HELPED).mean())


def difference(a: TokenScores, b: TokenScores) -> Difference:
    """Pair two scores.

    Raises:
        UserError: they are one score, or of other tokens.
    """
    names = f"{a.label} and {b.label}"
    if a.path == b.path:
        raise UserError(
            f"{names} are one score, {a.path}; expected two, such as RUN and RUN@512, or RUN and RUN@4096-off"
        )
    if a.summary["tokenizer_hash"] != b.summary["tokenizer_hash"]:
        hashes = " and ".join(str(one.summary["tokenizer_hash"])[:8] for one in (a, b))
        raise UserError(
            f"{names} read tokens of different tokenizers ({hashes}), which cannot be paired; expected the same. "
            "`memexp table metric=bits_per_byte` compares them as a whole"
        )
    if a.documents != b.documents:
        where = next(
            (i for i, pair in enumerate(zip(a.documents, b.documents, strict=False)) if pair[0] != pair[1]), None
        )
        counts = f"{len(a.documents)} and {len(b.documents)} documents"
        first = "" if where is None else f", first unlike: {_named(a, where)} and {_named(b, where)}"
        raise UserError(
            f"{names} scored different documents ({counts}{first}); expected the same. Likely cause: the corpus was "
            "prepared again, or one is of other data; score both again with force=true"
        )
    if a.summary["tokens_hash"] != b.summary["tokens_hash"] or not np.array_equal(a.tokens_N, b.tokens_N):
        raise UserError(
            f"{names} scored different tokens of the same documents; expected the same. Likely cause: the corpus was "
            "prepared again between them; score both again with force=true"
        )
    return Difference(a, b)


def _named(scores: TokenScores, index: int) -> str:
    name, tokens = scores.documents[index]
    return f"{name} ({tokens:,} tokens)"


def interval(found: Difference) -> tuple[float, float] | None:
    """The 95 % interval of the mean gain over documents, for tokens of one document are not independent: that of tables, of one seed.

    Returns:
        Nats a token; None for one document, which says nothing of others.
    """
    lengths_D = found.a.lengths
    gain, nothing = Losses((0,), found.gain_D[None], lengths_D), Losses((0,), np.zeros((1, len(lengths_D))), lengths_D)
    both = gap(gain, nothing)
    return None if both.low is None or both.high is None else (both.low, both.high)


@dataclass(frozen=True)
class Bin:
    """Mean gain of the tokens at positions `first` to `last`, both included, over all documents."""

    first: int
    last: int
    tokens: int
    gain: float


def bin_width(found: Difference, *, most: int) -> int:
    """The smallest multiple of `BIN` that cuts the longest document into at most that many bins."""
    return BIN * math.ceil(int(found.position_N.max()) / (BIN * most))


def by_position(found: Difference, *, width: int = BIN) -> list[Bin]:
    """Mean gain by place among the scored tokens of a document, in bins of `width`."""
    index = (found.position_N - 1) // width
    counts, sums = np.bincount(index), np.bincount(index, weights=found.gain_N)
    return [
        Bin(at * width + 1, (at + 1) * width, int(count), float(total / count))
        for at, (count, total) in enumerate(zip(counts, sums, strict=True))
    ]


def extremes(found: Difference, top: int) -> tuple[list[int], list[int]]:
    """Indices of the tokens that gain most and of those that lose most, the largest first; ties in order of reading."""
    order = np.argsort(-found.gain_N, kind="stable")
    gainers = [int(at) for at in order[:top] if found.gain_N[at] > 0]
    order = np.argsort(found.gain_N, kind="stable")
    return gainers, [int(at) for at in order[:top] if found.gain_N[at] < 0]
