"""Gauges of a memory made of vectors: numbers that show whether it is alive.

Shapes: B lanes, M slots, D width.
"""

import torch
from torch import Tensor


@torch.no_grad()
def memory_gauges(old_BMD: Tensor, new_BMD: Tensor) -> dict[str, Tensor]:
    """What a segment made of a memory.

    memory_norm is the root mean square of its numbers, memory_change how far it moved relative to where it was, and
    memory_rank the slots that count (see `effective_rank`); means over lanes.
    """
    old, new = old_BMD.float(), new_BMD.float()
    moved_B = (new - old).flatten(1).norm(dim=-1)
    return {
        "memory_norm": new.square().mean((1, 2)).sqrt().mean(),
        "memory_change": (moved_B / old.flatten(1).norm(dim=-1).clamp_min(1e-6)).mean(),
        "memory_rank": effective_rank(new),
    }


@torch.no_grad()
def effective_rank(slots_BMD: Tensor) -> Tensor:
    """How many directions the slots of a lane take up, from 1 to M, mean over lanes.

    The participation ratio of the squared singular values, (sum s^2)^2 / sum s^4: 1 when all slots are alike up to a
    factor, M when they are orthogonal and as long as one another. It needs no decomposition, so no accelerator waits.
    """
    slots = slots_BMD.float()
    gram = slots @ slots.mT if slots.shape[1] <= slots.shape[2] else slots.mT @ slots
    squares_B = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    fourths_B = gram.square().sum((-2, -1))
    return (squares_B.square() / fourths_B.clamp_min(1e-24)).mean()
