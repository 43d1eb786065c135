"""Exact search on an accelerator: shapes do not depend on values, so the host never waits for the device.

Only the largest score of each group of pairs is kept, its maximum. The k best pairs are in the k groups with the largest
maxima, because each of them is the maximum of its group or shares its group with a larger score. The members of these
groups are scored again. All queries of a lane and head are searched together, so its keys are read once.

Shapes: B lanes, H heads, N lanes and heads, T queries, R slots, K head size, k neighbours, G groups, L chosen groups, M their
members.
"""

import math
from functools import cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.knn_memory import scores_fused, scores_plain
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.scores_plain import Groups, Maxima, Rows
from memexp.model.knn_memory.selection import STRIDE, Neighbours, best_rows, best_rows_of_runs
from memexp.model.knn_memory.streaming import keys_on
from memexp.terminal import warn

MAXIMA_BYTES = 3 << 29
"""Bytes of the maxima and members of as many lanes and heads as are searched together."""
PLACE = 8
"""Bytes of a place in a tensor."""
LARGEST_GROUP = 64
"""Largest number of pairs in a group."""
TOLERANCE = 1e-4
"""Largest difference of two scores of the same pair by different kernels, relative to the largest score."""


class Scores(Protocol):
    """How scores are computed: `scores_plain` or `scores_fused`."""

    APART: int
    MAXIMA_PASSES: float

    def factors(self, queries_NTK: Tensor) -> tuple[Tensor, ...]: ...

    def maxima(self, factors: tuple[Tensor, ...], rows: Rows, groups: Groups) -> Maxima: ...

    def members(self, queries_NTK: Tensor, rows: Rows, groups: Groups, groups_NTL: Tensor) -> Tensor: ...

    def entry_bytes(self, rows: Rows) -> int: ...

    def member_bytes(self) -> int: ...


