"""Exact search: the k pairs of a ring whose keys have the largest inner products with each query.

Scores exist for a block of queries at a time, so never for all of them at once, and the best are found without sorting
(`top_k`). Where the processor multiplies bf16 fast, scores in bf16 only choose a shortlist; its members are scored again
in fp32, and a bound on what rounding can do proves for each query that nothing else belongs among the best. Queries
without proof are scored in fp32 altogether, so the result is that of fp32 in any case.
Shapes: B lanes, H heads, T queries, R slots, K head size, k neighbours, N readable pairs of a lane, L shortlist.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.ring import Ring, ages, readable_spans

BLOCK_BYTES = 32 << 20
"""Scores that exist at once on a CPU: about what its caches hold."""
ROWS = 128
"""Rows of scores that exist at once on a CPU at most: enough for a fast product, few enough to stay in the cache."""
ACCELERATOR_BLOCK_BYTES = 1 << 30
"""Scores that exist at once on an accelerator."""
TILE = 1024
"""Keys multiplied at a time on a CPU."""
HALF_FROM = 2048
"""Readable pairs from which a shortlist in bf16 pays."""
SHORTLIST = 2
"""Length of the shortlist over k."""
ROUNDING = 3.1 * 2**-8
"""Error of a score in bf16, over the product of the norms: both factors and the result are rounded by 2^-8 each."""
STRIDE = 8
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
    on_cpu = queries_BHTK.device.type == "cpu"
    with torch.autocast(queries_BHTK.device.type, enabled=False):  # or scores would be rounded where nobody asks for it
        return (_by_spans if on_cpu else _by_mask)(queries_BHTK, ring, neighbours)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Where the k largest of the last axis are, in no order; exact, and faster than `torch.topk` on long rows.

    View a row as a table with strided columns. The k best lie in the k columns with the largest maxima, for a score
    among the k best is the maximum of its column or shares it with a larger one. So: maxima, a vectorised pass; the best
    columns, the same question on a row `STRIDE` times shorter; then the best of their members.
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


class _Readable(NamedTuple):
    """The pairs of one lane that may be read: at most two ranges of slots, oldest first."""

    keys_HRK: Tensor
    spans: list[tuple[int, int]]

    def slots(self, places: Tensor) -> Tensor:
        """From places among the readable pairs to slots of the ring."""
        return (places + self.spans[0][0]) % self.keys_HRK.shape[1]


def _by_spans(queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """On a CPU, where the host knows the counts: only what is readable is multiplied."""
    lanes, heads, length, _ = queries_BHTK.shape
    slots_BHTk = torch.zeros(lanes, heads, length, k, dtype=torch.long)
    found_BHTk = torch.zeros(lanes, heads, length, k, dtype=torch.bool)
    for lane, spans in enumerate(readable_spans(ring)):
        count = sum(stop - start for start, stop in spans)
        take = min(k, count)
        if take == 0:
            continue
        found_BHTk[lane, :, :, :take] = True
        half = count >= max(HALF_FROM, 2 * SHORTLIST * take) and _multiplies_bf16_fast()
        at_once = max(1, min(ROWS, BLOCK_BYTES // (4 * count)))
        together = max(1, at_once // length)  # short segments are searched for several heads at once
        for head in range(0, heads, together):
            readable = _Readable(ring.keys_BHRK[lane, head : head + together], spans)
            for start in range(0, length, at_once):
                here = (lane, slice(head, head + together), slice(start, start + at_once))
                if half:
                    slots_HTk, proven = _best_by_shortlist(queries_BHTK[here], readable, take)
                    half = proven >= 0.5  # among keys that are nearly alike bf16 proves little
                else:
                    slots_HTk = _best(queries_BHTK[here], readable, take)
                slots_BHTk[*here, :take] = slots_HTk
    return Neighbours(slots_BHTk, found_BHTk)


def _best(queries_HTK: Tensor, readable: _Readable, k: int) -> Tensor:
    """The slots of the k best, H T k, best first."""
    scores_HTN = _scores(queries_HTK, readable, queries_HTK.dtype)
    places = top_k(scores_HTN, k)
    order = scores_HTN.gather(-1, places).argsort(-1, descending=True)
    return readable.slots(places.gather(-1, order))


def _best_by_shortlist(queries_HTK: Tensor, readable: _Readable, k: int) -> tuple[Tensor, float]:
    """The same from a shortlist that was chosen in bf16, and the share of queries for which that was proven right."""
    scores_HTN = _scores(queries_HTK, readable, torch.bfloat16)
    places_HTL = top_k(scores_HTN, SHORTLIST * k)
    # what is not on the shortlist has at most its worst score in bf16, and in truth at most `slack` more
    worst_HT = scores_HTN.gather(-1, places_HTL).amin(-1).float()
    norms = [readable.keys_HRK[:, start:stop].norm(dim=-1).amax() for start, stop in readable.spans]
    slack_HT = ROUNDING * queries_HTK.norm(dim=-1) * max(norms)
    slots_HTL = readable.slots(places_HTL)
    heads, capacity, head_size = readable.keys_HRK.shape
    rows_HTL = slots_HTL + torch.arange(heads).view(-1, 1, 1) * capacity
    keys = readable.keys_HRK.reshape(-1, head_size).index_select(0, rows_HTL.flatten())
    # in this order: a product of many matrices with a vector each is several times slower
    keys_NKL = keys.view(-1, rows_HTL.shape[-1], head_size).transpose(1, 2)
    best = torch.bmm(queries_HTK.reshape(-1, 1, head_size), keys_NKL).view(rows_HTL.shape).topk(k, dim=-1)
    slots_HTk = slots_HTL.gather(-1, best.indices)
    unproven_HT = best.values[..., -1] < worst_HT + slack_HT
    for head, unproven_T in enumerate(unproven_HT):
        if unproven_T.any():
            of_head = _Readable(readable.keys_HRK[head : head + 1], readable.spans)
            slots_HTk[head, unproven_T] = _best(queries_HTK[head : head + 1, unproven_T], of_head, k)[0]
    return slots_HTk, 1 - unproven_HT.float().mean().item()


def _scores(queries_HTK: Tensor, readable: _Readable, dtype: torch.dtype) -> Tensor:
    """All inner products, H T N, tile by tile."""
    count = sum(stop - start for start, stop in readable.spans)
    scores_HTN = torch.empty(*queries_HTK.shape[:2], count, dtype=dtype)
    for head, queries_TK in enumerate(queries_HTK.to(dtype)):
        filled = 0
        for start, stop in readable.spans:
            for first in range(start, stop, TILE):
                keys_WK = readable.keys_HRK[head, first : min(first + TILE, stop)].to(dtype)
                torch.mm(queries_TK, keys_WK.T, out=scores_HTN[head, :, filled : filled + len(keys_WK)])
                filled += len(keys_WK)
    return scores_HTN


@cache
def _multiplies_bf16_fast() -> bool:
    """Whether this CPU has instructions for it; torch before 2.9 cannot say."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


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
