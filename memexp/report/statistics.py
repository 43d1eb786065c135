"""Statistics of differences between models: intervals over documents and seeds, and agreement with a published order.

Letters: R resamples, D documents, S seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

RESAMPLES = 10_000
SHARE = 0.95
"""Coverage of a confidence interval."""

POWER = 0.8
"""How often an experiment that is large enough decides, if difference and spreads are as measured."""

MOST_SEEDS = 50
"""No calculation asks for more seeds."""

PUBLISHED_SHARE = 0.01
"""Without a published spread, two numbers differ if they are further apart than this share of the smaller number."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for one value) of n values."""

    mean: float
    deviation: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        mean = float(np.mean(values))
        known = len(values) > 1 and np.isfinite(mean)  # a diverged value has no distance to the others
        return Spread(mean, float(np.std(values, ddof=1)) if known else None, len(values))


@dataclass(frozen=True)
class Losses:
    """The losses of one model on a set of documents, one row for each seed.

    Attributes:
        sums_SD: the loss of each document, such as its nats.
        weights_D: what the sums are divided by, such as the tokens of each document.
    """

    seeds: tuple[int, ...]
    sums_SD: np.ndarray
    weights_D: np.ndarray

    @property
    def means_S(self) -> np.ndarray:
        return np.asarray(self.sums_SD.sum(1) / self.weights_D.sum())

    def of(self, seeds: Sequence[int]) -> "Losses":
        """The losses of some of the seeds, in the given order."""
        return Losses(tuple(seeds), self.sums_SD[[self.seeds.index(seed) for seed in seeds]], self.weights_D)

    def as_one_document(self) -> "Losses":
        return Losses(self.seeds, self.means_S[:, None], np.ones(1))


@dataclass(frozen=True)
class SeedSpread:
    """How much the difference of two models varies over seeds: a standard deviation and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Gap:
    """The mean of one model minus the mean of another, with a 95 % interval.

    Attributes:
        low, high: the interval; None if it can be computed neither over documents nor over seeds.
        paired: whether the models are compared on the seeds that both have.
        documents, seeds: whether the interval is over documents, and over seeds.
        over_documents: how far the interval over documents alone goes from the mean towards zero.
        spread, runs: the spread over seeds, and the number of seeds that the mean is over.
    """

    mean: float
    low: float | None
    high: float | None
    paired: bool
    documents: bool = True
    seeds: bool = True
    over_documents: float = 0.0
    spread: SeedSpread | None = None
    runs: int = 0

    @property
    def decided(self) -> bool:
        """Whether it may be called a difference: the interval is also over seeds, and does not contain zero."""
        return self.seeds and self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def seeds_to_decide(self, *, documents: float = 1.0) -> int | None:
        """The smallest number of seeds that decides it with probability `POWER`, if difference and spreads are as measured.

        None if that is more than `MOST_SEEDS`, if there is no difference, or if the spread over seeds is not known.

        Args:
            documents: how many times as many documents are scored as now.
        """
        if self.spread is None or self.mean == 0:
            return None
        of_documents = self.over_documents / documents**0.5
        for count in range(self.runs, MOST_SEEDS + 1):
            # only the two models get more seeds, so each seed adds one degree of freedom to what all models share
            freedom, of_seeds = self.spread.freedom + count - self.runs, self.spread.deviation / count**0.5
            interval = np.hypot(of_documents, _student(freedom) * of_seeds)
            error = np.hypot(of_documents / _normal((1 + SHARE) / 2), of_seeds)
            if interval + _normal(POWER) * error <= abs(self.mean):
                return count
        return None


def seed_spread(groups: Iterable[Iterable[Losses]]) -> SeedSpread | None:
    """The spread of a difference over seeds, pooled over all pairs of models in a group; None if no pair shares two seeds.

    An effect that a seed has on all models cancels. All models are assumed to vary equally over seeds, because two seeds of a
    model are too few to estimate its own spread.
    """
    squares, count, freedom = 0.0, 0, 0
    for group in groups:
        models, before = [model for model in group if len(model.seeds) > 1], count
        for a, b in combinations(models, 2):
            if len(common := sorted(set(a.seeds) & set(b.seeds))) > 1:
                steps_S = a.of(common).means_S - b.of(common).means_S
                squares += float(np.square(steps_S - steps_S.mean()).sum())
                count += len(common) - 1
        if count > before:
            free = [len(model.seeds) - 1 for model in models]
            freedom += sum(free) - max(free)  # one model is the reference of the differences
    return SeedSpread((squares / count) ** 0.5, freedom) if count else None


def gap(a: Losses, b: Losses, spread: SeedSpread | None = None, *, seed: int = 0) -> Gap:
    """`a` minus `b`, over the seeds that both have, or over all seeds if they share none.

    The bootstrap draws documents with the losses of both models, averaged over seeds, so what is hard for both cancels.
    `spread` adds the variation over seeds, which is independent of the documents. Without common seeds it is not used.
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
    towards_zero = below if mean > 0 else above
    return Gap(mean, low, high, bool(common), documents, seeds, towards_zero, spread if seeds else None, len(common))


