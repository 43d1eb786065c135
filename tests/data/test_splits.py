"""Splits by group."""

from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.data.splits import assign
from memexp.errors import UserError

from ..messages import says


class Entry(NamedTuple):
    group: str
    bytes: int


def entries_of(sizes: dict[str, list[int]]) -> list[Entry]:
    return [Entry(group, size) for group, group_sizes in sizes.items() for size in group_sizes]


@given(
    st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=4), min_size=12, max_size=20),
    st.integers(1, 4),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_held_out_splits_are_full_and_no_fuller_than_needed(
    groups: list[list[int]], valid: int, test: int, random: Random
) -> None:
    sizes = {f"group{number}": group for number, group in enumerate(groups)}
    entries = entries_of(sizes)
    splits = assign(entries, valid=valid, test=test)
    assert set(splits) == set(sizes)
    for split, wanted in (("test", test), ("valid", valid)):
        counts = [len(sizes[group]) for group in sizes if splits[group] == split]
        assert sum(counts) >= wanted
        assert sum(counts) - max(counts) < wanted  # without one group it would be too few
    random.shuffle(entries)
    assert assign(entries, valid=valid, test=test) == splits


def test_a_group_that_holds_most_text_is_trained_on() -> None:
    sizes = {f"group{number}": [10] for number in range(30)}
    for giant in sizes:
        assert assign(entries_of({**sizes, giant: [100]}), valid=3, test=3)[giant] == "train"


def test_a_group_that_would_fill_a_split_alone_is_trained_on() -> None:
    sizes = {f"group{number}": [10] for number in range(60)}
    for many in sizes:
        splits = assign(entries_of({**sizes, many: [1] * 4}), valid=4, test=4)
        assert splits[many] == "train"
        assert [list(splits.values()).count(split) for split in ("test", "valid")] == [4, 4]


def test_another_group_does_not_reshuffle_the_rest() -> None:
    sizes = {f"group{number}": [10] for number in range(40)}
    before = assign(entries_of(sizes), valid=5, test=5)
    after = assign(entries_of({**sizes, "new": [10]}), valid=5, test=5)
    assert sum(before[group] != after[group] for group in sizes) <= 2


def test_too_few_documents_is_one_line() -> None:
    with pytest.raises(UserError, check=says("4 documents in 4 groups", "expected 2 for the test", "2 for validation")):
        assign(entries_of({"a": [1], "b": [1], "c": [1], "d": [1]}), valid=2, test=2)
