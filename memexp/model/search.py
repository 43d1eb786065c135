"""Exact search: the k pairs of a ring whose keys have the largest inner products with each query.

Scores never exist for the whole memory at once, and the best are found without sorting. Split a row of scores into
groups: the k best scores lie in the k groups with the largest maxima, for each score among the k best is the maximum of
its group or shares it with a larger one. So the maxima come first, tile by tile while the scores are in the processor's
cache, then the best groups, then their members.
Shapes: B lanes, H heads, T queries, R slots, K head size, k neighbours, G groups, M members of a group, N members
of all chosen groups, W slots of a tile.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.ring import Ring, ages, readable_spans

MEMBERS = 8
"""Slots of a group, whose maximum stands for them, on a CPU."""
TILE = 1024
"""Slots whose scores exist at once on a CPU; those of 512 queries fill 2 MiB."""
BLOCK_BYTES = 64 << 20
"""Maxima that exist at once on a CPU."""
MEMBER_BYTES = 8 << 20
"""Copies of keys that exist at once on a CPU."""
ACCELERATOR_BLOCK_BYTES = 1 << 30
"""Scores that exist at once on an accelerator."""
STRIDE = 4
"""Members of a group in `top_k`."""
SHORT = 256
"""Rows that `top_k` hands to torch."""


class Neighbours(NamedTuple):
    """What a search found."""

    slots_BHTk: Tensor
    """Slots of the ring, best first; arbitrary where not found. Ties may come in any order."""
    found_BHTk: Tensor
    """False where the lane holds fewer than k pairs."""


@torch.no_grad()
def exact(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours:
    """The best pairs for every query among those that the ring's counts say are readable."""
    queries_BHTK = queries_BHTK.to(ring.keys_BHRK.dtype)
    if queries_BHTK.device.type == "cpu":
        return _by_spans(queries_BHTK, ring, neighbours)
    return _by_mask(queries_BHTK, ring, neighbours)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Where the k largest of the last axis are, in no order; exact, and faster than `torch.topk` on long rows.

    Groups are strided columns here, for then their maxima are a vectorised pass.
    """
    length = scores.shape[-1]
    columns = length // STRIDE
    if length <= SHORT or columns < 2 * k:
        return scores.topk(k, dim=-1, sorted=False).indices
    whole = columns * STRIDE
    maxima = scores[..., :whole].unflatten(-1, (STRIDE, columns)).amax(-2)
    members = top_k(maxima, k)[..., None] + columns * torch.arange(STRIDE, device=scores.device)
    members = members.flatten(-2)
    if whole < length:
        rest = torch.arange(whole, length, device=scores.device).expand(*members.shape[:-1], -1)
        members = torch.cat([members, rest], dim=-1)
    return members.gather(-1, scores.gather(-1, members).topk(k, dim=-1, sorted=False).indices)


def _by_spans(queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """On a CPU, where the host knows the counts: only slots that hold something are multiplied."""
    size = (*queries_BHTK.shape[:3], k)
    slots_BHTk, found_BHTk = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.bool)
    for lane, spans in enumerate(readable_spans(ring)):
        count = sum(stop - start for start, stop in spans)
        take = min(k, count)
        if take == 0:
            continue
        found_BHTk[lane, :, :, :take] = True
        keys_HRK = ring.keys_BHRK[lane]
        block = max(64, BLOCK_BYTES // (4 * -(-count // MEMBERS) * keys_HRK.shape[0]))
        for start in range(0, size[2], block):
            queries_HTK = queries_BHTK[lane, :, start : start + block]
            best = _best_of_lane(queries_HTK, keys_HRK, spans, take)
            slots_BHTk[lane, :, start : start + block, :take] = best
    return Neighbours(slots_BHTk, found_BHTk)


class _Groups(NamedTuple):
    """Of each group the first member, the step to the next, and where the slots that may be read end."""

    first_G: Tensor
    stride_G: Tensor
    stop_G: Tensor


def _best_of_lane(queries_HTK: Tensor, keys_HRK: Tensor, spans: list[tuple[int, int]], k: int) -> Tensor:
    """The slots of the k best, H T k, best first; `spans` are the readable ranges of slots and hold at least k."""
    tiles = [(first, min(first + TILE, stop)) for start, stop in spans for first in range(start, stop, TILE)]
    groups = _groups_of(tiles)
    maxima_HTG = queries_HTK.new_empty(*queries_HTK.shape[:2], len(groups.first_G))
    for head, (queries_TK, keys_RK) in enumerate(zip(queries_HTK, keys_HRK, strict=True)):
        filled = 0
        for start, stop in tiles:
            scores_TW = queries_TK @ keys_RK[start:stop].T
            if missing := (start - stop) % MEMBERS:
                scores_TW = F.pad(scores_TW, (0, missing), value=float("-inf"))
            columns = scores_TW.shape[1] // MEMBERS
            maxima_TG = maxima_HTG[head, :, filled : filled + columns]
            torch.amax(scores_TW.view(-1, MEMBERS, columns), 1, out=maxima_TG)
            filled += columns
    best_HTG = top_k(maxima_HTG, min(k, maxima_HTG.shape[-1]))
    block = max(1, MEMBER_BYTES // (len(keys_HRK) * best_HTG.shape[-1] * MEMBERS * keys_HRK.shape[-1] * 4))
    parts = [
        _best_members(rows, keys_HRK, _Groups(*(each[best] for each in groups)), k)
        for rows, best in zip(queries_HTK.split(block, dim=1), best_HTG.split(block, dim=1), strict=True)
    ]
    return torch.cat(parts, dim=1)


def _groups_of(tiles: list[tuple[int, int]]) -> _Groups:
    """The members of a group are as far apart as there are groups in its tile, for then maxima are a vectorised pass."""
    first, stride, last = [], [], []
    for start, stop in tiles:
        columns = -(-(stop - start) // MEMBERS)
        first.append(torch.arange(start, start + columns))
        stride.append(torch.full((columns,), columns))
        last.append(torch.full((columns,), stop))
    return _Groups(torch.cat(first), torch.cat(stride), torch.cat(last))


def _best_members(queries_HTK: Tensor, keys_HRK: Tensor, chosen: _Groups, k: int) -> Tensor:
    """Of the groups that each query chose (every field H T G), the slots of the k best members, H T k."""
    heads, capacity, head_size = keys_HRK.shape
    slots_HTGM = chosen.first_G[..., None] + chosen.stride_G[..., None] * torch.arange(MEMBERS)
    void_HTN = (slots_HTGM >= chosen.stop_G[..., None]).flatten(2)
    slots_HTN = slots_HTGM.flatten(2).masked_fill_(void_HTN, 0)
    rows_HTN = slots_HTN + torch.arange(heads).view(-1, 1, 1) * capacity
    keys = keys_HRK.reshape(-1, head_size).index_select(0, rows_HTN.flatten())
    scores = torch.bmm(keys.view(-1, slots_HTN.shape[-1], head_size), queries_HTK.reshape(-1, head_size, 1))
    scores_HTN = scores.view_as(slots_HTN).masked_fill_(void_HTN, float("-inf"))
    return slots_HTN.gather(-1, scores_HTN.topk(k, dim=-1).indices)


def _by_mask(queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """On an accelerator: shapes depend on no value, so the host never waits for the device."""
    lanes, heads, _, _ = queries_BHTK.shape
    keys_BHKR = ring.keys_BHRK.transpose(-1, -2)
    capacity = keys_BHKR.shape[-1]
    void_B11R = (ages(ring) > ring.count_B[:, None])[:, None, None]
    block = max(1, ACCELERATOR_BLOCK_BYTES // (lanes * heads * capacity * keys_BHKR.element_size()))
    take, slots, found = min(k, capacity), [], []
    for rows in queries_BHTK.split(block, dim=2):
        scores = (rows @ keys_BHKR).masked_fill_(void_B11R, float("-inf"))
        places = top_k(scores, take)
        best = scores.gather(-1, places).sort(-1, descending=True)
        slots.append(places.gather(-1, best.indices))
        found.append(best.values > float("-inf"))
    padding = (0, k - take)
    return Neighbours(
        F.pad(torch.cat(slots, dim=2), padding),
        F.pad(torch.cat(found, dim=2), padding),
    )
