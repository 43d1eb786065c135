"""Exact search on an accelerator: shapes do not depend on values, so the host never waits for the device.

Only the largest score of each group of pairs is kept, its maximum. The k best pairs are in the k groups with the largest
maxima, because each of them is the maximum of its group or shares its group with a larger score. Members of these
groups are scored again. All queries of a lane and head are searched together, so its keys are read once.

Shapes: B lanes, H heads, N lanes and heads, T queries, R slots, K head size, k neighbours, G groups, L chosen groups.
"""

from functools import cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.errors import UserError
from memexp.model.knn_memory import scores_fused, scores_plain
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.scores_fused import KernelFault, no_memory, said
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

    def factors(self, queries_NTK: Tensor) -> tuple[Tensor, ...]: ...

    def maxima(self, factors: tuple[Tensor, ...], rows: Rows, groups: Groups) -> Maxima: ...

    def best(
        self, queries_NTK: Tensor, rows: Rows, groups: Groups, maxima: Maxima, groups_NTL: Tensor, k: int
    ) -> tuple[Tensor, Tensor]: ...

    def moved(self, rows: Rows, groups: Groups, k: int) -> float: ...

    def held(self, groups: Groups, k: int) -> float: ...


def by_groups(queries_BHTK: Tensor, ring: Ring, k: int) -> Neighbours:
    """The best pairs for every query. If a kernel fails that was right before, says so once and goes on without it.

    Args:
        ring: with its counts on the device of the queries; the keys may be in the host's memory.

    Raises:
        UserError: the device can compute nothing more after its fault.
    """
    try:
        return by_scores(_fastest(queries_BHTK, ring, k), queries_BHTK, ring, k)
    except KernelFault as fault:
        _failed.add(_specialisation(queries_BHTK, ring, k))
        _refuse_if_lost(queries_BHTK.device, fault)
        _warn_of(queries_BHTK.device, f"has failed in a search of {queries_BHTK.shape[2]:,} queries: {fault}")
    return by_scores(scores_plain, queries_BHTK, ring, k)


def by_scores(scores: Scores, queries_BHTK: Tensor, ring: Ring, k: int, *, size: int = 0) -> Neighbours:
    """As `by_groups`, with scores that are computed in this way, in groups of this size; 0: of the best one."""
    lanes, heads, capacity, _ = ring.keys_BHRK.shape
    length, take = queries_BHTK.shape[2], min(k, capacity)
    queries_NTK = queries_BHTK.flatten(0, 1)
    position_N, count_N = (
        each.view(-1, 1).expand(-1, heads).contiguous().flatten() for each in (ring.position_B, ring.count_B)
    )
    whole = Rows(ring.keys_BHRK.flatten(0, 1), position_N, count_N)
    groups = Groups(size or group_size(scores, whole, take), scores.APART, capacity)
    at_once = max(1, int(MAXIMA_BYTES / (length * scores.held(groups, take))))
    first, best = 0, []
    factors = scores.factors(queries_NTK)
    for keys_NRK in keys_on(queries_BHTK.device, ring, at_once):
        some = slice(first, first + len(keys_NRK))
        rows = Rows(keys_NRK, position_N[some], count_N[some])
        best.append(_best(scores, queries_NTK[some], tuple(each[some] for each in factors), rows, groups, take))
        first += len(keys_NRK)
    values, slots = (torch.cat(each) for each in zip(*best, strict=True))
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
    """What a search by the kernels of `scores_fused` does for each of `length` queries of a head; the keys are read once.

    Args:
        ring_1HRK: the keys of a lane; only their shape and type matter.
    """
    keys_HRK = ring_1HRK[0]
    capacity, head_size = keys_HRK.shape[1:]
    number_bytes = keys_HRK.element_size()
    one_H = torch.empty(len(keys_HRK), device="meta")
    rows, take = Rows(keys_HRK, one_H, one_H), min(k, capacity)
    groups = Groups(group_size(scores_fused, rows, take), scores_fused.APART, capacity)
    held = scores_fused.held(groups, take)
    return SearchWork(
        capacity * head_size * scores_fused.products(number_bytes),
        scores_fused.members(groups, take) * head_size,
        capacity * head_size * number_bytes / length + scores_fused.moved(rows, groups, take),
        held + STRIDE * take * (PLACE + 4),
        max(1, int(MAXIMA_BYTES / (length * held))),
    )


def group_size(scores: Scores, rows: Rows, k: int) -> int:
    """The power of two with which a search moves the fewest bytes."""

    def moved(size: int) -> float:
        return scores.moved(rows, Groups(size, scores.APART, rows.keys_NRK.shape[1]), k)

    return min((1 << power for power in range(LARGEST_GROUP.bit_length())), key=moved)


