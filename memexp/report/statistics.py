"""Differences between models and what can be said of them: a bootstrap over documents and seeds, and whether the order of two
models is the one that was published.

Letters: R resamples, D documents, S seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SHARE = 0.95
"""Of the resamples that an interval encloses."""

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


@dataclass(frozen=True)
class Gap:
    """The mean of one model less that of another, with the interval that resampling gives.

    Attributes:
        low, high: None where there is nothing to resample: one document and one seed.
        paired: the seeds that both have are compared one by one.
    """

    mean: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero; what it does not leave out is no difference."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def gap(a: Losses, b: Losses, *, seed: int = 0) -> Gap:
    """`a` less `b`. Documents are drawn with the losses of both (what is hard for both cancels), and seeds likewise where
    both have some in common; else each model's seeds by themselves."""
    common = sorted(set(a.seeds) & set(b.seeds))
    random = np.random.default_rng(seed)
    count = len(a.weights_D)
    draws_RD = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    (means_S, means_RS), (other_S, other_RS) = (_means(losses, common or losses.seeds, draws_RD) for losses in (a, b))
    if common:
        mean, drawn_R = float(np.mean(means_S - other_S)), _draw(means_RS - other_RS, random)
    else:
        mean, drawn_R = float(means_S.mean() - other_S.mean()), _draw(means_RS, random) - _draw(other_RS, random)
    if count == 1 and max(len(means_S), len(other_S)) == 1:
        return Gap(mean, None, None, bool(common))
    low, high = np.quantile(drawn_R, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Gap(mean, float(low), float(high), bool(common))


def _means(losses: Losses, seeds: Sequence[int], draws_RD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each seed, of the documents as they are and of every draw."""
    sums_SD = losses.sums_SD[[losses.seeds.index(seed) for seed in seeds]]
    weights_R = np.maximum(draws_RD @ losses.weights_D, 1)
    return sums_SD.sum(1) / losses.weights_D.sum(), (draws_RD @ sums_SD.T) / weights_R[:, None]


def _draw(means_RS: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mean over as many seeds as there are, drawn anew for each resample."""
    resamples, seeds = means_RS.shape
    chosen_RS = random.integers(seeds, size=(resamples, seeds))
    return np.take_along_axis(means_RS, chosen_RS, axis=1).mean(1)


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
    """

    published: int
    decided: int
    agree: int
    disagreements: tuple[Disagreement, ...] = ()

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
        """That of several columns."""
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
    ours = [pair for pair in decisive if pair in gaps and gaps[pair].decided]
    against = [(a, b) for a, b in ours if (published[a][0] > published[b][0]) != (gaps[a, b].mean > 0)]
    named = tuple(Disagreement(a, b, published[a][0] - published[b][0], gaps[a, b].mean) for a, b in against)
    return Agreement(len(decisive), len(ours), len(ours) - len(against), named)
