"""The ring against a list."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memexp.model.knn_memory import exact_search as search
from memexp.model.knn_memory.ring import ages, clear_ring, empty_ring, gather, readable_spans, write

from .rings import ring_of

LIKE = torch.zeros(())


@settings(max_examples=40)
@given(
    slots=st.integers(1, 13),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=40),
    resets=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=40, max_size=40),
)
def test_a_ring_holds_the_newest_pairs_of_each_document(
    slots: int, lengths: list[int], resets: list[tuple[bool, bool]]
) -> None:
    """Against two lists, over many times its capacity, at capacities that no segment divides."""
    ring = empty_ring(lanes=2, heads=1, head_size=1, slots=slots, slack=5, like=LIKE)
    expected: list[list[float]] = [[], []]
    number = 0.0
    for length, reset in zip(lengths, resets, strict=False):
        ring = clear_ring(ring, torch.tensor(reset))
        expected = [[] if gone else lane for gone, lane in zip(reset, expected, strict=True)]
        new = torch.arange(length) + number
        number += length
        pairs = torch.stack([new, -new])[:, None, :, None]
        ring = write(ring, pairs, pairs + 0.5, valid_B=torch.tensor([length, length]))
        expected = [(lane + part)[-slots:] for lane, part in zip(expected, pairs[:, 0, :, 0].tolist(), strict=True)]
        for lane, spans in enumerate(readable_spans(ring)):
            found = torch.cat([ring.keys_BHRK[lane, 0, a:b, 0] for a, b in spans] or [torch.empty(0)])
            assert found.tolist() == expected[lane]
            values = torch.cat([ring.values_BHRK[lane, 0, a:b, 0] for a, b in spans] or [torch.empty(0)])
            assert values.tolist() == [key + 0.5 for key in expected[lane]]
            readable = ages(ring)[lane] <= ring.count_B[lane]
            assert sorted(ring.keys_BHRK[lane, 0, readable, 0].tolist()) == sorted(expected[lane])


@pytest.mark.parametrize("capacity", [7, 24, 33])
def test_a_ring_finds_what_was_just_written_over_ten_times_its_capacity(capacity: int) -> None:
    torch.manual_seed(0)
    ring = empty_ring(lanes=2, heads=2, head_size=8, slots=capacity, slack=10, like=LIKE)
    written = 0
    while written < 10 * capacity:
        keys = torch.nn.functional.normalize(torch.randn(2, 2, 5, 8), dim=-1)
        ring = write(ring, keys, keys * 3, valid_B=torch.tensor([5, 5]))
        found = search.exact(keys, ring, 1)
        assert found.found_BHTk.all()
        torch.testing.assert_close(gather(ring.values_BHRK, found.slots_BHTk).squeeze(3), keys * 3)
        written += 5


def test_only_valid_pairs_are_counted() -> None:
    ring = empty_ring(lanes=2, heads=1, head_size=1, slots=10, slack=4, like=LIKE)
    pairs = torch.arange(4.0).view(1, 1, 4, 1).expand(2, 1, 4, 1)
    ring = write(ring, pairs, pairs, valid_B=torch.tensor([1, 3]))
    assert ring.count_B.tolist() == [1, 3]
    assert [ring.keys_BHRK[0, 0, a:b, 0].tolist() for a, b in readable_spans(ring)[0]] == [[3.0]]


def test_gathered_copies_do_not_change_when_the_ring_does() -> None:
    ring = ring_of(torch.arange(6.0).view(1, 6, 1))
    copies = gather(ring.keys_BHRK, torch.tensor([[[[1, 4]]]]))
    ring.keys_BHRK.zero_()
    assert copies.flatten().tolist() == [1.0, 4.0]