def _best(
    scores: Scores, queries_NTK: Tensor, factors: tuple[Tensor, ...], rows: Rows, groups: Groups, k: int
) -> tuple[Tensor, Tensor]:
    """The scores and slots of the best pairs of these lanes and heads, N T k."""
    maxima = scores.maxima(factors, rows, groups)
    take = min(k, groups.number)
    if maxima.runs_NUT is None:
        groups_NTL = best_rows(maxima.groups_NGT, take)
    else:
        groups_NTL = best_rows_of_runs(maxima.groups_NGT, maxima.runs_NUT, take)
    return scores.best(queries_NTK, rows, groups, maxima, groups_NTL, k)


class Compiled(NamedTuple):
    """What kernels are compiled for, besides the type of the keys and the head size."""

    size: int = 4
    """Pairs of a group."""
    k: int = 8
    length: int = 128
    """Queries of a tile."""


class Specialisation(NamedTuple):
    """What kernels are compiled for, and where."""

    device: torch.device
    keys: torch.dtype
    head_size: int
    compiled: Compiled


_failed: set[Specialisation | None] = set()
"""Whose kernels have failed in this process after they had been right in a small search."""


def _specialisation(queries_BHTK: Tensor, ring: Ring, k: int) -> Specialisation | None:
    """How kernels would be compiled for a search; None if they do not compute it."""
    device, queries, keys = queries_BHTK.device, queries_BHTK.dtype, ring.keys_BHRK.dtype
    if device.type != "cuda" or queries != torch.float32 or keys not in (torch.float32, torch.bfloat16):
        return None
    take = min(k, ring.keys_BHRK.shape[2])
    rows = Rows(ring.keys_BHRK.flatten(0, 1), ring.position_B, ring.count_B)
    compiled = Compiled(
        group_size(scores_fused, rows, take), take, scores_fused.queries_of_a_tile(queries_BHTK.shape[2])
    )
    return Specialisation(device, keys, queries_BHTK.shape[-1], compiled)


def _fastest(queries_BHTK: Tensor, ring: Ring, k: int) -> Scores:
    """The fastest way to compute these scores that is right on the device of the queries."""
    asked = _specialisation(queries_BHTK, ring, k)
    return scores_plain if asked is None or asked in _failed else _scores(*asked)


@cache
def _scores(device: torch.device, keys: torch.dtype, head_size: int, compiled: Compiled) -> Scores:
    """The kernels, if they are right on a device as they are compiled for this search; says why if they are not."""
    if not (fault := fault_of(scores_fused, device, keys, head_size, compiled)):
        return scores_fused
    _warn_of(device, f"cannot be used: {fault}")
    return scores_plain


def _warn_of(device: torch.device, what: str) -> None:
    warn(f"exact search on {device} takes several times as long as it could, because its kernel {what}")


def _refuse_if_lost(device: torch.device, fault: Exception) -> None:
    """After some faults, such as of an address, a device answers nothing in this process any more.

    Raises:
        UserError: this is one of them.
    """
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise UserError(
            f"{device} computes nothing more in this process after a fault of a kernel of exact search: {said(fault)}; expected a kernel that runs. "
            "Likely cause: a fault of the driver, or of what was computed just before; with CUDA_LAUNCH_BLOCKING=1 in the environment the error "
            "names it. A training run goes on from its last checkpoint if it is started again"
        ) from error


def fault_of(
    scores: Scores, device: torch.device, keys: torch.dtype, head_size: int, compiled: Compiled | None = None
) -> str:
    """Why scores cannot be computed in this way on a device, found by a small search; empty if they can.

    Args:
        compiled: as kernels are compiled for the searches that follow, whose rings may be larger.
    """
    if scores is scores_fused and not scores_fused.INSTALLED:
        return "the package triton is not installed"
    generator = torch.Generator().manual_seed(0)
    size, k, length = compiled or Compiled()
    # as many groups as neighbours, so that some of them are read whole, and a last one that is not full
    heads, capacity = 2, max(400, size * -(-k // scores.APART) * scores.APART - 3)
    queries_BHTK = torch.randn(1, heads, length, head_size, generator=generator).to(device)
    keys_BHRK = torch.randn(1, heads, capacity, head_size, generator=generator).to(device, keys)
    position_B, count_B = (torch.full((1,), number, device=device) for number in (capacity + 100, capacity - 50))
    ring = Ring(keys_BHRK, keys_BHRK, position_B, count_B, capacity - 50)
    try:
        found = by_scores(scores, queries_BHTK, ring, k, size=size)
    except Exception as error:  # a compiler, a driver and a device can fail in many ways
        if no_memory(error):
            raise
        if device.type == "cuda":
            _refuse_if_lost(device, error)
        return said(error)
    expected = by_scores(scores_plain, queries_BHTK, ring, k)
    all_BHTR = queries_BHTK @ keys_BHRK.to(queries_BHTK.dtype).mT
    # a kernel that is wrong may give any number as a slot
    best, other = (all_BHTR.gather(-1, each.slots_BHTk.clamp(0, capacity - 1)) for each in (expected, found))
    difference = ((best - other).abs().amax() / best.abs().amax()).item()
    if not (found.found_BHTk.all() and difference < TOLERANCE):
        return f"in a small search it finds other pairs, whose scores differ by {difference:.1e} of the largest"
    return ""
