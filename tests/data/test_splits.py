"""Splits by group."""

from itertools import pairwise
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.data.splits import BYTES, DOCUMENTS, GAP, PIECE, SEARCHED, Part, assign, cut, held_share, hold_out, to_cut
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


@given(st.lists(st.integers(1, 50_000), min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_a_share_of_whole_documents_is_held_out_or_none(sizes: list[int], random: Random) -> None:
    documents = [Entry(f"group{number}", size) for number, size in enumerate(sizes)]
    splits = hold_out(documents)
    if len(sizes) < 40:
        assert splits is None
        return
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert hold_out(shuffled) == splits
    if splits is None:
        return
    assert set(splits) == {document.group for document in documents}
    for split in ("test", "valid"):
        held = [document.bytes for document in documents if splits[document.group] == split]
        assert 4 <= len(held) <= len(sizes) / 10
        assert sum(held) <= sum(sizes) / 10
        # It is full, or nothing that is trained on would fit.
        full = len(held) >= 8 and sum(held) >= max(10_000, sum(sizes) / 20)
        room = sum(sizes) / 10 - sum(held) if len(held) + 1 <= len(sizes) / 10 else 0
        assert full or all(document.bytes > room for document in documents if splits[document.group] == "train")


@pytest.mark.parametrize(
    ("documents", "held"), [(39, None), (40, 4), (44, 4), (79, 7), (80, 8), (160, 8), (161, 9), (1000, 50)]
)
def test_how_many_of_equal_documents_are_held_out(documents: int, held: int | None) -> None:
    splits = hold_out([Entry(f"group{number}", 100_000) for number in range(documents)])
    found = None if splits is None else [list(splits.values()).count(split) for split in ("test", "valid")]
    assert found == (None if held is None else [held, held])


def test_one_giant_does_not_take_all_others_from_training() -> None:
    splits = hold_out([Entry("giant", 10**9), *(Entry(f"group{number}", 10_000) for number in range(99))])
    assert splits is not None
    assert splits["giant"] == "train"
    assert [list(splits.values()).count(split) for split in ("train", "valid", "test")] == [80, 10, 10]


def test_documents_that_are_joined_count_once() -> None:
    assert hold_out([Entry(f"group{number % 20}", 1000) for number in range(200)]) is None


def cut_of(text: bytes, share: float) -> list[Part]:
    return cut(len(text), share, lambda start, end: text[start:end])


@given(
    st.lists(
        st.sampled_from(["a line\n", "\n", "one ", "more", "天地玄黄", "é", "😀", "x" * 700]), min_size=1, max_size=40
    ),
    st.integers(10_000, 60_000),
    st.sampled_from([0.05, 0.1]),
)
def test_parts_are_large_enough_far_enough_apart_and_cut_no_character(
    words: list[str], size: int, share: float
) -> None:
    unit = "".join(words)
    text = (unit * (1 + size // len(unit)))[:size].encode()
    parts = cut_of(text, share)
    assert [part.split for part in parts] == sorted(
        (part.split for part in parts), key=["train", "valid", "test"].index
    )
    held = int(len(text) * share)
    bounds = {}
    for split in ("train", "valid", "test"):
        own = [part for part in parts if part.split == split]
        assert all(before.end == after.start for before, after in pairwise(own))
        bounds[split] = own[0].start, own[-1].end
        assert all(text[part.start : part.end].decode() for part in own)  # no character is cut, and none is empty
        if split != "train":
            assert held <= bounds[split][1] - bounds[split][0] <= held + min(held, SEARCHED)
            assert len(own) <= DOCUMENTS
            assert len(own) == 1 or all(part.end - part.start >= PIECE - SEARCHED for part in own)
    assert bounds["train"][0] == 0
    assert bounds["test"][1] == len(text)
    for before, after in (("train", "valid"), ("valid", "test")):
        gap = bounds[after][0] - bounds[before][1]
        assert min(GAP, held) <= gap <= min(GAP, held) + min(SEARCHED, held)
    longest = max(map(len, text.split(b"\n"))) + 1
    if longest < min(SEARCHED, held):
        assert all(text[part.start - 1 : part.start] in (b"\n", b"") for part in parts)
        assert text[bounds["train"][1] - 1 : bounds["train"][1]] == b"\n"


@pytest.mark.parametrize(
    ("size", "share", "pieces"),
    [(10**5, 0.1, 1), (10**6, 0.05, 3), (10**7, 0.05, 8), (10**8, 0.05, 8), (99_999, None, 0), (150_000, 1 / 15, 1)],
)
def test_shares_and_documents_of_one_text(size: int, share: float | None, pieces: int) -> None:
    assert held_share(size) == (None if share is None else pytest.approx(share))
    if share is not None:
        parts = cut(size, share, lambda start, end: b"x" * (min(size, end) - start - 1) + b"\nx"[: end - start])
        assert [sum(part.split == split for part in parts) for split in ("train", "valid", "test")] == [
            1,
            pieces,
            pieces,
        ]
        assert parts[-1].end - next(part.start for part in parts if part.split == "test") >= BYTES
        assert parts[0].end >= (1 - 2 * share) * size - 2 * GAP - 4 * SEARCHED


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (b"one\ntwo three" + b"x" * 4, 4),  # a line end before white space that is nearer
        (b"one two" + b"x" * 9, 4),
        ("é".encode() * 8, 8),  # two bytes each
        (b"\x80" * 16, 6),  # no UTF-8 at all: within three bytes
    ],
)
def test_where_a_cut_is(text: bytes, start: int) -> None:
    from memexp.data.splits import after_border

    assert 9 - after_border(text[:10]) == start


def test_documents_that_are_short_beside_the_longest_are_not_cut() -> None:
    assert to_cut([1_000_000, 100_000, 99_999, 5]) == [True, True, False, False]
    assert to_cut([5, 5]) == [True, True]
