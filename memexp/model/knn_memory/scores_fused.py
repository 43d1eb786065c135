"""Scores on a GPU by two kernels of Triton: the two largest of each group of pairs, and the best pairs of chosen groups.

The scores of a tile of keys stay in registers, and only three numbers of each group are written: its maximum, where that is, and
the second largest score. So the keys are read once. Of the chosen groups, `best` reads the key with the maximum again; the others
only if the second largest score exceeds the smallest maximum of the chosen groups, for otherwise they are not among the k best.

Tensor cores multiply the tiles, in half precision. So that hardly anything is rounded, each factor is the sum of two fp16 numbers:
a power of two, which is exact, takes a key or query to the range of fp16, and two numbers of 11 bits hold nearly as many
bits as one in fp32. The products of the large parts, and of one large and one small part, are added in fp32. The product of
the small parts is left out: it is at most 2^-22 of the product of the norms, about as much as sums in fp32 round. A key in
bf16 is one fp16 number. So the maxima need no proof that rounding did not change the choice, as a CPU's in bf16 do.

The functions are those of `scores_plain`. This module can be imported without Triton, which comes with torch for CUDA.
Shapes: N lanes and heads, T queries, R slots, K head size, G groups, U runs of groups, L chosen groups, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from memexp.model.knn_memory.scores_plain import Groups, Maxima, Rows
from memexp.model.knn_memory.selection import STRIDE

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

INSTALLED = triton is not None
APART = 64
"""Slots of a tile of keys. Members of a group are in different tiles at the same place, so that maxima need no exchange."""
GROUP_BYTES = 4 + 4 + 1
"""Bytes of what `maxima` writes of a group for each query: the two largest scores, and where the largest is."""
RUN_BYTES = 3 * 4
"""Bytes of the maximum of a run of groups, which is written once and read twice."""
QUERIES = 128
"""Largest number of queries in a tile."""
ENTRIES = 128
"""Largest number of entries of keys in a tile."""
NUMBERS = 1 << 11
"""Entries of keys that `best` reads at a time. More would take so many registers that half as many queries are worked on at once."""


class KernelFault(Exception):
    """A kernel could not be compiled or launched; the text says why, in one line."""


@contextmanager
def _launch(on: Tensor) -> Iterator[None]:
    """Launches a kernel on the device of a tensor; a device without free memory remains an error of its own.

    Raises:
        KernelFault: the kernel does not run.
    """
    try:
        with torch.cuda.device_of(on):
            yield
    except Exception as error:  # a compiler, a driver and a device can fail in many ways
        if no_memory(error):
            raise
        raise KernelFault(said(error)) from error


def no_memory(error: Exception) -> bool:
    """Whether a device has no free memory, as torch or a driver says."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def said(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, KernelFault) else f"{type(error).__name__}: {text}"


