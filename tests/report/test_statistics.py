"""Intervals against SciPy's bootstrap, and trend agreement on tables whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from memexp.report.statistics import Agreement, Disagreement, Gap, Losses, agreement, gap, published_decides


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
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.04 * width)
    assert found.high == pytest.approx(expected.high, abs=0.04 * width)
    # what is hard for both cancels: unpaired, documents alone would be twenty times as wide
    assert width < 0.1 and found.decided


def test_an_interval_over_seeds_is_scipys() -> None:
    a = losses([[2.9], [2.7], [3.1], [2.8]], [100], (0, 1, 2, 3))
    b = losses([[3.0], [3.0], [3.0], [3.0]], [100], (0, 1, 2, 3))
    found = gap(a, b)
    expected = stats.bootstrap(
        (np.array([-0.1, -0.3, 0.1, -0.2]),), np.mean, method="percentile", n_resamples=10_000,
        random_state=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.01), pytest.approx(expected.high, abs=0.01))
    assert found.mean == pytest.approx(-0.125) and not found.decided


def test_only_common_seeds_are_paired() -> None:
    a, b = losses([[1.0], [9.0]], [10], (0, 7)), losses([[2.0], [5.0]], [10], (0, 1))
    assert gap(a, b) == Gap(-1.0, None, None, True)
    apart = gap(losses([[1.0], [9.0]], [10], (8, 9)), b)
    assert apart.mean == pytest.approx(1.5) and not apart.paired
    assert (apart.low, apart.high) == (-4.0, 7.0) and not apart.decided


def test_one_document_and_one_seed_decide_nothing() -> None:
    found = gap(losses([[1.0]], [10]), losses([[2.0]], [10]))
    assert (found.mean, found.low, found.high, found.decided) == (-1.0, None, None, False)


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
    assert found.share == 0.75 and found.coverage == pytest.approx(4 / 9)
    assert found.disagreements == (Disagreement("a", "b", 1.0, -1),)


def test_higher_or_lower_is_the_same_question() -> None:
    published = {"a": (0.9, 0.01), "b": (0.5, 0.2)}
    assert agreement(published, {("a", "b"): surely(0.3)}, ["a", "b"]).agree == 1
    assert agreement(published, {("a", "b"): surely(-0.3)}, ["a", "b"]).agree == 0


def test_columns_together_and_nothing_decided() -> None:
    parts = [Agreement(4, 2, 1, (Disagreement("a", "b", 1, -1),)), Agreement(6, 2, 2)]
    together = Agreement.together(parts)
    assert (together.share, together.coverage, len(together.disagreements)) == (0.75, 0.4, 1)
    assert agreement({}, {}, ["a"]) == Agreement(0, 0, 0) and Agreement(0, 0, 0).share is None
    assert Agreement(0, 0, 0).coverage is None and Agreement(3, 0, 0).coverage == 0
