"""Retrieved pairs: their scores with gradient to the queries, and weighted sums of their values.

Shapes: B lanes, H heads, T tokens, R ring slots, K head size, k neighbours,
P sets of pairs: T if each query has its own set, 1 if all queries read the same set.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.gather_matmul import dot_rows, sum_rows
from memexp.model.knn_memory.ring import Ring, gather
from memexp.model.knn_memory.selection import Neighbours
from memexp.model.knn_memory.streaming import rows_on
from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.regions import part


class Retrieved(NamedTuple):
    """The pairs that a search has found; no gradient reaches the ring."""

    slots_BHPk: Tensor
    found_BHPk: Tensor
    scores_BHTk: Tensor
    """Inner products with gradient to the queries; -inf where nothing was found."""
    values_BHRK: Tensor
    places_BHPk: Tensor
    """Rows of `values_BHRK` with the values of the pairs: slots of the ring, or rows of copies from another device."""


def fetch(queries_BHTK: Tensor, ring: Ring, found: Neighbours) -> Retrieved:
    """Score the pairs of a search on the device of the queries."""
    with part("gather"), full_precision(queries_BHTK.device):
        keys_BHRK, values_BHRK, places_BHPk = ring.keys_BHRK, ring.values_BHRK, found.slots_BHTk
        if keys_BHRK.device != queries_BHTK.device:
            keys_BHRK, values_BHRK, places_BHPk = copies(ring, found.slots_BHTk, queries_BHTK.device)
        known_BHTk = None if found.scores_BHTk is None else found.scores_BHTk.to(queries_BHTK.device)
        scores_BHTk = _dots(at_least_fp32(queries_BHTK), keys_BHRK, places_BHPk, known_BHTk=known_BHTk)
    slots_BHPk, found_BHPk = found.slots_BHTk.to(queries_BHTK.device), found.found_BHTk.to(queries_BHTK.device)
    scores_BHTk = scores_BHTk.masked_fill(~found_BHPk, float("-inf"))
    return Retrieved(slots_BHPk, found_BHPk, scores_BHTk, values_BHRK, places_BHPk)


def copies(ring: Ring, slots_BHPk: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of the keys and values of some slots on another device, and for each slot its row in the copies."""
    lanes, heads, _, head_size = ring.keys_BHRK.shape
    rows_M = _rows(slots_BHPk.to(ring.keys_BHRK.device), ring.keys_BHRK).flatten()
    keys_BHRK, values_BHRK = (
        rows_on(device, stored.flatten(0, 2), rows_M).view(lanes, heads, -1, head_size)
        for stored in (ring.keys_BHRK, ring.values_BHRK)
    )
    places_Pk = torch.arange(keys_BHRK.shape[2], device=device).view(slots_BHPk.shape[2:])
    return keys_BHRK, values_BHRK, places_Pk.expand_as(slots_BHPk)


def _dots(queries_BHTK: Tensor, keys_BHRK: Tensor, slots_BHPk: Tensor, *, known_BHTk: Tensor | None = None) -> Tensor:
    """Inner products of queries with stored keys, B H T k, which may be known."""
    if slots_BHPk.shape[2] == queries_BHTK.shape[2]:
        products_Nk = dot_rows(
            queries_BHTK.flatten(0, 2),
            keys_BHRK.flatten(0, 2),
            _rows(slots_BHPk, keys_BHRK),
            known_NM=None if known_BHTk is None else known_BHTk.flatten(0, 2),
        )
        return products_Nk.view(*queries_BHTK.shape[:3], -1)
    return queries_BHTK @ gather(keys_BHRK, slots_BHPk)[:, :, 0].to(queries_BHTK.dtype).mT


def weigh(weights_BHTk: Tensor, retrieved: Retrieved) -> Tensor:
    """Weighted sums of stored values, B H T K."""
    values_BHRK, places_BHPk = retrieved.values_BHRK, retrieved.places_BHPk
    with part("gather"), full_precision(weights_BHTk.device):
        if places_BHPk.shape[2] == weights_BHTk.shape[2]:
            weights_Nk = weights_BHTk.flatten(0, 2)
            sums_NK = sum_rows(weights_Nk, values_BHRK.flatten(0, 2), _rows(places_BHPk, values_BHRK))
            return sums_NK.view(*weights_BHTk.shape[:3], -1)
        return weights_BHTk @ gather(values_BHRK, places_BHPk)[:, :, 0].to(weights_BHTk.dtype)


def _rows(slots_BHTk: Tensor, stored_BHRK: Tensor) -> Tensor:
    """Slots as rows of the ring with its lanes and heads flattened, N k."""
    lanes, heads, capacity, _ = stored_BHRK.shape
    first_BH11 = torch.arange(lanes * heads, device=slots_BHTk.device).view(lanes, heads, 1, 1) * capacity
    return (slots_BHTk + first_BH11).flatten(0, 2)
