"""The difference between two scores of the same tokens: what each token gains from A to B.

The gain is A's nats minus B's nats, so B predicts a token better if its gain is positive. Shapes: N scored tokens of D
documents, one after another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from memexp.errors import UserError
from memexp.report.statistics import Losses, gap
from memexp.store.scores import TokenScores

HELPED = 0.01
"""A token counts as helped if it gains more nats than this, and as hurt if it loses more."""
BIN = 512
"""Tokens in a bin of positions."""


@dataclass(frozen=True)
class Read:
    """The tokens that were read, R of them, of which N are scored; documents one after another.

    Attributes:
        tokens_R, document_R: the tokens, and the index of each one's document.
        place_N: which of them are scored, ascending.
        first: index of a document's first token here, in its document; 1 if that token is not known.
    """

    tokens_R: np.ndarray
    document_R: np.ndarray
    place_N: np.ndarray
    first: int

    @staticmethod
    def of(documents: Sequence[np.ndarray], scored: Sequence[np.ndarray]) -> "Read":
        """Whole documents, of which these tokens are scored."""
        lengths = np.array([len(document) for document in documents])
        starts = np.cumsum(lengths) - lengths
        places = [start + indices for start, indices in zip(starts.tolist(), scored, strict=True)]
        return Read(np.concatenate(documents), np.repeat(np.arange(len(documents)), lengths), np.concatenate(places), 0)

    @cached_property
    def index_R(self) -> np.ndarray:
        """Index of each token in its document."""
        starts = np.searchsorted(self.document_R, np.arange(self.document_R[-1] + 1))
        index_R: np.ndarray = np.arange(len(self.tokens_R)) - starts[self.document_R] + self.first
        return index_R


@dataclass(frozen=True)
class Difference:
    """Two scores of the same tokens.

    Attributes:
        read: what was read, if only answers are scored and the corpus has the rest; None: only the scored tokens are known.
    """

    a: TokenScores
    b: TokenScores
    read: Read | None = None

    @property
    def of_answers(self) -> bool:
        """Whether only answers are scored, so that other tokens stand between and before them."""
        return "accuracy" in self.a.summary

    @cached_property
    def known(self) -> Read:
        """The tokens that are known: those of `read`, or else those that are scored."""
        if self.read is not None:
            return self.read
        return Read(self.a.tokens_N, self.document_N, np.arange(len(self.a.tokens_N)), 1)

    @cached_property
    def gain_N(self) -> np.ndarray:
        """The gain of each token in nats, float64."""
        return self.a.nats_N - self.b.nats_N

    @cached_property
    def document_N(self) -> np.ndarray:
        """Index of each token's document."""
        return np.repeat(np.arange(len(self.a.documents)), self.a.lengths)

    @cached_property
    def position_N(self) -> np.ndarray:
        """Index of each token among the scored tokens of its document, from 1, because a first token is never scored."""
        starts = np.cumsum(self.a.lengths) - self.a.lengths
        position_N: np.ndarray = np.arange(len(self.gain_N)) - starts[self.document_N] + 1
        return position_N

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each document's tokens; the end is excluded."""
        ends = np.cumsum(self.a.lengths).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @cached_property
    def gain_D(self) -> np.ndarray:
        """Summed gain of each document."""
        return np.bincount(self.document_N, weights=self.gain_N, minlength=len(self.a.documents))

    @property
    def mean(self) -> float:
        """Mean gain in nats per token."""
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
        UserError: both are the same score, or they are of different tokens.
    """
    names = f"{a.label} and {b.label}"
    if a.path == b.path:
        raise UserError(
            f"{names} are the same score, {a.path}; expected two, such as RUN and RUN@512, or RUN and RUN@4096-off"
        )
    if a.summary["tokenizer_hash"] != b.summary["tokenizer_hash"]:
        hashes = " and ".join(str(scores.summary["tokenizer_hash"])[:8] for scores in (a, b))
        raise UserError(
            f"{names} read tokens of different tokenizers ({hashes}), which cannot be paired; expected the same. "
            "`memexp table metric=bits_per_byte` compares them as a whole"
        )
    if a.documents != b.documents:
        where = next(
            (at for at, pair in enumerate(zip(a.documents, b.documents, strict=False)) if pair[0] != pair[1]), None
        )
        counts = f"{len(a.documents)} and {len(b.documents)} documents"
        first = "" if where is None else f", the first that differ: {_named(a, where)} and {_named(b, where)}"
        raise UserError(
            f"{names} scored different documents ({counts}{first}); expected the same. Likely cause: the corpus was "
            "prepared again, or one score is of other data; score both again with force=true"
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


def interval(diff: Difference) -> tuple[float, float] | None:
    """The 95 % interval of the mean gain over documents, as in a table with one seed.

    It is over documents, because the tokens of a document are not independent.

    Returns:
        Nats per token; None for a single document.
    """
    lengths_D = diff.a.lengths
    gain, zero = Losses((0,), diff.gain_D[None], lengths_D), Losses((0,), np.zeros((1, len(lengths_D))), lengths_D)
    mean = gap(gain, zero)
    return None if mean.low is None or mean.high is None else (mean.low, mean.high)


@dataclass(frozen=True)
class Bin:
    """Mean gain of the tokens at positions `first` to `last`, both included, over all documents."""

    first: int
    last: int
    tokens: int
    gain: float


def bin_width(diff: Difference, *, most: int) -> int:
    """The smallest multiple of `BIN` that cuts the longest document into at most `most` bins."""
    return BIN * math.ceil(int(diff.position_N.max()) / (BIN * most))


def by_position(diff: Difference, *, width: int = BIN) -> list[Bin]:
    """Mean gain by position among the scored tokens of a document, in bins of `width`."""
    index = (diff.position_N - 1) // width
    counts, sums = np.bincount(index), np.bincount(index, weights=diff.gain_N)
    return [
        Bin(at * width + 1, (at + 1) * width, int(count), float(total / count))
        for at, (count, total) in enumerate(zip(counts, sums, strict=True))
    ]


def extremes(diff: Difference, top: int) -> tuple[list[int], list[int]]:
    """Indices of the tokens that gain most, and of those that lose most; the largest first, ties in reading order."""
    order = np.argsort(-diff.gain_N, kind="stable")
    gainers = [int(at) for at in order[:top] if diff.gain_N[at] > 0]
    order = np.argsort(diff.gain_N, kind="stable")
    return gainers, [int(at) for at in order[:top] if diff.gain_N[at] < 0]
