"""Exact search on a CPU, where the host knows how many pairs each lane has.

Scores are not kept. Keys are split into groups of a few neighbours and multiplied tile by tile. Only the largest score of
each group is kept, its maximum. The k best pairs are in the k groups with the largest maxima, and the members of these
groups are scored again.

If the processor multiplies bf16 fast, the tiles are in bf16. Then more groups are scored again in fp32, and a bound on the
rounding errors proves for each query that no other pair is among the best. Queries without this proof are searched again in
fp32, so the result is always that of fp32.

Shapes: B lanes, H heads, T queries, R slots, K head size, k neighbours, N readable pairs of a lane, G groups, L groups
that are scored again, M their members, W slots of a tile.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.gather_matmul import dot_rows
from memexp.model.knn_memory.ring import Ring, readable_spans
from memexp.model.knn_memory.selection import Neighbours, best_rows

GROUP, SMALL_GROUP = 8, 4
"""Pairs in a group. With smaller groups, fewer members are scored again, but there are more maxima."""
SMALL_TO = 1 << 14
"""With at most this many readable pairs, groups have the size SMALL_GROUP."""
QUERIES = 512
"""Largest number of queries searched together on a CPU."""
TILE_BYTES = 1 << 20
"""Bytes of scores that exist at once on a CPU, so that they stay in the processor's caches."""
MAXIMA_BYTES = 32 << 20
"""Bytes of group maxima that exist at once on a CPU."""
FEW = 2048
"""With at most this many readable pairs, all scores are kept."""
HALF_FROM = 2048
"""Tiles in bf16 are faster from this many readable pairs on."""
SHORTLIST = 2
"""After tiles in bf16, SHORTLIST * k groups are scored again."""
ROUNDING = 3.1 * 2**-8
"""Error bound of a bf16 score, relative to the product of the norms: both factors and the result are rounded by 2^-8."""


