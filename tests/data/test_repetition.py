"""Where n-grams stood before, against a plain search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.data.repetition import counts_by_distance, distances


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 4), st.sampled_from([np.uint16, np.uint32]))
def test_distances_are_those_of_a_plain_search(tokens: list[int], n: int, dtype: type) -> None:
    ngrams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    before = [[at - past for past in range(at) if ngrams[past] == ngrams[at]] for at in range(len(ngrams))]
    assert distances(np.array(tokens, dtype=dtype), n).tolist() == [min(each, default=0) for each in before]


def test_what_is_no_repetition_is_not_taken_for_one() -> None:
    """Random tokens, and tokens so alike that any weak hash would take one n-gram for another."""
    drawn = np.random.default_rng(0).integers(1 << 16, size=300_000).astype(np.uint16)
    assert not distances(drawn, 8).any()
    assert not distances(np.arange(1 << 16).astype(np.uint16), 8).any()
    steps = np.arange(60_000)[:, None] + np.array([0, 1, 3, 2])
    assert not distances(steps.astype(np.uint16).ravel(), 4).any()


@pytest.mark.parametrize(
    ("found", "expected"),
    [([0, 0], {}), ([1, 2, 3, 4, 7, 8, 0], {0: 1, 1: 2, 2: 2, 3: 1}), ([2**40 - 1, 2**40], {39: 1, 40: 1})],
)
def test_a_bin_ends_before_the_next_power_of_two(found: list[int], expected: dict[int, int]) -> None:
    counts = counts_by_distance(np.array(found))
    assert {int(at): int(counts[at]) for at in np.flatnonzero(counts)} == expected
