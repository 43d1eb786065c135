"""Differences between models and what can be said of them: an interval over documents and seeds, and whether the order of two
models is the one that was published.

Letters: R resamples, D documents, S seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

RESAMPLES = 10_000
SHARE = 0.95
"""Of what could have been found that an interval encloses."""

PUBLISHED_SHARE = 0.01
"""Where no spread is published, a paper decides a pair that is further apart than this, relative to the smaller number."""


@dataclass(frozen=True)
class Losses:
    """What one model loses on the same documents, a seed a row.

    Attributes:
        sums_SD: the loss of each document, such as its nats.
        weights_D: what it is divided by, such as its tokens.
    """

    seeds: tuple[int, ...]
    sums_SD: np.ndarray
    weights_D: np.ndarray

    @property
    def means_S(self) -> np.ndarray:
        return np.asarray(self.sums_SD.sum(1) / self.weights_D.sum())

    def of(self, seeds: Sequence[int]) -> "Losses":
        """Those of some of its seeds."""
        return Losses(tuple(seeds), self.sums_SD[[self.seeds.index(seed) for seed in seeds]], self.weights_D)

    def as_one_document(self) -> "Losses":
        return Losses(self.seeds, self.means_S[:, None], np.ones(1))


@dataclass(frozen=True)
class SeedSpread:
    """How far the difference of two models moves from one seed to another: a standard deviation and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Gap:
    """The mean of one model less that of another, with an interval.

    Attributes:
        low, high: None where neither documents nor seeds tell how far it may move.
        paired: the seeds that both have are compared one by one.
        documents, seeds: whether the interval is over them.
    """

    mean: float
    low: float | None
    high: float | None
    paired: bool
    documents: bool = True
    seeds: bool = True

    @property
    def decided(self) -> bool:
        """Whether it may be called a difference: its interval is over seeds as well, and leaves out zero."""
        return self.seeds and self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def seed_spread(groups: Iterable[Iterable[Losses]]) -> SeedSpread | None:
    """The spread of a difference over seeds, pooled over every two models of a group; None where no two share two seeds.

    What a seed does to all models alike cancels. Within the groups models are taken to be equally unsteady, for two seeds of one
    say nothing of it alone.
    """
    squares, count, freedom = 0.0, 0, 0
    for group in groups:
        models, before = [one for one in group if len(one.seeds) > 1], count
        for a, b in combinations(models, 2):
            if len(common := sorted(set(a.seeds) & set(b.seeds))) > 1:
                steps_S = a.of(common).means_S - b.of(common).means_S
                squares += float(np.square(steps_S - steps_S.mean()).sum())
                count += len(common) - 1
        if count > before:
            free = [len(one.seeds) - 1 for one in models]
            freedom += sum(free) - max(free)  # one of them is what the others differ from
    return SeedSpread((squares / count) ** 0.5, freedom) if count else None


def gap(a: Losses, b: Losses, spread: SeedSpread | None = None, *, seed: int = 0) -> Gap:
    """`a` less `b`, of the seeds that both have if there are any.

    Documents are drawn with the losses of both (what is hard for both cancels), seeds averaged; `spread` is what seeds add,
    and the two are independent. Without seeds in common it does not apply.
    """
    if not np.array_equal(a.weights_D, b.weights_D):
        a, b = a.as_one_document(), b.as_one_document()
    common = sorted(set(a.seeds) & set(b.seeds))
    if common:
        a, b = a.of(common), b.of(common)
    steps_D = a.sums_SD.mean(0) - b.sums_SD.mean(0)
    mean, documents = float(steps_D.sum() / a.weights_D.sum()), len(steps_D) > 1
    below, above = _over_documents(steps_D, a.weights_D, seed) if documents else (0.0, 0.0)
    over_seeds = 0.0
    if seeds := bool(common) and spread is not None:
        assert spread is not None
        over_seeds = _student(spread.freedom) * spread.deviation / len(common) ** 0.5
    if not (documents or seeds):
        return Gap(mean, None, None, bool(common), documents, seeds)
    low, high = mean - float(np.hypot(below, over_seeds)), mean + float(np.hypot(above, over_seeds))
    return Gap(mean, low, high, bool(common), documents, seeds)


