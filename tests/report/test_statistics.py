"""Intervals against SciPy's, how often they are wrong, and trend agreement on tables whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from memexp.report.statistics import (
    Agreement,
    Disagreement,
    Gap,
    Losses,
    SeedSpread,
    agreement,
    gap,
    published_decides,
    seed_spread,
)


def losses(means: list[list[float]], tokens: list[float], seeds: tuple[int, ...] = (0,)) -> Losses:
    """Of documents with these mean losses, a seed a row."""
    return Losses(seeds, np.array(means) * np.array(tokens), np.array(tokens))


def test_an_interval_over_documents_is_scipys() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(50, 500, size=12).astype(float)
    base = random.normal(3, 0.5, size=12)
    a, b = losses([list(base - random.normal(0.05, 0.04, size=12))], list(tokens)), losses([list(base)], list(tokens))
    found = gap(a, b)
    expected = stats.bootstrap(
        (a.sums_SD[0] - b.sums_SD[0], tokens),
        lambda difference, weights, axis: difference.sum(axis) / weights.sum(axis),
        paired=True, vectorized=True, method="percentile", n_resamples=10_000, random_state=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert found.mean == pytest.approx((a.sums_SD.sum() - b.sums_SD.sum()) / tokens.sum())
    wider = stats.t.ppf(0.975, 11) / stats.norm.ppf(0.975) * np.sqrt(12 / 11)
    width = wider * (expected.high - expected.low)
    assert found.mean - found.low == pytest.approx(wider * (found.mean - expected.low), abs=0.04 * width)
    assert found.high - found.mean == pytest.approx(wider * (expected.high - found.mean), abs=0.04 * width)
    # what is hard for both cancels: unpaired, documents alone would be twenty times as wide
    assert width < 0.1
    assert found.low > found.mean - 0.1
    assert found.documents
    assert not found.seeds
    assert not found.decided


def test_an_interval_over_seeds_is_students() -> None:
    a = losses([[2.9], [2.7], [3.1], [2.8]], [100], (0, 1, 2, 3))
    b = losses([[3.0], [3.0], [3.0], [3.0]], [100], (0, 1, 2, 3))
    found = gap(a, b, seed_spread([[a, b]]))
    expected = stats.ttest_rel(a.means_S, b.means_S).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.mean == pytest.approx(-0.125)
    assert not found.decided
    assert not found.documents


@pytest.mark.parametrize("mean", [0.09, -0.06, 0.04])
def test_seeds_to_decide_have_the_power_that_scipy_gives(mean: float) -> None:
    """The power of Student's t test is that of the noncentral t distribution; with fewer seeds it would be too small."""
    measured = Gap(mean, mean - 1, mean + 1, True, True, True, 0.0, SeedSpread(0.08, 12), 2)
    count = measured.seeds_to_decide()
    assert count is not None
    assert count > 2

    def power(seeds: int) -> float:
        freedom = 12 + seeds - 2
        return float(stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, abs(mean) / 0.08 * seeds**0.5))

    assert power(count) >= 0.795
    assert power(count - 1) < 0.805


def test_more_documents_need_fewer_seeds_and_what_cannot_be_decided_says_so() -> None:
    random = np.random.default_rng(0)
    base = random.normal(3, 0.3, size=8)
    a = losses([list(base + 0.05 + each) for each in random.normal(0, 0.06, size=(2, 8))], [100] * 8, (0, 1))
    b = losses([list(base)] * 2, [100] * 8, (0, 1))
    found = gap(a, b, SeedSpread(0.02, 3))
    now, with_more = found.seeds_to_decide(), found.seeds_to_decide(documents=9)
    assert with_more is not None
    assert now is None or with_more < now
    assert found.over_documents == pytest.approx(
        gap(a, b).mean - gap(a, b).low if found.mean > 0 else gap(a, b).high - gap(a, b).mean
    )
    assert gap(a, b).seeds_to_decide() is None  # nothing is known of seeds
    assert (
        gap(a, a, SeedSpread(0.0, 3)).seeds_to_decide() is None
    )  # no number of seeds finds a difference between equals
    assert Gap(1e-4, -1, 1, True, True, True, 0.0, SeedSpread(0.08, 12), 2).seeds_to_decide() is None
    assert Gap(9.0, 8, 10, True, True, True, 0.1, SeedSpread(0.08, 12), 2).seeds_to_decide() == 2


def test_the_spread_of_seeds_is_pooled_as_in_an_analysis_of_variance() -> None:
    random = np.random.default_rng(0)
    means_MS = random.normal(size=(6, 3)) + 5 * random.normal(size=3)
    models = [losses([[mean] for mean in means_S], [10], (0, 1, 2)) for means_S in means_MS]
    rest_MS = means_MS - means_MS.mean(0) - means_MS.mean(1, keepdims=True) + means_MS.mean()
    found = seed_spread([models])
    assert found is not None
    assert found.freedom == 10
    assert found.deviation == pytest.approx(np.sqrt(2 * np.square(rest_MS).sum() / 10))
    assert seed_spread([[models[0]], [models[1], losses([[1.0]], [10])]]) is None
    assert seed_spread([models[:2], models[2:4]]).freedom == 4


