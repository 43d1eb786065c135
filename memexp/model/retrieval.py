"""Reading a kNN memory: each query attends to the k pairs of a ring that match it best (Wu et al. 2022, section 3.1).

Shapes: B lanes, H heads, T tokens, R ring slots, K head size, k neighbours, S keys in sight of local attention.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.attention import at_least_fp32
from memexp.model.ring import Ring, gather
from memexp.model.search import exact


class Reading(NamedTuple):
    """What the heads get from local attention and the memory together, and where the memory's part comes from."""

    read_BHTK: Tensor
    slots_BHTk: Tensor
    weights_BHTk: Tensor
    """Share of the head's attention; 0 where nothing was found. Sums to the memory's share."""


class Retrieved(NamedTuple):
    """The pairs that a search found: gathered copies, so that no gradient reaches the ring."""

    slots_BHTk: Tensor
    found_BHTk: Tensor
    scores_BHTk: Tensor
    """Inner products with gradient to the queries; -inf where nothing was found."""
    values_BHTkK: Tensor


def retrieve(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Retrieved:
    """Find, copy and score the best pairs."""
    found = exact(queries_BHTK.detach(), ring, neighbours)
    keys_BHTkK = at_least_fp32(gather(ring.keys_BHRK, found.slots_BHTk))
    with torch.autocast(queries_BHTK.device.type, enabled=False):
        scores_BHTk = (keys_BHTkK @ at_least_fp32(queries_BHTK)[..., None]).squeeze(-1)
    values_BHTkK = gather(ring.values_BHRK, found.slots_BHTk).to(queries_BHTK.dtype)
    return Retrieved(*found, scores_BHTk.masked_fill(~found.found_BHTk, float("-inf")), values_BHTkK)


def gated(retrieved: Retrieved, local_BHTK: Tensor, gate_H: Tensor) -> Reading:
    """Weigh memory against local attention by a gate a head: V = g V_memory + (1 - g) V_local.

    Where a lane's memory is empty the gate is off, so that the layer is plain local attention; the published code
    scales local attention by 1 - g there.
    """
    any_BHT1 = retrieved.found_BHTk[..., :1]  # the best comes first: it is there or nothing is
    # a row without any finite score would be NaN, in the backward pass too
    weights_BHTk = retrieved.scores_BHTk.masked_fill(~any_BHT1, 0).softmax(-1)
    gate_BHT1 = gate_H.sigmoid().view(1, -1, 1, 1) * any_BHT1
    weights_BHTk = weights_BHTk * gate_BHT1
    memory_BHTK = _weigh(weights_BHTk, retrieved.values_BHTkK)
    read_BHTK = memory_BHTK + (1 - gate_BHT1).to(local_BHTK.dtype) * local_BHTK
    return Reading(read_BHTK, retrieved.slots_BHTk, weights_BHTk.detach())


def joint(retrieved: Retrieved, local_scores_BHTS: Tensor, local_values_BHSK: Tensor) -> Reading:
    """One softmax over the retrieved pairs and the local keys, as in the paper's first version.

    Args:
        local_scores_BHTS: as `memexp.model.attention.local_scores` gives them.
    """
    k = retrieved.scores_BHTk.shape[-1]
    weights = torch.cat([retrieved.scores_BHTk, local_scores_BHTS], dim=-1).softmax(-1)
    weights_BHTk, local_BHTS = weights[..., :k], weights[..., k:].to(local_values_BHSK.dtype)
    read_BHTK = _weigh(weights_BHTk, retrieved.values_BHTkK) + local_BHTS @ local_values_BHSK
    return Reading(read_BHTK, retrieved.slots_BHTk, weights_BHTk.detach())


def _weigh(weights_BHTk: Tensor, values_BHTkK: Tensor) -> Tensor:
    return (weights_BHTk.to(values_BHTkK.dtype)[..., None, :] @ values_BHTkK).squeeze(-2)
