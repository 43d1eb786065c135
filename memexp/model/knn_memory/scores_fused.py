"""Scores on a GPU by two kernels of Triton: the largest of each group of pairs, and all of chosen groups.

The scores of a tile of keys stay in registers, and only the maxima of groups are written, so the keys are read once. Tensor
cores multiply the tiles, in half precision. So that hardly anything is rounded, each factor is the sum of two fp16 numbers:
a power of two, which is exact, takes a key or query to the range of fp16, and two numbers of 11 bits hold nearly as many
bits as one in fp32. The products of the large parts, and of one large and one small part, are added in fp32. The product of
the small parts is left out: it is at most 2^-22 of the product of the norms, about as much as sums in fp32 round. A key in
bf16 is one fp16 number. So the maxima need no proof that rounding did not change the choice, as a CPU's in bf16 do.

The functions are those of `scores_plain`. This module can be imported without Triton, which comes with torch for CUDA.
Shapes: N lanes and heads, T queries, R slots, K head size, G groups, L chosen groups, M their members.
"""

from __future__ import annotations

import math
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
MAXIMA_PASSES = 1 + 2 / STRIDE
"""How often maxima are written or read: once, and twice those of runs of groups."""
QUERIES = 128
"""Largest number of queries in a tile."""
ENTRIES = 128
"""Largest number of entries of keys in a tile."""
NUMBERS = 1 << 13
"""Entries of keys that `members` reads at a time."""