class _Readable(NamedTuple):
    """The readable pairs of some heads of one lane: at most two ranges of slots."""

    keys_HRK: Tensor
    spans: list[tuple[int, int]]
    largest_norm: float
    """The largest norm of a key."""

    @property
    def pairs(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    @property
    def group(self) -> int:
        return SMALL_GROUP if self.pairs <= SMALL_TO else GROUP

    def members(self, groups_HTL: Tensor) -> tuple[Tensor, Tensor]:
        """The slots of groups, H T M, and which of them exist: the last group of a range may be smaller."""
        firsts, stops = [], []
        for start, stop in self.spans:
            first = torch.arange(start, stop, self.group)
            firsts.append(first)
            stops.append((first + self.group).clamp_max(stop))
        slots_HTLg = torch.cat(firsts)[groups_HTL][..., None] + torch.arange(self.group)
        stops_HTL1 = torch.cat(stops)[groups_HTL][..., None]
        return slots_HTLg.clamp_max(stops_HTL1 - 1).flatten(-2), (slots_HTLg < stops_HTL1).flatten(-2)


def by_spans(queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """The best pairs for every query; only readable pairs are multiplied."""
    lanes, heads, length, _ = queries_BHTK.shape
    slots_BHTk = torch.zeros(lanes, heads, length, k, dtype=torch.long)
    found_BHTk = torch.zeros(lanes, heads, length, k, dtype=torch.bool)
    scores_BHTk = queries_BHTK.new_zeros(lanes, heads, length, k)
    for lane, spans in enumerate(readable_spans(ring)):
        count = sum(stop - start for start, stop in spans)
        take = min(k, count)
        if take == 0:
            continue
        found_BHTk[lane, :, :, :take] = True
        half = count >= max(HALF_FROM, 2 * SHORTLIST * GROUP * take) and _multiplies_bf16_fast()
        largest_norm = _largest_norm(ring.keys_BHRK[lane], spans) if half else 0.0
        at_once = max(1, min(QUERIES, MAXIMA_BYTES * GROUP // (4 * count)))
        together = max(1, at_once // length)  # short segments are searched for several heads at once
        for head in range(0, heads, together):
            readable = _Readable(ring.keys_BHRK[lane, head : head + together], spans, largest_norm)
            for start in range(0, length, at_once):
                block = (lane, slice(head, head + together), slice(start, start + at_once))
                if half:
                    best, proven = _best_by_halves(queries_BHTK[block], readable, take)
                    half = proven >= 0.5  # if keys are similar, the bound proves little
                else:
                    best = _best(queries_BHTK[block], readable, take)
                slots_BHTk[*block, :take], scores_BHTk[*block, :take] = best
    return Neighbours(slots_BHTk, found_BHTk, scores_BHTk)


class _Best(NamedTuple):
    """The k best pairs of each query, best first."""

    slots_HTk: Tensor
    scores_HTk: Tensor


def _best(queries_HTK: Tensor, readable: _Readable, k: int) -> _Best:
    """The best of all readable pairs."""
    if readable.pairs <= FEW:
        return _best_of_few(queries_HTK, readable, k)
    maxima_HGT = _maxima(queries_HTK, readable, queries_HTK.dtype)
    groups_HTL = best_rows(maxima_HGT, min(k, maxima_HGT.shape[1]))
    return _best_members(queries_HTK, readable, groups_HTL, k)


def _best_of_few(queries_HTK: Tensor, readable: _Readable, k: int) -> _Best:
    """The best pairs, from all scores; for so few pairs that groups do not pay."""
    keys_HNK = torch.cat([readable.keys_HRK[:, start:stop] for start, stop in readable.spans], dim=1)
    scores_HNT = keys_HNK.to(queries_HTK.dtype) @ queries_HTK.mT
    places_HTk = best_rows(scores_HNT, k)
    order_HTk = scores_HNT.mT.gather(-1, places_HTk).argsort(-1, descending=True)
    slots_N = torch.cat([torch.arange(start, stop) for start, stop in readable.spans])
    slots_HTk = slots_N[places_HTk.gather(-1, order_HTk)]
    return _Best(slots_HTk, _scores(queries_HTK, readable.keys_HRK, slots_HTk))


def _best_by_halves(queries_HTK: Tensor, readable: _Readable, k: int) -> tuple[_Best, float]:
    """The best pairs, by groups chosen in bf16, and the share of queries for which the bound is a proof."""
    maxima_HGT = _maxima(queries_HTK, readable, torch.bfloat16)
    groups_HTL = best_rows(_ordered(maxima_HGT), SHORTLIST * k)
    best = _best_members(queries_HTK, readable, groups_HTL, k)
    # a pair outside the chosen groups has at most their smallest maximum in bf16, and at most `slack` more in fp32
    smallest_HT = maxima_HGT.mT.gather(-1, groups_HTL).amin(-1).float()
    slack_HT = ROUNDING * queries_HTK.norm(dim=-1) * readable.largest_norm
    unproven_HT = (best.scores_HTk[..., -1] < smallest_HT + slack_HT) | (smallest_HT <= 0)
    for head, unproven_T in enumerate(unproven_HT):
        if unproven_T.any():
            one_head = readable._replace(keys_HRK=readable.keys_HRK[head : head + 1])
            again = _best(queries_HTK[head : head + 1, unproven_T], one_head, k)
            for found, true in zip(best, again, strict=True):
                found[head, unproven_T] = true[0]
    return best, 1 - unproven_HT.float().mean().item()


def _maxima(queries_HTK: Tensor, readable: _Readable, dtype: torch.dtype) -> Tensor:
    """The largest inner product in each group of pairs, H G T; many queries are multiplied at once."""
    heads, length, _ = queries_HTK.shape
    group = readable.group
    groups = sum(-(-(stop - start) // group) for start, stop in readable.spans)
    maxima_HGT = torch.empty(heads, groups, length, dtype=dtype)
    at_once = max(1, TILE_BYTES // (group * length * dtype.itemsize))  # groups
    scores_WT = torch.empty(at_once * group, length, dtype=dtype)
    for head, queries_TK in enumerate(queries_HTK.to(dtype)):
        done = 0
        for start, stop in readable.spans:
            for first in range(start, stop, len(scores_WT)):
                keys_WK = readable.keys_HRK[head, first : min(first + len(scores_WT), stop)].to(dtype)
                new = -(-len(keys_WK) // group)
                torch.mm(keys_WK, queries_TK.T, out=scores_WT[: len(keys_WK)])
                if len(keys_WK) < new * group:
                    scores_WT[len(keys_WK) : new * group] = float("-inf")
                tile_NgT = scores_WT[: new * group].unflatten(0, (new, group))
                torch.amax(_ordered(tile_NgT), 1, out=_ordered(maxima_HGT[head, done : done + new]))
                done += new
    return maxima_HGT


def _ordered(scores: Tensor) -> Tensor:
    """The scores in a type that compares fast, without a copy; only positive scores keep their order.

    The bits of positive bf16 numbers, read as integers, have the same order, and integers compare many times faster.
    Negative numbers are smaller, in an arbitrary order.
    """
    return scores.view(torch.int16) if scores.dtype == torch.bfloat16 else scores


def _best_members(queries_HTK: Tensor, readable: _Readable, groups_HTL: Tensor, k: int) -> _Best:
    """The best members of groups."""
    slots_HTM, exists_HTM = readable.members(groups_HTL)
    scores_HTM = _scores(queries_HTK, readable.keys_HRK, slots_HTM)
    best = scores_HTM.masked_fill_(~exists_HTM, float("-inf")).topk(k, dim=-1)
    return _Best(slots_HTM.gather(-1, best.indices), best.values)


def _scores(queries_HTK: Tensor, keys_HRK: Tensor, slots_HTM: Tensor) -> Tensor:
    """The inner product of each query with the keys in its slots, H T M."""
    heads, capacity, head_size = keys_HRK.shape
    rows_HTM = slots_HTM + torch.arange(heads).view(-1, 1, 1) * capacity
    table = keys_HRK.reshape(-1, head_size)
    return dot_rows(queries_HTK.flatten(0, 1), table, rows_HTM.flatten(0, 1)).view(slots_HTM.shape)


def _largest_norm(keys_HRK: Tensor, spans: list[tuple[int, int]]) -> float:
    return max(keys_HRK[:, start:stop].float().norm(dim=-1).max().item() for start, stop in spans)


@cache
def _multiplies_bf16_fast() -> bool:
    """Whether this CPU has instructions for bf16; with torch before 2.9 the answer is always no."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
