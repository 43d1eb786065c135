"""Scores on an accelerator by torch's own operations: the largest of each group of pairs, and the best of chosen groups.

`scores_fused` has the same functions as kernels of their own.
Shapes: N lanes and heads, T queries, R slots, K head size, G groups, g members of a group, L chosen groups, M their members,
W slots of a block, E members of the groups in which the readable slots begin and end.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.gather_matmul import dot_rows

BLOCK_BYTES = 5 << 28
"""Bytes of scores that exist at once, with the keys in fp32 from which they come: two lanes and heads of 512 queries and
2^18 slots."""


class Rows(NamedTuple):
    """The keys of some lanes and heads, and which of them are readable."""

    keys_NRK: Tensor
    position_N: Tensor
    count_N: Tensor
    """As in `Ring`."""

    def readable(self, slots_NX: Tensor) -> Tensor:
        """Which of these slots exist and may be read; `slots_NX` has N as its first axis, or 1."""
        capacity = self.keys_NRK.shape[1]
        position, count = (each.view(-1, *[1] * (slots_NX.dim() - 1)) for each in (self.position_N, self.count_N))
        return ((position - 1 - slots_NX) % capacity < count) & (slots_NX < capacity)


class Groups(NamedTuple):
    """A division of slots into groups of `size`, whose members are `apart` slots apart; the last groups may have fewer."""

    size: int
    apart: int
    capacity: int
    """Number of slots."""

    @property
    def number(self) -> int:
        """How many groups there are."""
        return -(-self.capacity // (self.size * self.apart)) * self.apart

    def slots(self, groups: Tensor, members: Tensor) -> Tensor:
        """The slots of members of groups; those that do not exist have numbers from `capacity` on."""
        run = groups if self.apart == 1 else groups // self.apart * self.apart
        return run * self.size + members * self.apart + (groups - run)


APART = 1
"""Members of a group are neighbours, so that only few groups are readable in part."""
MAXIMA_PASSES = 4
"""How often maxima are written or read: when they are computed and masked, and by the selection."""
MEMBER_BYTES = 40
"""Bytes that `best` needs for each member: its slot, its place and whether it is readable, in int64."""


class Maxima(NamedTuple):
    """The largest score of each group among its readable pairs; -inf in a group without any."""

    groups_NGT: Tensor
    runs_NUT: Tensor | None = None
    """The largest of each run of `selection.STRIDE` neighbouring groups, if it is known."""
    seconds_NGT: Tensor | None = None
    """The second largest of each group, and in `places_NGT` which member is the largest, if they are known."""
    places_NGT: Tensor | None = None


def factors(queries_NTK: Tensor) -> tuple[Tensor, ...]:
    """What `maxima` multiplies with keys, each with N as its first axis: the queries."""
    return (queries_NTK,)


def maxima(factors: tuple[Tensor, ...], rows: Rows, groups: Groups) -> Maxima:
    """The largest score of each group; the factors are those of the lanes and heads of `rows`."""
    (queries_NTK,) = factors
    count, capacity, head_size = rows.keys_NRK.shape
    length = queries_NTK.shape[1]
    maxima_NGT = queries_NTK.new_empty(count, groups.number, length)
    size = groups.size
    converted = head_size if rows.keys_NRK.dtype != queries_NTK.dtype else 0
    numbers = BLOCK_BYTES // (queries_NTK.element_size() * (length + converted))  # columns of scores in a block
    at_once, wide = max(1, numbers // capacity), max(1, numbers // size) * size
    for row in range(0, count, at_once):
        queries_NKT = queries_NTK[row : row + at_once].mT
        for slot in range(0, capacity, wide):
            keys_NWK = rows.keys_NRK[row : row + at_once, slot : slot + wide].to(queries_NTK.dtype)
            block_NGT = maxima_NGT[row : row + at_once, slot // size : (slot + wide) // size]
            if size == 1:
                torch.bmm(keys_NWK, queries_NKT, out=block_NGT)
            else:
                _largest(torch.bmm(keys_NWK, queries_NKT), size, out=block_NGT)
    slots_1Gg = groups.slots(*_members(groups, queries_NTK.device))[None]
    maxima_NGT.masked_fill_(~rows.readable(slots_1Gg).any(-1)[..., None], float("-inf"))
    return Maxima(maxima_NGT if size == 1 else _without_void_members(maxima_NGT, queries_NTK, rows, groups))


def best(
    queries_NTK: Tensor, rows: Rows, groups: Groups, maxima: Maxima, groups_NTL: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k largest scores of each query in its groups, N T k, largest first, and their slots; -inf where none is readable."""
    count, capacity, head_size = rows.keys_NRK.shape
    length = queries_NTK.shape[1]
    member_g = torch.arange(groups.size, device=groups_NTL.device)
    slots_NTM = groups.slots(groups_NTL[..., None], member_g).flatten(-2)
    first_N11 = torch.arange(count, device=slots_NTM.device).view(-1, 1, 1) * capacity
    places_NTM = slots_NTM.clamp_max(capacity - 1) + first_N11
    # a key in half precision is copied, and the copy is converted
    copied = 0 if rows.keys_NRK.dtype == queries_NTK.dtype else _entry_bytes(rows) * head_size * slots_NTM.shape[2]
    at_once = max(1, BLOCK_BYTES // copied) if copied else count * length
    pairs = zip(queries_NTK.flatten(0, 1).split(at_once), places_NTM.flatten(0, 1).split(at_once), strict=True)
    table = rows.keys_NRK.flatten(0, 1)
    scores_NTM = torch.cat([dot_rows(queries_nK, table, places_nM) for queries_nK, places_nM in pairs]).view(
        slots_NTM.shape
    )
    scores_NTk, members_NTk = scores_NTM.masked_fill_(~rows.readable(slots_NTM), float("-inf")).topk(k, dim=-1)
    return scores_NTk, slots_NTM.gather(-1, members_NTk).clamp_max_(capacity - 1)


def moved(rows: Rows, groups: Groups, k: int) -> float:
    """Bytes of maxima and of the keys of members that a search reads and writes for each query."""
    entries = min(k, groups.number) * groups.size * rows.keys_NRK.shape[2]
    return groups.number * MAXIMA_PASSES * 4 + entries * _entry_bytes(rows)


def held(groups: Groups, k: int) -> float:
    """Bytes that a search needs for each query at once."""
    return groups.number * 4 + min(k, groups.number) * groups.size * MEMBER_BYTES


def _entry_bytes(rows: Rows) -> int:
    """Bytes that `best` moves for each entry of a key: in half precision, for its copy and the converted copy too."""
    return 14 if rows.keys_NRK.element_size() < 4 else rows.keys_NRK.element_size()


def _members(groups: Groups, device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers of all groups, G 1, and of their members, g."""
    return torch.arange(groups.number, device=device)[:, None], torch.arange(groups.size, device=device)


def _largest(scores_NWT: Tensor, size: int, *, out: Tensor) -> None:
    """Write the largest of each `size` neighbours to `out`, N G T; the last group may be smaller."""
    whole = scores_NWT.shape[1] // size
    if whole:
        torch.amax(scores_NWT[:, : whole * size].unflatten(1, (whole, size)), 2, out=out[:, :whole])
    if whole < out.shape[1]:
        torch.amax(scores_NWT[:, whole * size :], 1, out=out[:, whole])


def _without_void_members(maxima_NGT: Tensor, queries_NTK: Tensor, rows: Rows, groups: Groups) -> Tensor:
    """Correct the maxima of the groups that are readable in part: those where the readable slots begin and end.

    This is a few keys of each lane and head. A mask over all scores would be two passes over them.
    """
    capacity = rows.keys_NRK.shape[1]
    ends_N2 = torch.stack([rows.position_N - rows.count_N, rows.position_N - 1], 1) % capacity // groups.size
    slots_N2g = ends_N2[..., None] * groups.size + torch.arange(groups.size, device=ends_N2.device)
    places_NE = slots_N2g.flatten(1).clamp_max(capacity - 1)
    keys_NEK = rows.keys_NRK.take_along_dim(places_NE[..., None], 1).to(queries_NTK.dtype)
    scores_NET = torch.bmm(keys_NEK, queries_NTK.mT)
    scores_NET.masked_fill_(~rows.readable(slots_N2g).flatten(1)[..., None], float("-inf"))
    ends_N2T = ends_N2[..., None].expand(-1, -1, queries_NTK.shape[1])
    return maxima_NGT.scatter_(1, ends_N2T, scores_NET.unflatten(1, (2, -1)).amax(2))