def by_groups(queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """The best pairs for every query.

    Args:
        ring: with its counts on the device of the queries; the keys may be in the host's memory.
    """
    scores = _scores(queries_BHTK.device, queries_BHTK.dtype, ring.keys_BHRK.dtype, queries_BHTK.shape[-1])
    return by_scores(scores, queries_BHTK, ring, k)


def by_scores(scores: Scores, queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """As `by_groups`, with scores that are computed in this way."""
    lanes, heads, capacity, _ = ring.keys_BHRK.shape
    length, take = queries_BHTK.shape[2], min(k, capacity)
    queries_NTK = queries_BHTK.flatten(0, 1)
    position_N, count_N = (
        each.view(-1, 1).expand(-1, heads).contiguous().flatten() for each in (ring.position_B, ring.count_B)
    )
    whole = Rows(ring.keys_BHRK.flatten(0, 1), position_N, count_N)
    groups = Groups(group_size(scores, whole, take), scores.APART, capacity)
    candidates = min(take, groups.number) * groups.size
    row_bytes = length * (groups.number * queries_NTK.element_size() + candidates * scores.member_bytes())
    first, chosen, best = 0, [], []
    factors = scores.factors(queries_NTK)
    for keys_NRK in keys_on(queries_BHTK.device, ring, max(1, MAXIMA_BYTES // row_bytes)):
        some = slice(first, first + len(keys_NRK))
        rows = Rows(keys_NRK, position_N[some], count_N[some])
        chosen.append(
            _best_groups(scores, tuple(each[some] for each in factors), rows, groups, min(take, groups.number))
        )
        best.append(scores.members(queries_NTK[some], rows, groups, chosen[-1]).topk(take, dim=-1))
        first += len(keys_NRK)
    values, members = (torch.cat(each) for each in zip(*best, strict=True))
    of_group = torch.cat(chosen).gather(-1, members // groups.size)
    slots = groups.slots(of_group, members % groups.size).clamp_max_(capacity - 1)
    found = [each.view(lanes, heads, length, take) for each in (slots, values > float("-inf"), values)]
    return Neighbours(*(F.pad(each, (0, k - take)) if take < k else each for each in found))


class SearchWork(NamedTuple):
    """What an exact search does for one query of a head, and the memory that it needs."""

    in_half: float
    """Multiplications on tensor cores."""
    in_fp32: float
    moved: float
    """Bytes that are read from and written to the memory of the accelerator."""
    held: float
    """Bytes of maxima, with those of the next level and the members that a selection takes from it."""
    together: int
    """How many heads are searched together at most."""


def work_of(ring_1HRK: Tensor, k: int, length: int) -> SearchWork:
    """What a search by the kernels of `scores_fused` does for each of `length` queries of a head.

    The keys are read once. The maxima are written and read `MAXIMA_PASSES` times. The members of the best groups are read
    again for each query, and their scores are written and read.

    Args:
        ring_1HRK: the keys of a lane; only their shape and type matter.
    """
    keys_HRK = ring_1HRK[0]
    capacity, head_size = keys_HRK.shape[1:]
    number_bytes = keys_HRK.element_size()
    one_H = torch.empty(len(keys_HRK), device="meta")
    rows, take = Rows(keys_HRK, one_H, one_H), min(k, capacity)
    groups = Groups(group_size(scores_fused, rows, take), scores_fused.APART, capacity)
    candidates = min(take, groups.number) * groups.size
    once = capacity * head_size * number_bytes / length
    members = candidates * (head_size * number_bytes + 2 * scores_fused.member_bytes())
    maxima = groups.number * scores_fused.MAXIMA_PASSES * 4
    entry = one_H.element_size()
    row_bytes = length * (groups.number * entry + candidates * scores_fused.member_bytes())
    return SearchWork(
        capacity * head_size * scores_fused.products(number_bytes),
        candidates * head_size,
        once + maxima + members,
        groups.number * entry * (1 + 1 / STRIDE) + STRIDE * take * (PLACE + entry),
        max(1, MAXIMA_BYTES // row_bytes),
    )


def group_size(scores: Scores, rows: Rows, k: int) -> int:
    """The power of two for which the maxima in fp32 and the keys of members together are the fewest bytes."""
    capacity, head_size = rows.keys_NRK.shape[1:]
    balance = 4 * scores.MAXIMA_PASSES * capacity / (k * head_size * scores.entry_bytes(rows))
    return min(LARGEST_GROUP, 1 << max(0, round(math.log2(balance) / 2)))


def _best_groups(scores: Scores, factors: tuple[Tensor, ...], rows: Rows, groups: Groups, k: int) -> Tensor:
    """The groups with the largest maxima, N T k."""
    maxima = scores.maxima(factors, rows, groups)
    if maxima.runs_NUT is None:
        return best_rows(maxima.groups_NGT, k)
    return best_rows_of_runs(maxima.groups_NGT, maxima.runs_NUT, k)


@cache
def _scores(device: torch.device, queries: torch.dtype, keys: torch.dtype, head_size: int) -> Scores:
    """The fastest way to compute these scores on a device that is right there; says why if it is not the fastest of all."""
    if device.type != "cuda" or queries != torch.float32 or keys not in (torch.float32, torch.bfloat16):
        return scores_plain
    if not (fault := fault_of(scores_fused, device, keys, head_size)):
        return scores_fused
    warn(
        f"exact search on {device} takes several times as long as it could, because its kernel cannot be used: {fault}"
    )
    return scores_plain


def fault_of(scores: Scores, device: torch.device, keys: torch.dtype, head_size: int) -> str:
    """Why scores cannot be computed in this way on a device, found by a small search; empty if they can."""
    if scores is scores_fused and not scores_fused.INSTALLED:
        return "the package triton is not installed"
    generator = torch.Generator().manual_seed(0)
    heads, length, capacity, k = 2, 128, 400, 8
    queries_BHTK = torch.randn(1, heads, length, head_size, generator=generator).to(device)
    keys_BHRK = torch.randn(1, heads, capacity, head_size, generator=generator).to(device, keys)
    position_B, count_B = (torch.full((1,), number, device=device) for number in (capacity + 100, capacity - 50))
    ring = Ring(keys_BHRK, keys_BHRK, position_B, count_B, capacity - 50)
    try:
        found = by_scores(scores, queries_BHTK, ring, k)
    except Exception as error:  # a compiler, a driver and a device can fail in many ways
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    expected = by_scores(scores_plain, queries_BHTK, ring, k)
    all_BHTR = queries_BHTK @ keys_BHRK.to(queries_BHTK.dtype).mT
    best, other = (all_BHTR.gather(-1, each.slots_BHTk) for each in (expected, found))
    difference = ((best - other).abs().amax() / best.abs().amax()).item()
    if not (found.found_BHTk.all() and difference < TOLERANCE):
        return f"in a small search it finds other pairs, whose scores differ by {difference:.1e} of the largest"
    return ""
