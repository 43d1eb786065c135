"""What a search found, read: retrieved pairs mixed with local attention (Wu et al. 2022, section 3.1).

Shapes: B lanes, H heads, T tokens, R ring slots, K head size, k neighbours, S keys in sight of local attention,
P sets of pairs: T where each query has its own, 1 where all of them read the same.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.exact_search import Neighbours
from memexp.model.knn_memory.gather_matmul import dot_rows, sum_rows
from memexp.model.knn_memory.ring import Ring, gather
from memexp.model.transformer.numerics import at_least_fp32
from memexp.regions import part


class Reading(NamedTuple):
    """What the heads get from local attention and the memory together, and where the memory's part comes from."""

    read_BHTK: Tensor
    slots_BHTk: Tensor
    weights_BHTk: Tensor
    """Share of the head's attention; 0 where nothing was found. Sums to the memory's share."""
    recall: Tensor | None = None
    """Of an approximate search."""


class Retrieved(NamedTuple):
    """The pairs that a search found; no gradient reaches the ring."""

    slots_BHPk: Tensor
    found_BHPk: Tensor
    scores_BHTk: Tensor
    """Inner products with gradient to the queries; -inf where nothing was found."""
    values_BHRK: Tensor
    places_BHPk: Tensor
    """Where in `values_BHRK` the pairs' values are: the slots, or where the ring is elsewhere, places among copies."""


def fetch(queries_BHTK: Tensor, ring: Ring, found: Neighbours) -> Retrieved:
    """Score the pairs of a search, on the device of the queries."""
    with part("gather"), torch.autocast(queries_BHTK.device.type, enabled=False):
        keys_BHRK, values_BHRK, places_BHPk = ring.keys_BHRK, ring.values_BHRK, found.slots_BHTk
        if keys_BHRK.device != queries_BHTK.device:
            keys_BHRK, values_BHRK, places_BHPk = copies(ring, found.slots_BHTk, queries_BHTK.device)
        scores_BHTk = _dots(at_least_fp32(queries_BHTK), keys_BHRK, places_BHPk)
    slots_BHPk, found_BHPk = (each.to(queries_BHTK.device) for each in found)
    scores_BHTk = scores_BHTk.masked_fill(~found_BHPk, float("-inf"))
    return Retrieved(slots_BHPk, found_BHPk, scores_BHTk, values_BHRK, places_BHPk)


def copies(ring: Ring, slots_BHPk: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of some slots, side by side on another device, and where among them each slot's are."""
    keys_BHRK, values_BHRK = (
        gather(stored, slots_BHPk).flatten(2, 3).to(device) for stored in (ring.keys_BHRK, ring.values_BHRK)
    )
    places_Pk = torch.arange(keys_BHRK.shape[2], device=device).view(slots_BHPk.shape[2:])
    return keys_BHRK, values_BHRK, places_Pk.expand_as(slots_BHPk)


def gated(retrieved: Retrieved, local_BHTK: Tensor, gate_H: Tensor) -> Reading:
    """Weigh memory against local attention by a gate a head: V = g V_memory + (1 - g) V_local.

    Where a lane's memory is empty the gate is off, so that the layer is plain local attention; the published code
    scales local attention by 1 - g there.
    """
    any_BHP1 = retrieved.found_BHPk[..., :1]  # the best comes first: it is there or nothing is
    # a row without any finite score would be NaN, in the backward pass too
    weights_BHTk = retrieved.scores_BHTk.masked_fill(~any_BHP1, 0).softmax(-1)
    gate_BHP1 = gate_H.sigmoid().view(1, -1, 1, 1) * any_BHP1
    weights_BHTk = weights_BHTk * gate_BHP1
    memory_BHTK = _weigh(weights_BHTk, retrieved).to(local_BHTK.dtype)
    read_BHTK = memory_BHTK + (1 - gate_BHP1).to(local_BHTK.dtype) * local_BHTK
    return Reading(read_BHTK, retrieved.slots_BHPk.expand_as(weights_BHTk), weights_BHTk.detach())


def joint(retrieved: Retrieved, local_scores_BHTS: Tensor, local_values_BHSK: Tensor) -> Reading:
    """One softmax over the retrieved pairs and the local keys, as in the paper's first version.

    Args:
        local_scores_BHTS: as `memexp.model.transformer.attention.local_scores` gives them.
    """
    k = retrieved.scores_BHTk.shape[-1]
    weights = torch.cat([retrieved.scores_BHTk, local_scores_BHTS], dim=-1).softmax(-1)
    weights_BHTk, local_BHTS = weights[..., :k], weights[..., k:].to(local_values_BHSK.dtype)
    read_BHTK = _weigh(weights_BHTk, retrieved).to(local_values_BHSK.dtype) + local_BHTS @ local_values_BHSK
    return Reading(read_BHTK, retrieved.slots_BHPk.expand_as(weights_BHTk), weights_BHTk.detach())


def _dots(queries_BHTK: Tensor, keys_BHRK: Tensor, slots_BHPk: Tensor) -> Tensor:
    """Products of queries with stored keys, B H T k."""
    if slots_BHPk.shape[2] == queries_BHTK.shape[2]:
        products_Nk = dot_rows(queries_BHTK.flatten(0, 2), keys_BHRK.flatten(0, 2), _rows(slots_BHPk, keys_BHRK))
        return products_Nk.view(*queries_BHTK.shape[:3], -1)
    return queries_BHTK @ gather(keys_BHRK, slots_BHPk)[:, :, 0].to(queries_BHTK.dtype).mT


def _weigh(weights_BHTk: Tensor, retrieved: Retrieved) -> Tensor:
    """Sums of stored values by weight, B H T K."""
    values_BHRK, places_BHPk = retrieved.values_BHRK, retrieved.places_BHPk
    with part("gather"), torch.autocast(weights_BHTk.device.type, enabled=False):
        if places_BHPk.shape[2] == weights_BHTk.shape[2]:
            weights_Nk = weights_BHTk.flatten(0, 2)
            sums_NK = sum_rows(weights_Nk, values_BHRK.flatten(0, 2), _rows(places_BHPk, values_BHRK))
            return sums_NK.view(*weights_BHTk.shape[:3], -1)
        return weights_BHTk @ gather(values_BHRK, places_BHPk)[:, :, 0].to(weights_BHTk.dtype)


def _rows(slots_BHTk: Tensor, stored_BHRK: Tensor) -> Tensor:
    """Slots as rows of all lanes and heads under one another, N k."""
    lanes, heads, capacity, _ = stored_BHRK.shape
    first_BH11 = torch.arange(lanes * heads, device=slots_BHTk.device).view(lanes, heads, 1, 1) * capacity
    return (slots_BHTk + first_BH11).flatten(0, 2)