def test_documents_and_seeds_add_up_in_quadrature() -> None:
    a, b = (
        losses([[base, base + step], [base + shift, base + step]], [10, 10], (0, 1))
        for base, step, shift in ((2, 1, 0.5), (3, 2, 0.1))
    )
    spread = SeedSpread(0.3, 4)
    both, documents = gap(a, b, spread), gap(a, b)
    seeds = stats.t.ppf(0.975, 4) * 0.3 / np.sqrt(2)
    assert both.high - both.mean == pytest.approx(np.hypot(documents.high - both.mean, seeds))
    assert both.mean - both.low == pytest.approx(np.hypot(both.mean - documents.low, seeds))


NOISE = {
    "seeds": (1, 0, 0),
    "documents": (0, 1, 0),
    "both": (1, 1, 0),
    "all": (1, 1, 1),
    "little of seeds": (0.3, 1, 0.3),
}


def called(noise: tuple[float, float, float], effect: float) -> float:
    """The share of differences that are called so, of ten rows to a baseline with two seeds of eight documents."""
    random, found = np.random.default_rng(0), []
    for _ in range(60):
        hard_D = random.normal(size=8)
        models = []
        for row in range(11):
            shapes = ((2, 1), (1, 8), (2, 8))
            parts = [size * random.normal(size=shape) for size, shape in zip(noise, shapes, strict=True)]
            models.append(losses((hard_D + sum(parts) + effect * (row > 0)).tolist(), [100] * 8, (0, 1)))
        spread = seed_spread([models])
        found += [gap(model, models[0], spread).decided for model in models[1:]]
    return float(np.mean(found))


@pytest.mark.hard
@pytest.mark.parametrize("noise", NOISE)
def test_what_is_no_difference_is_seldom_called_one(noise: str) -> None:
    assert 0 < called(NOISE[noise], 0.0) <= 0.08


def test_a_clear_difference_is_called_one() -> None:
    assert called(NOISE["both"], 5.0) > 0.95


def test_only_common_seeds_are_paired() -> None:
    a, b = losses([[1.0], [9.0]], [10], (0, 7)), losses([[2.0], [5.0]], [10], (0, 1))
    spread = SeedSpread(0.1, 3)
    assert gap(a, b) == Gap(-1.0, None, None, True, documents=False, seeds=False)
    assert gap(a, b, spread).high == pytest.approx(-1.0 + stats.t.ppf(0.975, 3) * 0.1)  # of one seed as well
    apart = gap(losses([[1.0], [9.0]], [10], (8, 9)), b, spread)
    assert apart == Gap(1.5, None, None, False, documents=False, seeds=False)
    assert not apart.decided


def test_one_document_and_one_seed_decide_nothing() -> None:
    found = gap(losses([[1.0]], [10]), losses([[2.0]], [10]))
    assert (found.mean, found.low, found.high, found.decided) == (-1.0, None, None, False)


def test_models_of_other_documents_are_compared_by_their_means() -> None:
    found = gap(losses([[1.0, 3.0]], [10, 30]), losses([[2.0]], [1]), SeedSpread(0.1, 3))
    assert found.mean == pytest.approx(0.5)
    assert not found.documents
    assert found.decided


@pytest.mark.parametrize(
    ("a", "b", "decided"),
    [
        ((2.00, None), (2.01, None), False),  # under 1 %
        ((2.00, None), (2.03, None), True),
        ((2.00, 0.05), (2.03, None), False),  # under the spread that is printed
        ((2.00, 0.01), (2.03, 0.02), True),
        ((2.00, 0.01), (2.03, 0.04), False),
    ],
)
def test_what_a_paper_decides(a: tuple[float, float | None], b: tuple[float, float | None], decided: bool) -> None:
    assert published_decides(a, b) is published_decides(b, a) is decided


def surely(mean: float) -> Gap:
    return Gap(mean, mean - 0.01, mean + 0.01, True)


def test_trend_agreement_of_a_table_with_a_known_answer() -> None:
    published = {"a": (4.0, None), "b": (3.0, None), "c": (2.0, None), "d": (2.01, None), "e": (1.0, None)}
    # of ten pairs the paper leaves c and d undecided; ours leaves out e, has a and b the other way round, b and c open
    gaps = {
        ("a", "b"): surely(-1), ("a", "c"): surely(2), ("a", "d"): surely(2), ("b", "c"): Gap(1, -1, 2, True),
        ("b", "d"): surely(1), ("c", "d"): surely(5),
    }  # fmt: skip
    found = agreement(published, gaps, list("abcde"))
    assert (found.published, found.decided, found.agree) == (9, 4, 3)
    assert found.share == 0.75
    assert found.coverage == pytest.approx(4 / 9)
    assert found.disagreements == (Disagreement("a", "b", 1.0, -1),)
    assert found.close == (("b", "c"),)  # e is not there, so nothing with it is close


def test_higher_or_lower_is_the_same_question() -> None:
    published = {"a": (0.9, 0.01), "b": (0.5, 0.2)}
    assert agreement(published, {("a", "b"): surely(0.3)}, ["a", "b"]).agree == 1
    assert agreement(published, {("a", "b"): surely(-0.3)}, ["a", "b"]).agree == 0


def test_columns_together_and_nothing_decided() -> None:
    parts = [Agreement(4, 2, 1, (Disagreement("a", "b", 1, -1),)), Agreement(6, 2, 2)]
    together = Agreement.together(parts)
    assert (together.share, together.coverage, len(together.disagreements)) == (0.75, 0.4, 1)
    assert agreement({}, {}, ["a"]) == Agreement(0, 0, 0)
    assert Agreement(0, 0, 0).share is None
    assert Agreement(0, 0, 0).coverage is None
    assert Agreement(3, 0, 0).coverage == 0
