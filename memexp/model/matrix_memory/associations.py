"""A matrix that associates keys with values: a normalised read, and a write that adds or corrects.

Shapes: B lanes, N tokens, F features of a key, V size of a value, U size of a key before its feature map. Between the lanes and
the last axes there may be others, such as heads.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.state import zero_lanes
from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.model.watching import watched
from memexp.regions import part

LEAST = 1e-5
"""The smallest divisor: an empty memory has divisor 0, and what is read of it is then 0."""

NU = 3
"""How far the products of `dpfp` reach."""


class Associations(NamedTuple):
    """What was written. All zeros at a document's start; in fp32, because a running sum in bf16 stops growing."""

    matrix_BFV: Tensor
    """A, the sum of the outer products of keys and values."""
    sum_BF: Tensor
    """z, the sum of the keys, by which a read is divided."""


def nothing_written(*axes: int, features: int, values: int, like: Tensor) -> Associations:
    """An empty memory; `axes` are the lanes, and the axes between these and the features."""
    return Associations(like.new_zeros(*axes, features, values), like.new_zeros(*axes, features))


def clear(memory: Associations, reset_B: Tensor) -> Associations:
    """Empty the lanes in which a document begins."""
    return Associations(*(zero_lanes(leaf, reset_B) for leaf in memory))


def recall(memory: Associations, queries_BNF: Tensor) -> Tensor:
    """q A / (q z), B N V: the mean of the values whose keys are like the query; 0 if nothing was written.

    Args:
        queries_BNF: features of the queries, none of them negative.
    """
    with part("memory"), full_precision(queries_BNF.device):
        queries_BNF = at_least_fp32(queries_BNF).contiguous()  # else each product copies it, and keeps its copy
        divisor_BN1 = queries_BNF @ memory.sum_BF[..., None]
        return queries_BNF @ memory.matrix_BFV / divisor_BN1.clamp_min(LEAST)


def associate(
    memory: Associations,
    keys_BNF: Tensor,
    values_BNV: Tensor,
    *,
    delta: bool,
    strength_BN: Tensor | None = None,
    growth_BN: Tensor | None = None,
) -> Associations:
    """A + sum of beta k^T (v - v'), z + sum of gamma k. All N tokens read and extend the memory as it was before them.

    Args:
        keys_BNF: features of the keys, none of them negative; a token whose key is 0 writes nothing.
        delta: v' is what the memory recalls of the key (the delta rule), so that the new value replaces the old one. Otherwise it
            is 0, and the sum of all values of a key is kept.
        strength_BN: beta; None: 1.
        growth_BN: gamma; None: 1. With `newness`, writing a known key again does not extend z, and its value is then read exactly.
    """
    with part("memory"), full_precision(keys_BNF.device):
        keys_BNF, values_BNV = at_least_fp32(keys_BNF).contiguous(), at_least_fp32(values_BNV)
        if delta:
            values_BNV = values_BNV - recall(memory, keys_BNF)
        if strength_BN is not None:
            values_BNV = values_BNV * strength_BN[..., None]
        grown_BNF = keys_BNF if growth_BN is None else keys_BNF * growth_BN[..., None]
        return Associations(memory.matrix_BFV + keys_BNF.mT @ values_BNV, memory.sum_BF + grown_BNF.sum(-2))


@torch.no_grad()
def newness(memory: Associations, keys_BNF: Tensor) -> Tensor:
    """gamma = clip(1 - k z / |k|^2, 0, 1), B N: the share of a key that the memory does not have; without gradient."""
    with full_precision(keys_BNF.device):
        keys_BNF = at_least_fp32(keys_BNF)
        known_BN = (keys_BNF @ memory.sum_BF[..., None]).squeeze(-1)
        return (1 - known_BN / keys_BNF.square().sum(-1).clamp_min(LEAST)).clamp(0, 1)


def elu_plus_one(x: Tensor) -> Tensor:
    """ELU(x) + 1, the positive features of linear attention (Katharopoulos et al. 2020)."""
    return F.elu(at_least_fp32(x)) + 1


def dpfp(x_BNU: Tensor) -> Tensor:
    """DPFP-3 (Schlag et al. 2021): products of neighbours in r = [relu(x), relu(-x)], 6 U features, none of them negative."""
    x_BNU = at_least_fp32(x_BNU)
    halves = torch.cat([x_BNU.relu(), (-x_BNU).relu()], dim=-1)
    return torch.cat([halves * halves.roll(shift, -1) for shift in range(1, NU + 1)], dim=-1)


@torch.no_grad()
def share_of(read: Tensor, other: Tensor) -> list[Tensor]:
    """Gauge: the norm of what was read of the memory, over this norm and that of what it is added to; mean over lanes.

    Empty if nobody watches.
    """
    if not watched():
        return []
    read_B, other_B = (at_least_fp32(x).flatten(1).norm(dim=-1) for x in (read, other))
    return [(read_B / (read_B + other_B).clamp_min(1e-24)).mean()]


@torch.no_grad()
def size_of(memory: Associations) -> list[Tensor]:
    """Gauge: the root mean square of the matrix, mean over lanes; empty if nobody watches."""
    return [memory.matrix_BFV.flatten(1).square().mean(-1).sqrt().mean()] if watched() else []