def _over_documents(steps_D: np.ndarray, weights_D: np.ndarray, seed: int) -> tuple[float, float]:
    """How far below and above its mean the interval over documents goes: that of the bootstrap, as much wider as Student's is
    than the normal one for so few documents."""
    count = len(weights_D)
    draws_RD = _draws(count, seed)
    drawn_R = (draws_RD @ steps_D) / np.maximum(draws_RD @ weights_D, 1)
    low, high = np.quantile(drawn_R, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    mean, wider = steps_D.sum() / weights_D.sum(), widening(count)
    return float(wider * (mean - low)), float(wider * (high - mean))


def widening(documents: int) -> float:
    """What makes the bootstrap's interval of a mean one that is right for few documents."""
    return float(_student(documents - 1) / _student(np.inf) * (documents / (documents - 1)) ** 0.5)


@cache
def _student(freedom: float) -> float:
    """How many standard errors Student's interval goes each way."""
    from scipy.special import stdtrit  # takes a while to load

    return float(stdtrit(freedom, (1 + SHARE) / 2))


@cache
def _draws(count: int, seed: int) -> np.ndarray:
    """How often each resample takes each of `count` documents; the same for every pair of models."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)


@dataclass(frozen=True)
class Disagreement:
    """Two rows whose order is the other way round than published."""

    first: str
    second: str
    published: float
    ours: float


@dataclass(frozen=True)
class Agreement:
    """How far the order of rows is the published one.

    Attributes:
        published: pairs that the paper decides.
        decided: of these, pairs that we decide as well.
        agree: of these, pairs in the paper's order.
        close: pairs that the paper decides, that we have, and do not decide.
    """

    published: int
    decided: int
    agree: int
    disagreements: tuple[Disagreement, ...] = ()
    close: tuple[tuple[str, str], ...] = ()

    @property
    def share(self) -> float | None:
        """Trend agreement; None where no pair is decided."""
        return self.agree / self.decided if self.decided else None

    @property
    def coverage(self) -> float | None:
        """Of the pairs that the paper decides, those that we decide; None where it decides none."""
        return self.decided / self.published if self.published else None

    @staticmethod
    def together(parts: Iterable["Agreement"]) -> "Agreement":
        """That of several columns; which rows are close is a column's own matter."""
        parts = list(parts)
        disagreements = tuple(one for part in parts for one in part.disagreements)
        published, decided, agree = (
            sum(getattr(part, name) for part in parts) for name in ("published", "decided", "agree")
        )
        return Agreement(published, decided, agree, disagreements)


def published_decides(a: tuple[float, float | None], b: tuple[float, float | None]) -> bool:
    """Whether two values differ by more than the larger of the spreads beside them, or by 1 % where none is published."""
    known = [spread for _, spread in (a, b) if spread is not None]
    margin = max(known) if known else PUBLISHED_SHARE * min(abs(a[0]), abs(b[0]))
    return abs(a[0] - b[0]) > margin


def agreement(
    published: Mapping[str, tuple[float, float | None]], gaps: Mapping[tuple[str, str], Gap], rows: Sequence[str]
) -> Agreement:
    """Compare the order of every two rows with the published one.

    Args:
        published: value and spread of each row that has one.
        gaps: of two rows, in the order of `rows`, the first less the second; a pair that is missing is undecided.
    """
    known = [row for row in rows if row in published]
    pairs = [(a, b) for at, a in enumerate(known) for b in known[at + 1 :]]
    decisive = [(a, b) for a, b in pairs if published_decides(published[a], published[b])]
    known_to_us = [pair for pair in decisive if pair in gaps]
    ours = [pair for pair in known_to_us if gaps[pair].decided]
    close = tuple(pair for pair in known_to_us if not gaps[pair].decided)
    against = [(a, b) for a, b in ours if (published[a][0] > published[b][0]) != (gaps[a, b].mean > 0)]
    named = tuple(Disagreement(a, b, published[a][0] - published[b][0], gaps[a, b].mean) for a, b in against)
    return Agreement(len(decisive), len(ours), len(ours) - len(against), named, close)
