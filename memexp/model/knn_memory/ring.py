"""Storage of the newest pairs: a ring (circular buffer) that is written in place; counts say what may be read.

A ring has `slots` slots that may be read, and slack for the pairs that a gradient window writes. So a window never
overwrites a pair that one of its earlier states may read, and a segment can be computed again from such a state with the
same result. All lanes write at the same position; only the counts differ.
Shapes: B lanes, H heads, R slots and slack, T pairs written, K head size.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Ring:
    """Keys and values of one layer. In a state tree the tensors are leaves, and `slots` is part of the structure."""

    keys_BHRK: Tensor
    values_BHRK: Tensor
    position_B: Tensor
    """Pairs written since the beginning, equal in all lanes; the next pair goes to slot `position % R`."""
    count_B: Tensor
    """How many of the newest pairs belong to the lane's document, at most `slots`. Only this count says which are valid."""
    slots: int
    """At most this many of the newest pairs may be read."""


def _leaves(ring: Ring) -> tuple[list[Tensor], int]:
    return [ring.keys_BHRK, ring.values_BHRK, ring.position_B, ring.count_B], ring.slots


def _ring(leaves: Iterable[Any], slots: Any) -> Ring:
    keys_BHRK, values_BHRK, position_B, count_B = leaves
    return Ring(keys_BHRK, values_BHRK, position_B, count_B, slots)


pytree.register_pytree_node(Ring, _leaves, _ring)


def empty_ring(
    *, lanes: int, heads: int, head_size: int, slots: int, slack: int, like: Tensor, on: torch.device | None = None
) -> Ring:
    """An empty ring with the type and device of `like`.

    Args:
        on: another device for keys and values; the counts stay on the device of `like`.
    """
    size = (lanes, heads, slots + slack, head_size)
    nothing = torch.zeros(lanes, dtype=torch.long, device=like.device)
    return Ring(like.new_zeros(size, device=on), like.new_zeros(size, device=on), nothing, nothing.clone(), slots)


def seen_where_stored(ring: Ring) -> Ring:
    """The ring with its counts on the device of its keys and values."""
    on = ring.keys_BHRK.device
    return replace(ring, position_B=ring.position_B.to(on), count_B=ring.count_B.to(on))


def clear_ring(ring: Ring, reset_B: Tensor) -> Ring:
    """Empty the lanes in which a document begins; the cost does not depend on the size of the ring."""
    return replace(ring, count_B=ring.count_B.masked_fill(reset_B, 0))


@torch.no_grad()
def write(ring: Ring, keys_BHTK: Tensor, values_BHTK: Tensor, *, valid_B: Tensor) -> Ring:
    """Append T pairs per lane, in place.

    Args:
        valid_B: how many of the last of the T pairs belong to the lane's document.
    """
    length, capacity = keys_BHTK.shape[2], ring.keys_BHRK.shape[2]
    place_T = (ring.position_B[0] + torch.arange(length, device=keys_BHTK.device)) % capacity
    place_T = place_T.to(ring.keys_BHRK.device)
    ring.keys_BHRK.index_copy_(2, place_T, keys_BHTK.to(ring.keys_BHRK))
    ring.values_BHRK.index_copy_(2, place_T, values_BHTK.to(ring.values_BHRK))
    count_B = (ring.count_B + valid_B).clamp_max(ring.slots)
    return replace(ring, position_B=ring.position_B + length, count_B=count_B)


def ages(ring: Ring) -> Tensor:
    """How many pairs ago each slot of each lane was written, B R, from 1; a pair is readable if its age is <= count."""
    slot_R = torch.arange(ring.keys_BHRK.shape[2], device=ring.position_B.device)
    return ages_at(ring, slot_R.view(1, 1, 1, -1))[:, 0, 0]


def ages_at(ring: Ring, slots_BHTk: Tensor) -> Tensor:
    """How many pairs ago each of the given slots was written, B H T k."""
    return (ring.position_B.view(-1, 1, 1, 1) - 1 - slots_BHTk) % ring.keys_BHRK.shape[2] + 1


def newest_keys(ring: Ring, size: int) -> tuple[Tensor, Tensor]:
    """Copies of the keys of the last `size` pairs, B H N K, newest first, and which of them are readable, B N."""
    number_N = torch.arange(min(size, ring.keys_BHRK.shape[2]), device=ring.position_B.device)
    slots_N = (ring.position_B[0] - 1 - number_N) % ring.keys_BHRK.shape[2]
    return ring.keys_BHRK.index_select(2, slots_N), number_N < ring.count_B[:, None]


def readable_spans(ring: Ring) -> list[list[tuple[int, int]]]:
    """For each lane the readable slots, as at most two ranges, oldest first. The host waits for the counts."""
    capacity, spans = ring.keys_BHRK.shape[2], []
    for position, count in zip(ring.position_B.tolist(), ring.count_B.tolist(), strict=True):
        start = (position - count) % capacity
        stop = start + count
        ranges = [(start, min(stop, capacity)), (0, stop - capacity)]
        spans.append([span for span in ranges if span[1] > span[0]])
    return spans


def gather(stored_BHRK: Tensor, slots_BHTk: Tensor) -> Tensor:
    """Copies of the contents of slots, B H T k K, without gradient."""
    lanes, heads, capacity, head_size = stored_BHRK.shape
    first_BH = torch.arange(lanes * heads, device=slots_BHTk.device).view(lanes, heads, 1, 1) * capacity
    rows = stored_BHRK.reshape(-1, head_size).index_select(0, (slots_BHTk + first_BH).flatten())
    return rows.view(*slots_BHTk.shape, head_size)
