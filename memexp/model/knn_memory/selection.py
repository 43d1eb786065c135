"""What a search returns, and the selection of the largest values.

Shapes: B lanes, H heads, T queries, R rows, k neighbours, G groups.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.regions import part

STRIDE = 8
"""Members of a group in `best_rows`."""
SHORT = 256
"""Up to this many rows, `best_rows` uses `torch.topk`."""


class Neighbours(NamedTuple):
    """The result of a search."""

    slots_BHTk: Tensor
    """Slots of the ring, best first; arbitrary where `found_BHTk` is false. Ties may be in any order."""
    found_BHTk: Tensor
    """False where the lane holds fewer than k pairs."""
    scores_BHTk: Tensor | None = None
    """The inner products of the queries with the keys, in at least fp32, if the search has computed them so; arbitrary where
    `found_BHTk` is false."""


def best_rows(values_RT: Tensor, k: int) -> Tensor:
    """The rows of the k largest values of each column, ... T k in no order; exact, and faster than `torch.topk`.

    Each group has `STRIDE` rows, far apart. The k best values of a column are in the k groups with the largest maxima,
    because each of them is the maximum of its group or shares its group with a larger value. So the steps are: compute
    the maxima; select the best groups, by this function with fewer rows; select the best of their members.
    """
    with part("top-k"):
        return _best_rows(values_RT, k)


def best_rows_of_runs(values_RT: Tensor, runs_GT: Tensor, k: int) -> Tensor:
    """As `best_rows`, with the maxima of each `STRIDE` neighbouring rows already there: the values are not read again."""
    with part("top-k"):
        if runs_GT.shape[-2] < k:
            return _best_rows(values_RT, k)
        first = STRIDE * _best_rows(runs_GT, k)[..., None]
        return _best_of(values_RT, (first + torch.arange(STRIDE, device=values_RT.device)).flatten(-2), k)


def _best_rows(values_RT: Tensor, k: int) -> Tensor:
    rows = values_RT.shape[-2]
    groups = rows // STRIDE
    if rows <= SHORT or groups < k:
        return values_RT.mT.contiguous().topk(k, dim=-1, sorted=False).indices
    whole = groups * STRIDE
    maxima_GT = values_RT[..., :whole, :].unflatten(-2, (STRIDE, groups)).amax(-3)
    members = _best_rows(maxima_GT, k)[..., None] + groups * torch.arange(STRIDE, device=values_RT.device)
    members = members.flatten(-2)
    if whole < rows:
        rest = torch.arange(whole, rows, device=values_RT.device).expand(*members.shape[:-1], -1)
        members = torch.cat([members, rest], dim=-1)
    return _best_of(values_RT, members, k)


def _best_of(values_RT: Tensor, members: Tensor, k: int) -> Tensor:
    """The k best among some rows of each column, ... T k."""
    best = values_RT.mT.gather(-1, members).topk(k, dim=-1, sorted=False)
    return members.gather(-1, best.indices)
