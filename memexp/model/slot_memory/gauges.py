"""Gauges of a memory made of vectors: numbers that show whether it is used.

Shapes: B lanes, M slots, D width, H heads, T tokens, K head size.
"""

import torch
from torch import Tensor

from memexp.model.watching import Gauges, if_watched


@if_watched
def memory_gauges(old_BMD: Tensor, new_BMD: Tensor) -> Gauges:
    """Compare a memory before and after a segment; each gauge is a mean over lanes.

    - memory_norm: root mean square of the new memory.
    - memory_change: norm of the change over the norm of the old memory.
    - memory_rank: `effective_rank` of the new memory.
    - memory_between: `share_between` of the new memory, with at least two lanes.
    """
    old, new = old_BMD.float(), new_BMD.float()
    change_B = (new - old).flatten(1).norm(dim=-1)
    gauges = {
        "memory_norm": new.square().mean((1, 2)).sqrt().mean(),
        "memory_change": (change_B / old.flatten(1).norm(dim=-1).clamp_min(1e-6)).mean(),
        "memory_rank": effective_rank(new),
    }
    return gauges | ({"memory_between": share_between(new)} if len(new) > 1 else {})


@torch.no_grad()
def share_between(slots_BMD: Tensor) -> Tensor:
    """The share of a memory's squared norm that differs between lanes, which read different documents.

    It is 0 if all lanes have the same memory, so that nothing in it can come from the document, and 1 on average if the
    memories of different documents have nothing in common. It is the variance over lanes, unbiased, over the mean square.
    """
    slots = slots_BMD.float()
    return slots.var(0).mean() / slots.square().mean().clamp_min(1e-24)


@torch.no_grad()
def effective_rank(slots_BMD: Tensor) -> Tensor:
    """The effective number of directions of a lane's slots, from 1 to M, mean over lanes.

    It is the participation ratio of the squared singular values, (sum s^2)^2 / sum s^4. It is 1 if all slots are multiples
    of one vector, and M if they are orthogonal and of equal norm. It needs no singular value decomposition, which would
    make an accelerator wait.
    """
    slots = slots_BMD.float()
    gram = slots @ slots.mT if slots.shape[1] <= slots.shape[2] else slots.mT @ slots
    squares_B = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    fourths_B = gram.square().sum((-2, -1))
    return (squares_B.square() / fourths_B.clamp_min(1e-24)).mean()


@if_watched
def state_read(read_BHTK: Tensor, local_BHTK: Tensor) -> Gauges:
    """The norm of what was read from state vectors over the norm of local attention; 0 in lanes of padding."""
    read_B, local_B = (output.float().flatten(1).norm(dim=-1) for output in (read_BHTK, local_BHTK))
    return {"state_read": torch.where(local_B > 0, read_B / local_B, 0).mean()}


@if_watched
def gate(keep_BMD: Tensor) -> Gauges:
    """The mean of the gates of state vectors: 1 keeps them."""
    return {"gate": keep_BMD.mean()}
