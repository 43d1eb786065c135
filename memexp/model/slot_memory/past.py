"""Memories of earlier segments that are kept, and what the present memory retrieves from them.

Shapes: B lanes, N kept memories, M memory tokens, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.transformer.attention import linear
from memexp.model.transformer.numerics import at_least_fp32
from memexp.model.transformer.shape import Shape
from memexp.model.watching import watched


class Past(NamedTuple):
    """The memories at the starts of the last segments, right-aligned: the last is the present memory."""

    memories_BNMD: Tensor
    count_B: Tensor
    """How many of the N belong to the lane's document."""

    @property
    def present_BMD(self) -> Tensor:
        """The memory that the last segment wrote."""
        return self.memories_BNMD[:, -1]


class Retrieved(NamedTuple):
    """What each memory token retrieved."""

    read_BMD: Tensor
    age: list[Tensor]
    """Gauge: by how many segments what was retrieved is older than the present memory, mean over lanes; empty if nobody watches."""


def begin(initial_MD: Tensor, lanes: int, kept: int) -> Past:
    """At a document's start there is the initial memory alone."""
    memories_BNMD = initial_MD.new_zeros(lanes, kept - 1, *initial_MD.shape)
    memories_BNMD = torch.cat([memories_BNMD, initial_MD.expand(lanes, 1, -1, -1)], dim=1)
    return Past(memories_BNMD, torch.ones(lanes, dtype=torch.long, device=initial_MD.device))


def begin_again(past: Past, initial_MD: Tensor, reset_B: Tensor) -> Past:
    """The lanes in which a document begins have the initial memory alone."""
    start = begin(initial_MD, len(reset_B), past.memories_BNMD.shape[1])
    memories_BNMD = torch.where(reset_B[:, None, None, None], start.memories_BNMD, past.memories_BNMD)
    return Past(memories_BNMD, torch.where(reset_B, start.count_B, past.count_B))


def with_newest(past: Past, memory_BMD: Tensor) -> Past:
    """Keep a new memory, with its gradient, and forget the oldest."""
    kept = past.memories_BNMD.shape[1]
    memories_BNMD = torch.cat([past.memories_BNMD[:, 1:], memory_BMD[:, None].to(past.memories_BNMD.dtype)], dim=1)
    return Past(memories_BNMD, (past.count_B + 1).clamp_max(kept))


class Retrieval(nn.Module):
    """R = softmax(M W_Q (P W_K)^T / sqrt(D)) P W_V W_O, of the present memory M and all kept ones P (one head).

    Queries and keys are made of memories with a root mean square of 1.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.queries = linear(shape.width, shape.width)
        self.keys = linear(shape.width, shape.width)
        self.values = linear(shape.width, shape.width)
        self.output = linear(shape.width, shape.width)

    def forward(self, past: Past) -> Retrieved:
        """What every memory token retrieves; memories of other documents are not seen."""
        _, kept, slots, width = past.memories_BNMD.shape
        index_N = torch.arange(kept, device=past.count_B.device)
        there_BN = index_N >= kept - past.count_B[:, None]
        queries_BMD = self.queries(F.rms_norm(past.present_BMD, (width,), eps=1e-6))
        # (q W_K^T) p instead of q (W_K p): the M queries are projected, not the N M keys; likewise the weighted sums, not the values
        pasts_BSD = past.memories_BNMD.flatten(1, 2)
        keys_BSD = F.rms_norm(pasts_BSD, (width,), eps=1e-6)
        scores_BMS = (queries_BMD @ self.keys.weight) @ keys_BSD.to(queries_BMD.dtype).mT * width**-0.5
        seen_BS = there_BN.repeat_interleave(slots, dim=1)
        weights_BMS = at_least_fp32(scores_BMS).masked_fill(~seen_BS[:, None], float("-inf")).softmax(-1)
        read_BMD = self.output(self.values(weights_BMS.to(pasts_BSD.dtype) @ pasts_BSD))
        if not watched():
            return Retrieved(read_BMD, [])
        with torch.no_grad():
            of_each_BN = weights_BMS.unflatten(-1, (kept, slots)).sum(-1).mean(1)
            return Retrieved(read_BMD, [(of_each_BN * (kept - 1 - index_N)).sum(-1).mean()])
