"""Training with negatives: queries see their document's last segment together with those of other lanes, in one softmax.

Shapes: B lanes, A lanes of all processes, H heads, T tokens, R tokens of the last segment, K head size, S keys in sight of local attention, N = R keys of each
lane that is seen.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.ring import Ring, clear_ring
from memexp.model.state import zero_lanes
from memexp.model.transformer.attention import Heads, Mask, Sight, local_scores
from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.model.watching import Gauges, if_watched
from memexp.ranks.exchange import of_all_lanes, of_own_lanes


class Recent(NamedTuple):
    """The last R keys and values of a layer, with their gradient."""

    keys_BHRK: Tensor
    values_BHRK: Tensor
    there_BR: Tensor
    """Which of them are tokens of the lane's document."""


class RingAndRecent(NamedTuple):
    """A layer's memory in a model that trains with negatives: only evaluation reads the ring, only training the last segment."""

    ring: Ring
    recent: Recent


class CrossBatch(NamedTuple):
    """The output of the heads, and gauges if somebody watches."""

    read_BHTK: Tensor
    gauges: Gauges
    """memory_share: the attention weight on the own document's last segment. negative_share: that on those of other lanes."""


def nothing_recent(ring: Ring, like: Tensor, tokens: int) -> Recent:
    """No last segment, of `tokens` tokens."""
    lanes, heads, _, head_size = ring.keys_BHRK.shape
    empty = like.new_zeros(lanes, heads, tokens, head_size)
    return Recent(empty, empty, torch.zeros(lanes, tokens, dtype=torch.bool, device=like.device))


def clear(memory: RingAndRecent, reset_B: Tensor) -> RingAndRecent:
    """Forget the documents of these lanes. Keys and values are set to zero too, so that no gradient reaches them."""
    return RingAndRecent(clear_ring(memory.ring, reset_B), Recent(*(zero_lanes(x, reset_B) for x in memory.recent)))


def newest(recent: Recent, heads: Heads, valid_BT: Tensor) -> Recent:
    """The last R tokens after a segment was read."""
    keep = recent.there_BR.shape[1]

    def last(old: Tensor, new: Tensor, axis: int) -> Tensor:
        return torch.cat([old, new.to(old.dtype)], dim=axis).narrow(axis, new.shape[axis], keep)

    return Recent(
        last(recent.keys_BHRK, heads.keys_BGTK, 2),
        last(recent.values_BHRK, heads.values_BGTK, 2),
        last(recent.there_BR, valid_BT, 1),
    )


def read(heads: Heads, sight: Sight, mask: Mask, recent: Recent, negatives: int) -> CrossBatch:
    """Softmax over the own last segment, those of the next `negatives` lanes, and the keys in sight of local attention.

    Lanes, of all processes, are in a circle. With fewer other lanes than `negatives`, all of them are seen once.
    """
    size = recent.there_BR.shape[1]
    keys_AHRK, values_AHRK, there_AR = (of_all_lanes(x) for x in recent)
    shifts = range(1 + min(negatives, len(there_AR) - 1))

    def seen(x: Tensor, axis: int) -> Tensor:
        return torch.cat([of_own_lanes(x.roll(-shift, 0)) for shift in shifts], dim=axis)

    keys_BHNK, values_BHNK, there_BN = seen(keys_AHRK, 2), seen(values_AHRK, 2), seen(there_AR, 1)
    with full_precision(keys_BHNK.device):
        scores_BHTN = at_least_fp32(heads.queries_BHTK) @ at_least_fp32(keys_BHNK).mT
    scores_BHTN = scores_BHTN.masked_fill(~there_BN[:, None, None], float("-inf"))
    weights = torch.cat([scores_BHTN, local_scores(sight, mask)], dim=-1).softmax(-1)
    values = torch.cat([values_BHNK.to(sight.values_BGSK.dtype), sight.values_BGSK], dim=2)
    return CrossBatch(weights.to(values.dtype) @ values, _shares(weights, size, len(shifts) * size))


@if_watched
def _shares(weights_BHTM: Tensor, own: int, seen: int) -> Gauges:
    """The attention weights on the first `own` keys, and on the other keys of the first `seen`."""
    shares = {"memory_share": weights_BHTM[..., :own], "negative_share": weights_BHTM[..., own:seen]}
    return {name: weights.sum(-1).mean() for name, weights in shares.items()}
