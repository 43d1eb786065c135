"""Exact search on a CPU, where the host knows how many pairs each lane has.

Scores are not kept. Keys are split into groups of a few neighbours and multiplied tile by tile. Only the largest score of
each group is kept, its maximum. The k best pairs are in the k groups with the largest maxima, and the members of these
groups are scored again.

If the processor multiplies bf16 fast, `memexp.model.knn_memory.cpu_halves` searches. The queries that it cannot resolve are
searched here, so the result is always that of fp32.

Shapes: B lanes, H heads, T queries, R slots, K head size, k neighbours, N readable pairs of a lane, G groups, L groups
that are scored again, M their members, W slots of a tile.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.cpu_halves import Scores, best_above
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
"""Searching in bf16 is faster from this many readable pairs on, and only if each query wants few of them."""
FEW_OF = 32
"""Searching in bf16 is faster if there are this many times as many pairs as a query wants."""


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
    memory = Scores()
    for lane, spans in enumerate(readable_spans(ring)):
        count = sum(stop - start for start, stop in spans)
        take = min(k, count)
        if take == 0:
            continue
        found_BHTk[lane, :, :, :take] = True
        half = count >= max(HALF_FROM, FEW_OF * take) and _multiplies_bf16_fast()
        largest_norm = _largest_norm(ring.keys_BHRK[lane], spans) if half else 0.0
        at_once = QUERIES if half else max(1, min(QUERIES, MAXIMA_BYTES * GROUP // (4 * count)))
        together = max(1, at_once // length)  # short segments are searched for several heads at once
        for head in range(0, heads, together):
            readable = _Readable(ring.keys_BHRK[lane, head : head + together], spans, largest_norm)
            for start in range(0, length, at_once):
                block = (lane, slice(head, head + together), slice(start, start + at_once))
                if half:
                    best, resolved = _best_by_halves(queries_BHTK[block], readable, take, memory)
                    half = resolved >= 0.5  # where keys are too similar
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
    maxima_HGT = _maxima(queries_HTK, readable)
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


def _best_by_halves(queries_HTK: Tensor, readable: _Readable, k: int, memory: Scores) -> tuple[_Best, float]:
    """The best of all readable pairs, and the share of queries that were resolved in bf16."""
    slots_HTk, scores_HTk, resolved_HT = best_above(
        queries_HTK, readable.keys_HRK, readable.spans, k, largest_norm=readable.largest_norm, memory=memory
    )
    for head, again_T in enumerate(~resolved_HT):
        if again_T.any():
            one_head = readable._replace(keys_HRK=readable.keys_HRK[head : head + 1])
            again = _best(queries_HTK[head : head + 1, again_T], one_head, k)
            slots_HTk[head, again_T], scores_HTk[head, again_T] = again.slots_HTk[0], again.scores_HTk[0]
    return _Best(slots_HTk, scores_HTk), resolved_HT.float().mean().item()


def _maxima(queries_HTK: Tensor, readable: _Readable) -> Tensor:
    """The largest inner product in each group of pairs, H G T; many queries are multiplied at once."""
    (heads, length, _), dtype = queries_HTK.shape, queries_HTK.dtype
    group = readable.group
    groups = sum(-(-(stop - start) // group) for start, stop in readable.spans)
    maxima_HGT = torch.empty(heads, groups, length, dtype=dtype)
    at_once = max(1, TILE_BYTES // (group * length * dtype.itemsize))  # groups
    scores_WT = torch.empty(at_once * group, length, dtype=dtype)
    for head, queries_TK in enumerate(queries_HTK):
        done = 0
        for start, stop in readable.spans:
            for first in range(start, stop, len(scores_WT)):
                keys_WK = readable.keys_HRK[head, first : min(first + len(scores_WT), stop)].to(dtype)
                new = -(-len(keys_WK) // group)
                torch.mm(keys_WK, queries_TK.T, out=scores_WT[: len(keys_WK)])
                if len(keys_WK) < new * group:
                    scores_WT[len(keys_WK) : new * group] = float("-inf")
                tile_NgT = scores_WT[: new * group].unflatten(0, (new, group))
                torch.amax(tile_NgT, 1, out=maxima_HGT[head, done : done + new])
                done += new
    return maxima_HGT


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