def maxima(factors: tuple[Tensor, ...], rows: Rows, groups: Groups) -> Maxima:
    """The largest score of each group and of each run of groups.

    The scores of each query are multiplied by a power of two of its own.
    """
    large_NTK, small_NTK = factors
    count, length, head_size = large_NTK.shape
    maxima_NGT, runs_NUT = (
        large_NTK.new_empty(count, number, length, dtype=torch.float32)
        for number in (groups.number, groups.number // STRIDE)
    )
    tile_T = max(16, min(QUERIES, _power_of_two(length)))
    tile_K = max(16, min(ENTRIES, _power_of_two(head_size)))
    blocks = groups.number // groups.apart
    with torch.cuda.device_of(large_NTK):
        maxima_kernel[(blocks * -(-length // tile_T), count)](
            large_NTK, small_NTK, rows.keys_NRK, rows.position_N, rows.count_N, maxima_NGT, runs_NUT, length,
            groups.capacity, groups.number, HEAD_SIZE=head_size, SIZE=groups.size,
            SPLIT=rows.keys_NRK.element_size() == 4, RUN=STRIDE, TILE_R=groups.apart, TILE_T=tile_T, TILE_K=tile_K,
            num_warps=8,
        )  # fmt: skip
    return Maxima(maxima_NGT, runs_NUT)


def members(queries_NTK: Tensor, rows: Rows, groups: Groups, groups_NTL: Tensor) -> Tensor:
    """The scores of all members of each query's groups, N T M, one group after another; -inf where none is readable."""
    count, length, chosen = groups_NTL.shape
    head_size = queries_NTK.shape[2]
    scores_NTM = queries_NTK.new_empty(count, length, chosen * groups.size)
    tile_K = _power_of_two(head_size)
    with torch.cuda.device_of(queries_NTK):
        members_kernel[(length, count)](
            queries_NTK.contiguous(), rows.keys_NRK, groups_NTL.contiguous(), rows.position_N, rows.count_N, scores_NTM,
            length, groups.capacity, chosen, HEAD_SIZE=head_size, SIZE=groups.size, APART=groups.apart,
            TILE_M=max(1, NUMBERS // tile_K), TILE_K=tile_K, num_warps=4,
        )  # fmt: skip
    return scores_NTM


def products(number_bytes: int) -> int:
    """How many products in fp16 a score is the sum of: a key in fp32 has a small part too."""
    return 3 if number_bytes == 4 else 2


def entry_bytes(rows: Rows) -> int:
    """Bytes that `members` moves for each entry of a key."""
    return rows.keys_NRK.element_size()


def member_bytes() -> int:
    """Bytes that `members` needs for each member: its score."""
    return 4


def factors(queries_NTK: Tensor) -> tuple[Tensor, ...]:
    """Two fp16 numbers for each number, whose sum is the number times a power of two, one for each query."""
    largest_NT1 = torch.linalg.vector_norm(queries_NTK, ord=math.inf, dim=-1, keepdim=True)
    scaled_NTK = torch.ldexp(queries_NTK, -torch.frexp(largest_NT1).exponent)
    large_NTK = scaled_NTK.half()
    return large_NTK, torch.sub(scaled_NTK, large_NTK, out=torch.empty_like(large_NTK))


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


# In kernels the shapes of tiles are r slots, t queries, k entries, u runs of groups, m members. Triton compiles annotations too,
# and knows only its own.


def _maxima_kernel(  # type: ignore[no-untyped-def]
    large_NTK, small_NTK, keys_NRK, position_N, count_N, maxima_NGT, runs_NUT,
    length, capacity, groups, HEAD_SIZE: tl.constexpr, SIZE: tl.constexpr, SPLIT: tl.constexpr,
    RUN: tl.constexpr, TILE_R: tl.constexpr, TILE_T: tl.constexpr, TILE_K: tl.constexpr,
) -> None:  # fmt: skip
    """The maxima of TILE_R groups and of their runs for TILE_T queries.

    Programs of the same keys are neighbours, so that only the first of them reads the keys from memory.
    """
    across = tl.cdiv(length, TILE_T)
    block = tl.program_id(0) // across
    t = tl.program_id(0) % across * TILE_T + tl.arange(0, TILE_T)
    row = tl.program_id(1).to(tl.int64)
    position, count = tl.load(position_N + row), tl.load(count_N + row)
    place_r = tl.arange(0, TILE_R)
    first = block * SIZE * TILE_R
    # readable are the `count` slots from `oldest` on, around the end of the ring
    oldest = (position - count) % capacity
    after = first - oldest + tl.where(first < oldest, capacity, 0)
    tiles = tl.where((after < count) | ((after + SIZE * TILE_R > capacity) & (count > 0)), SIZE, 0)
    best_rt = tl.full((TILE_R, TILE_T), float("-inf"), tl.float32)
    for tile in range(0, tiles):
        slot_r = (first + tile * TILE_R + place_r).to(tl.int64)
        after_r = slot_r - oldest + tl.where(slot_r < oldest, capacity, 0)
        readable_r = (after_r < count) & (slot_r < capacity)
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
        best_rt = tl.maximum(best_rt, tl.where(readable_r[:, None], scores_rt, float("-inf")))
    group_r = row * groups + block * TILE_R + place_r
    inside_1t = (t < length)[None, :]
    tl.store(maxima_NGT + group_r[:, None] * length + t[None, :], best_rt, mask=inside_1t)
    best_ut = tl.max(tl.reshape(best_rt, (TILE_R // RUN, RUN, TILE_T)), axis=1)
    run_u = row * (groups // RUN) + block * (TILE_R // RUN) + tl.arange(0, TILE_R // RUN)
    tl.store(runs_NUT + run_u[:, None] * length + t[None, :], best_ut, mask=inside_1t)


def _members_kernel(  # type: ignore[no-untyped-def]
    queries_NTK, keys_NRK, groups_NTL, position_N, count_N, scores_NTM, length,
    capacity, chosen, HEAD_SIZE: tl.constexpr, SIZE: tl.constexpr, APART: tl.constexpr, TILE_M: tl.constexpr,
    TILE_K: tl.constexpr,
) -> None:  # fmt: skip
    """The scores of one query, TILE_M members at a time. Programs of the same lane and head are neighbours."""
    row = tl.program_id(1).to(tl.int64)
    query = row * length + tl.program_id(0)
    position, count = tl.load(position_N + row), tl.load(count_N + row)
    oldest = (position - count) % capacity
    k = tl.arange(0, TILE_K)
    query_k = tl.load(queries_NTK + query * HEAD_SIZE + k, mask=k < HEAD_SIZE, other=0.0)
    for first in range(0, chosen * SIZE, TILE_M):
        m = first + tl.arange(0, TILE_M)
        inside_m = m < chosen * SIZE
        group_m = tl.load(groups_NTL + query * chosen + m // SIZE, mask=inside_m, other=0)
        run_m = group_m // APART * APART
        slot_m = run_m * SIZE + m % SIZE * APART + group_m - run_m
        after_m = slot_m - oldest + tl.where(slot_m < oldest, capacity, 0)
        readable_m = inside_m & (after_m < count) & (slot_m < capacity)
        key_mk = tl.load(
            keys_NRK + (row * capacity + slot_m[:, None]) * HEAD_SIZE + k[None, :],
            mask=readable_m[:, None] & (k < HEAD_SIZE)[None, :], other=0.0,
        )  # fmt: skip
        score_m = tl.sum(key_mk.to(tl.float32) * query_k[None, :], axis=1)
        tl.store(scores_NTM + query * chosen * SIZE + m, tl.where(readable_m, score_m, float("-inf")), mask=inside_m)


maxima_kernel: Any = triton and triton.jit(_maxima_kernel)
members_kernel: Any = triton and triton.jit(_members_kernel)