def _over_documents(steps_D: np.ndarray, weights_D: np.ndarray, seed: int) -> tuple[float, float]:
    """How far the bootstrap's interval over documents goes below and above the mean, widened for few documents."""
    count = len(weights_D)
    draws_RD = _draws(count, seed)
    drawn_R = (draws_RD @ steps_D) / np.maximum(draws_RD @ weights_D, 1)
    low, high = np.quantile(drawn_R, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    mean, wider = steps_D.sum() / weights_D.sum(), widening(count)
    return float(wider * (mean - low)), float(wider * (high - mean))


def widening(documents: int) -> float:
    """The factor for the bootstrap's interval of a mean, by which Student's t is wider than the normal interval."""
    return float(_student(documents - 1) / _student(np.inf) * (documents / (documents - 1)) ** 0.5)


@cache
def _student(freedom: float) -> float:
    """Half the width of Student's t interval, in standard errors."""
    from scipy.special import stdtrit  # takes a while to load

    return float(stdtrit(freedom, (1 + SHARE) / 2))


@cache
def _normal(share: float) -> float:
    """The value that a standard normal variable stays below with this probability."""
    from scipy.special import ndtri

    return float(ndtri(share))


@cache
def _draws(count: int, seed: int) -> np.ndarray:
    """How often each resample draws each of `count` documents, R D; equal for every pair of models."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)


@dataclass(frozen=True)
class Disagreement:
    """Two rows whose order is the opposite of the published order."""

    first: str
    second: str
    published: float
    ours: float


@dataclass(frozen=True)
class Agreement:
    """How far the order of rows agrees with the published order.

    Attributes:
        published: number of pairs that differ in the paper.
        decided: how many of these pairs also differ in our runs.
        agree: how many of the decided pairs are in the paper's order.
        close: pairs that differ in the paper, that we have run, and that do not differ in our runs.
    """

    published: int
    decided: int
    agree: int
    disagreements: tuple[Disagreement, ...] = ()
    close: tuple[tuple[str, str], ...] = ()

    @property
    def share(self) -> float | None:
        """Trend agreement: the share of the decided pairs that agree; None if no pair is decided."""
        return self.agree / self.decided if self.decided else None

    @property
    def coverage(self) -> float | None:
        """The share of the pairs that differ in the paper which we decide; None if no pair differs in the paper."""
        return self.decided / self.published if self.published else None

    @staticmethod
    def together(parts: Iterable["Agreement"]) -> "Agreement":
        """The agreement of several columns, without their close rows."""
        parts = list(parts)
        disagreements = tuple(disagreement for part in parts for disagreement in part.disagreements)
        published, decided, agree = (
            sum(getattr(part, name) for part in parts) for name in ("published", "decided", "agree")
        )
        return Agreement(published, decided, agree, disagreements)


def published_decides(a: tuple[float, float | None], b: tuple[float, float | None]) -> bool:
    """Whether two values differ by more than the larger of their published spreads, or than 1 % if none is published."""
    known = [spread for _, spread in (a, b) if spread is not None]
    margin = max(known) if known else PUBLISHED_SHARE * min(abs(a[0]), abs(b[0]))
    return abs(a[0] - b[0]) > margin


def agreement(
    published: Mapping[str, tuple[float, float | None]], gaps: Mapping[tuple[str, str], Gap], rows: Sequence[str]
) -> Agreement:
    """Compare the order of every two rows with the published order.

    Args:
        published: value and spread of each row that has a published value.
        gaps: for two rows, in the order of `rows`, the first minus the second; a missing pair is undecided.
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
