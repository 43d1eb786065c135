"""Routed search: coordinate descent chooses one subset of a ring for all tokens of a segment (CoLT5, Ainslie et al. 2023).

Shapes: B lanes, H heads, R ring slots, N newest pairs, K head size, k pairs kept.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from memexp.model.knn_memory.ring import Ring, ages, gather, newest_keys
from memexp.model.knn_memory.selection import Neighbours, best_rows
from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.model.transformer.shape import Shape

ITERATIONS, SHARPNESS, FIRST_SHARPNESS, DECAY = 20, 0.03, 4.0, 0.7
"""Parameters of the descent, as in the published code of CoLT5's router; `SHARPNESS` is its epsilon."""
CONVERTED = 1 << 13
"""Pairs of a half-precision ring that are converted at once."""


class Routed(NamedTuple):
    """The pairs that a router chose for each lane and head; the third axis has size 1, for all tokens."""

    neighbours: Neighbours
    weights_BH1k: Tensor
    """Soft weights of the chosen pairs, from 0 to 1, with gradient to the router."""


class Router(nn.Module):
    """Chooses `keep` pairs per lane and head before a segment is read, by inner products of keys with a routing query.

    The query is a learned vector plus the mean of the newest `context` keys, so it is causal for every token. The best
    pairs are kept. Coordinate descent gives their weights: 1 if a pair is clearly above the threshold, and less near it.
    The gradient of the weights treats the threshold as a constant, so it needs only the kept pairs.
    *Differs from CoLT5:* the query depends on the past instead of the routed tokens, which would not be causal. And there the
    descent aims at a sum of weights of 9/8 k, of which the best k are kept; here it aims at k.
    """

    def __init__(self, shape: Shape, *, keep: int, context: int) -> None:
        super().__init__()
        self.keep, self.context = keep, context
        self.route_HK = nn.Parameter(torch.zeros(shape.heads, shape.head_size))

    def forward(self, ring: Ring) -> Routed:
        keys_BHRK = ring.keys_BHRK
        keep = min(self.keep, keys_BHRK.shape[2])
        with full_precision(keys_BHRK.device):
            query_BHK = at_least_fp32(self.route_HK) + self._past(ring)
            with torch.no_grad():
                scores_BHR = inner_products(keys_BHRK, query_BHK[:, :, None]).squeeze(-1)
                void_BHR = (ages(ring) > ring.count_B[:, None])[:, None].expand_as(scores_BHR)
                keep_B11 = ring.count_B.clamp(1, keep).view(-1, 1, 1)
                threshold_BH1 = descend(scores_BHR, void_BHR, keep_B11)
                slots_BHk = best_rows(scores_BHR.masked_fill_(void_BHR, float("-inf"))[..., None], keep).squeeze(-2)
                best = scores_BHR.gather(-1, slots_BHk).sort(-1, descending=True)
                slots_BH1k = slots_BHk.gather(-1, best.indices)[:, :, None]
            chosen_BHkK = gather(keys_BHRK, slots_BH1k)[:, :, 0].to(query_BHK.dtype)
            weights_BHk = soft_weights((chosen_BHkK @ query_BHK[..., None]).squeeze(-1), threshold_BH1)
        found_BH1k = (best.values > float("-inf"))[:, :, None]
        return Routed(Neighbours(slots_BH1k, found_BH1k), weights_BHk[:, :, None])

    def _past(self, ring: Ring) -> Tensor:
        """Mean of the newest keys, B H K; zero in an empty lane."""
        keys_BHNK, found_BN = newest_keys(ring, self.context)
        keys_BHNK = at_least_fp32(keys_BHNK) * found_BN[:, None, :, None]
        return keys_BHNK.sum(2) / found_BN.sum(-1).clamp_min(1).view(-1, 1, 1)


def inner_products(keys_BHRK: Tensor, queries_BHTK: Tensor) -> Tensor:
    """Scores of all pairs in fp32, B H R T, without a copy of a half-precision ring.

    In half precision many scores would be equal, and the choice among them would depend on the position of the ring.
    """
    if keys_BHRK.dtype == queries_BHTK.dtype:
        return keys_BHRK @ queries_BHTK.mT
    lanes, heads, capacity, _ = keys_BHRK.shape
    scores_BHRT = queries_BHTK.new_empty(lanes, heads, capacity, queries_BHTK.shape[2])
    for start in range(0, capacity, CONVERTED):
        converted_BHRK = keys_BHRK[:, :, start : start + CONVERTED].to(queries_BHTK.dtype)
        scores_BHRT[:, :, start : start + CONVERTED] = converted_BHRK @ queries_BHTK.mT
    return scores_BHRT


def descend(scores_BHR: Tensor, void_BHR: Tensor, keep_B11: Tensor) -> Tensor:
    """The threshold, B H 1, for which the `soft_weights` of pairs that are not void approach a sum of `keep_B11` from below.

    Coordinate descent (Wright 2015) with a sharpness that grows while it runs:
    a = e (log k - logsumexp((s + b) / e)), b = -relu(s + a), e <- max(e decay, e_last); the threshold is -a.
    """
    sharpness = FIRST_SHARPNESS
    target_B11 = keep_B11.to(scores_BHR.dtype).log()
    least = torch.finfo(scores_BHR.dtype).min
    lowered_BHR = -scores_BHR
    for _ in range(ITERATIONS):
        level_BHR = ((scores_BHR + lowered_BHR) / sharpness).masked_fill_(void_BHR, least)
        raised_BH1 = sharpness * (target_B11 - level_BHR.logsumexp(-1, keepdim=True))
        lowered_BHR = -(scores_BHR + raised_BH1).relu_()
        sharpness = max(sharpness * DECAY, SHARPNESS)
    return -raised_BH1


def soft_weights(scores: Tensor, threshold: Tensor) -> Tensor:
    """exp((s + a + b) / e) after the descent: 1 at or above the threshold, less below it."""
    return ((scores - threshold).clamp_max(0) / SHARPNESS).exp()
