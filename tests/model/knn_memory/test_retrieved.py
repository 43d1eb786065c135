"""Copies of chosen rows of a ring, also of one that is elsewhere."""

from dataclasses import replace

import pytest
import torch

from memexp.model.knn_memory.exact_search import exact
from memexp.model.knn_memory.layer import gated
from memexp.model.knn_memory.retrieved import copies, fetch
from memexp.model.knn_memory.ring import Ring, empty_ring, seen_where_stored, write


def filled_ring() -> Ring:
    ring = empty_ring(lanes=2, heads=3, head_size=8, slots=20, slack=4, like=torch.zeros(()), on=torch.device("cpu"))
    keys, values = torch.randn(2, 2, 3, 15, 8)
    return write(ring, keys, values, valid_B=torch.tensor([15, 2]))


def test_copies_are_what_stands_in_the_slots() -> None:
    torch.manual_seed(0)
    ring, slots = filled_ring(), torch.randint(15, (2, 3, 7, 5))
    keys, values, places = copies(ring, slots, torch.device("cpu"))
    for lane, head, token, k in ((0, 0, 0, 0), (1, 2, 6, 4), (1, 0, 3, 2)):
        place, slot = places[lane, head, token, k], slots[lane, head, token, k]
        assert torch.equal(keys[lane, head, place], ring.keys_BHRK[lane, head, slot])
        assert torch.equal(values[lane, head, place], ring.values_BHRK[lane, head, slot])


@pytest.mark.gpu
def test_a_ring_in_the_hosts_memory_is_read_from_a_gpu() -> None:
    torch.manual_seed(0)
    ring, queries, local = filled_ring(), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    found, gate = exact(queries, ring, 4), torch.zeros(3)
    expected = gated(fetch(queries, ring, found), local, gate).read_BHTK
    counts = replace(ring, position_B=ring.position_B.cuda(), count_B=ring.count_B.cuda())
    assert torch.equal(exact(queries, seen_where_stored(counts), 4).slots_BHTk, found.slots_BHTk)
    read = gated(fetch(queries.cuda(), counts, found), local.cuda(), gate.cuda()).read_BHTK
    torch.testing.assert_close(read.cpu(), expected, rtol=1e-4, atol=1e-4)