def maxima(factors: tuple[Tensor, ...], rows: Rows, groups: Groups) -> Maxima:
    """The two largest scores of each group, and the largest of each run of groups.

    The scores of each query are multiplied by a power of two of its own.
    """
    large_NTK, small_NTK = factors
    count, length, head_size = large_NTK.shape
    maxima_NGT = large_NTK.new_empty(count, groups.number, length, dtype=torch.float32)
    seconds_NGT, places_NGT = torch.empty_like(maxima_NGT), torch.empty_like(maxima_NGT, dtype=torch.uint8)
    runs_NUT = maxima_NGT.new_empty(count, groups.number // STRIDE, length)
    tile_T = queries_of_a_tile(length)
    tile_K = max(16, min(ENTRIES, _power_of_two(head_size)))
    blocks = groups.number // groups.apart
    with _launch(large_NTK):
        maxima_kernel[(blocks * -(-length // tile_T), count)](
            large_NTK, small_NTK, rows.keys_NRK, rows.position_N, rows.count_N, maxima_NGT, seconds_NGT, places_NGT, runs_NUT,
            length, groups.capacity, groups.number, HEAD_SIZE=head_size, SIZE=groups.size,
            SPLIT=rows.keys_NRK.element_size() == 4, RUN=STRIDE, TILE_R=groups.apart, TILE_T=tile_T, TILE_K=tile_K,
            num_warps=8,
        )  # fmt: skip
    return Maxima(maxima_NGT, runs_NUT, seconds_NGT, places_NGT)


def best(
    queries_NTK: Tensor, rows: Rows, groups: Groups, maxima: Maxima, groups_NTL: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k largest scores of each query in its groups, N T k, largest first, and their slots; -inf where none is readable."""
    count, length, chosen = groups_NTL.shape
    head_size = queries_NTK.shape[2]
    scores_NTk = queries_NTK.new_empty(count, length, k)
    slots_NTk = groups_NTL.new_empty(count, length, k)
    tile_k = max(16, _power_of_two(k))
    tile_K = min(_power_of_two(head_size), max(1, NUMBERS // max(tile_k, groups.size)))
    queries_NTK, groups_NTL = queries_NTK.contiguous(), groups_NTL.contiguous()
    with _launch(queries_NTK):
        best_kernel[(length, count)](
            queries_NTK, rows.keys_NRK, rows.position_N, rows.count_N, maxima.groups_NGT, maxima.seconds_NGT,
            maxima.places_NGT, groups_NTL, scores_NTk, slots_NTk, length, groups.capacity, groups.number, chosen, k,
            HEAD_SIZE=head_size, SIZE=groups.size, APART=groups.apart, TILE_P=tile_k, TILE_K=tile_K, num_warps=4,
        )  # fmt: skip
    sorted_NTk, order_NTk = scores_NTk.sort(dim=-1, descending=True)
    return sorted_NTk, slots_NTk.gather(-1, order_NTk)


def queries_of_a_tile(length: int) -> int:
    """How many of so many queries `maxima` multiplies with a tile of keys."""
    return max(16, min(QUERIES, _power_of_two(length)))


def products(number_bytes: int) -> int:
    """How many products in fp16 a score is the sum of: a key in fp32 has a small part too."""
    return 3 if number_bytes == 4 else 2


def members(groups: Groups, k: int) -> float:
    """How many keys `best` reads for each query, if chance spreads the k best over the groups.

    Then k (k - 1) / 2 pairs of them have one chance each to share a group, which is read whole. In a small model trained on code
    this was 1.5 to 1.9 times as many groups.
    """
    whole = min(k, k * (k - 1) / 2 / groups.number)
    return k + whole * (groups.size - 1)


def moved(rows: Rows, groups: Groups, k: int) -> float:
    """Bytes of what `maxima` writes for each query, and of the keys and pairs of `best`."""
    key_bytes = rows.keys_NRK.shape[2] * rows.keys_NRK.element_size()
    # of each pair: the number of its group and what is written of that; its score and slot before and after sorting
    pairs = k * (8 + GROUP_BYTES + 2 * (4 + 8))
    return groups.number * (GROUP_BYTES + RUN_BYTES / STRIDE) + members(groups, k) * key_bytes + pairs


def held(groups: Groups, k: int) -> float:
    """Bytes that a search needs for each query at once."""
    return groups.number * (GROUP_BYTES + 4 / STRIDE)


def factors(queries_NTK: Tensor) -> tuple[Tensor, ...]:
    """Two fp16 numbers for each number, whose sum is the number times a power of two, one for each query."""
    largest_NT1 = torch.linalg.vector_norm(queries_NTK, ord=math.inf, dim=-1, keepdim=True)
    scaled_NTK = torch.ldexp(queries_NTK, -torch.frexp(largest_NT1).exponent)
    large_NTK = scaled_NTK.half()
    return large_NTK, torch.sub(scaled_NTK, large_NTK, out=torch.empty_like(large_NTK))


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _compiled(function: Any) -> Any:
    """What Triton makes of a function that runs on a GPU."""
    return triton.jit(function) if INSTALLED else function


# In kernels the shapes of tiles are r slots, t queries, k entries, u runs of groups, p best pairs, m members, x any. Triton
# compiles annotations too, and knows only its own.


@_compiled
def _readable(slot, oldest, count, capacity):  # type: ignore[no-untyped-def]
    """Readable are the `count` slots from `oldest` on, around the end of the ring."""
    after = slot - oldest + tl.where(slot < oldest, capacity, 0)
    return (after < count) & (slot < capacity)


@_compiled
def _slot(group, member, SIZE: tl.constexpr, APART: tl.constexpr):  # type: ignore[no-untyped-def]
    """As `Groups.slots`."""
    run = group // APART * APART
    return run * SIZE + member * APART + group - run


@_compiled
def _scores(query_K, keys_RK, slot_x, readable_x, HEAD_SIZE: tl.constexpr, TILE_K: tl.constexpr):  # type: ignore[no-untyped-def]
    """The scores of a query with some slots; -inf where they are not readable."""
    score_x = tl.where(readable_x, 0.0, float("-inf"))
    for entry in tl.static_range(0, HEAD_SIZE, TILE_K):
        k = entry + tl.arange(0, TILE_K)
        query_k = tl.load(query_K + k, mask=k < HEAD_SIZE, other=0.0)
        inside_xk = readable_x[:, None] & (k < HEAD_SIZE)[None, :]
        key_xk = tl.load(keys_RK + slot_x[:, None] * HEAD_SIZE + k[None, :], mask=inside_xk, other=0.0)
        score_x += tl.sum(key_xk.to(tl.float32) * query_k[None, :], axis=1)
    return score_x


@_compiled
def maxima_kernel(  # type: ignore[no-untyped-def]
    large_NTK, small_NTK, keys_NRK, position_N, count_N, maxima_NGT, seconds_NGT, places_NGT, runs_NUT,
    length, capacity, groups, HEAD_SIZE: tl.constexpr, SIZE: tl.constexpr, SPLIT: tl.constexpr,
    RUN: tl.constexpr, TILE_R: tl.constexpr, TILE_T: tl.constexpr, TILE_K: tl.constexpr,
) -> None:  # fmt: skip
    """The two largest scores of TILE_R groups, and the maxima of their runs, for TILE_T queries.

    Programs of the same keys are neighbours, so that only the first of them reads the keys from memory.
    """
    across = tl.cdiv(length, TILE_T)
    block = tl.program_id(0) // across
    t = tl.program_id(0) % across * TILE_T + tl.arange(0, TILE_T)
    row = tl.program_id(1).to(tl.int64)
    position, count = tl.load(position_N + row), tl.load(count_N + row)
    place_r = tl.arange(0, TILE_R)
    first = block * SIZE * TILE_R
    oldest = (position - count) % capacity
    after = first - oldest + tl.where(first < oldest, capacity, 0)
    tiles = tl.where((after < count) | ((after + SIZE * TILE_R > capacity) & (count > 0)), SIZE, 0)
    best_rt = tl.full((TILE_R, TILE_T), float("-inf"), tl.float32)
    second_rt, place_rt = best_rt, tl.zeros((TILE_R, TILE_T), tl.int32)
    for tile in range(0, tiles):
        slot_r = (first + tile * TILE_R + place_r).to(tl.int64)
        readable_r = _readable(slot_r, oldest, count, capacity)
        scores_rt = tl.zeros((TILE_R, TILE_T), tl.float32)
        for entry in tl.static_range(0, HEAD_SIZE, TILE_K):
            k = entry + tl.arange(0, TILE_K)
            inside_k = k < HEAD_SIZE
            key_rk = tl.load(
                keys_NRK + (row * capacity + slot_r[:, None]) * HEAD_SIZE + k[None, :],
                mask=readable_r[:, None] & inside_k[None, :], other=0.0,
            ).to(tl.float32)  # fmt: skip
            # the exponent of the largest entry, as a number
            bits_r = tl.max(tl.abs(key_rk), axis=1).to(tl.int32, bitcast=True) & 0x7F800000
            power_r = tl.maximum(bits_r.to(tl.float32, bitcast=True), 1e-30)
            key_rk = key_rk / power_r[:, None]
            places_kt = (row * length + t[None, :]) * HEAD_SIZE + k[:, None]
            inside_kt = inside_k[:, None] & (t < length)[None, :]
            large_kt = tl.load(large_NTK + places_kt, mask=inside_kt, other=0.0)
            small_kt = tl.load(small_NTK + places_kt, mask=inside_kt, other=0.0)
            large_rk = key_rk.to(tl.float16)
            product_rt = tl.dot(large_rk, small_kt)
            if SPLIT:
                small_rk = (key_rk - large_rk.to(tl.float32)).to(tl.float16)
                product_rt = tl.dot(small_rk, large_kt, product_rt)
            product_rt = tl.dot(large_rk, large_kt, product_rt)
            scores_rt += product_rt * power_r[:, None]
        scores_rt = tl.where(readable_r[:, None], scores_rt, float("-inf"))
        second_rt = tl.maximum(second_rt, tl.minimum(best_rt, scores_rt))
        place_rt = tl.where(scores_rt > best_rt, tile, place_rt)
        best_rt = tl.maximum(best_rt, scores_rt)
    group_r = row * groups + block * TILE_R + place_r
    inside_1t = (t < length)[None, :]
    places_rt = group_r[:, None] * length + t[None, :]
    tl.store(maxima_NGT + places_rt, best_rt, mask=inside_1t)
    tl.store(seconds_NGT + places_rt, second_rt, mask=inside_1t)
    tl.store(places_NGT + places_rt, place_rt, mask=inside_1t)
    best_ut = tl.max(tl.reshape(best_rt, (TILE_R // RUN, RUN, TILE_T)), axis=1)
    run_u = row * (groups // RUN) + block * (TILE_R // RUN) + tl.arange(0, TILE_R // RUN)
    tl.store(runs_NUT + run_u[:, None] * length + t[None, :], best_ut, mask=inside_1t)


@_compiled
def best_kernel(  # type: ignore[no-untyped-def]
    queries_NTK, keys_NRK, position_N, count_N, maxima_NGT, seconds_NGT, places_NGT, groups_NTL, scores_NTk, slots_NTk, length,
    capacity, groups, chosen, neighbours, HEAD_SIZE: tl.constexpr, SIZE: tl.constexpr, APART: tl.constexpr,
    TILE_P: tl.constexpr, TILE_K: tl.constexpr,
) -> None:  # fmt: skip
    """The best pairs of one query, in no order. Programs of the same lane and head are neighbours."""
    row = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0)
    query = row * length + t
    query_K, keys_RK = queries_NTK + query * HEAD_SIZE, keys_NRK + row * capacity * HEAD_SIZE
    count = tl.load(count_N + row)
    oldest = (tl.load(position_N + row) - count) % capacity
    p = tl.arange(0, TILE_P)
    group_p = tl.load(groups_NTL + query * chosen + p, mask=p < chosen, other=0)
    of_group_p = (row * groups + group_p) * length + t
    place_p = tl.load(places_NGT + of_group_p).to(tl.int32)
    # fewer groups than neighbours: every pair is wanted
    largest_p = tl.load(maxima_NGT + of_group_p, mask=p < chosen, other=float("-inf"))
    threshold = tl.min(tl.where(p < neighbours, largest_p, float("inf")))
    # the best pairs are at first the largest of each group
    slot_p = _slot(group_p, place_p, SIZE, APART)
    readable_p = (p < chosen) & _readable(slot_p, oldest, count, capacity)
    score_p = _scores(query_K, keys_RK, slot_p, readable_p, HEAD_SIZE, TILE_K)
    score_p = tl.where(p < neighbours, score_p, float("inf"))
    open_p = (p < chosen) & (tl.load(seconds_NGT + of_group_p) > threshold)
    m = tl.arange(0, SIZE)
    for _ in range(0, tl.sum(open_p.to(tl.int32))):
        first = tl.argmax(open_p.to(tl.int32), axis=0)
        open_p = open_p & (p != first)
        slot_m = _slot(tl.sum(tl.where(p == first, group_p, 0)), m, SIZE, APART)
        others_m = _readable(slot_m, oldest, count, capacity) & (m != tl.sum(tl.where(p == first, place_p, 0)))
        score_m = _scores(query_K, keys_RK, slot_m, others_m, HEAD_SIZE, TILE_K)
        # the best member takes the place of the worst pair
        while tl.max(score_m) > tl.min(score_p):
            worst, best = tl.argmin(score_p, axis=0), tl.argmax(score_m, axis=0)
            slot_p = tl.where(p == worst, tl.sum(tl.where(m == best, slot_m, 0)), slot_p)
            score_p = tl.where(p == worst, tl.max(score_m), score_p)
            score_m = tl.where(m == best, float("-inf"), score_m)
    tl.store(scores_NTk + query * neighbours + p, score_p, mask=p < neighbours)
    tl.store(slots_NTk + query * neighbours + p, tl.minimum(slot_p, capacity - 1), mask=p < neighbours)
