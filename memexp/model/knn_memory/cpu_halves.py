"""Exact search on a CPU that multiplies bf16 fast: a threshold leaves few pairs, and only these are scored in fp32.

All scores are computed in bf16, tile by tile. The keys of a tile are dealt out to columns, and the largest score of each
column in each tile is kept, its maximum. Over all tiles, k columns have maxima of at least t, so k pairs have scores of at
least t. A bound on the rounding errors turns t into a threshold that none of the k best pairs in fp32 can be below. The
pairs that reach it are scored again in fp32, and the best of them are the result.

Shapes: H heads, T queries, R slots, K head size, k neighbours, Q queries of all heads one after another, J tiles, W slots
of a tile, C columns, D depth of a column, L columns that reach the threshold, M pairs that reach it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.knn_memory.gather_matmul import dot_pairs
from memexp.regions import part

COLUMNS = 64
"""Fewest columns; there are more than 4 k, so that t is close to the score of the k-th best pair."""
DEPTH = 16
"""Slots of a tile in a column. With deeper columns there are fewer maxima, but more pairs in the columns that are chosen."""
SCORES_BYTES = 64 << 20
"""Bytes of scores that exist at once; the same memory serves again."""
MANY = 8
"""A query that MANY * k columns reach is given up: its scores are too similar."""
ROUNDING = 2**-8
"""Largest relative error of a number that is rounded to bf16."""
NEVER = torch.iinfo(torch.int16).max
"""A threshold that no score reaches."""


class Found(NamedTuple):
    """The k best pairs of each query, best first, where `resolved_HT` is true."""

    slots_HTk: Tensor
    scores_HTk: Tensor
    resolved_HT: Tensor
    """False for queries whose threshold is not positive, or which too many pairs reach."""


class Scores:
    """Memory for the scores of some tiles, which searches use one after another.

    Fresh memory costs as much as the product that fills it, because the system hands out each page on first use.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.bfloat16)

    def of(self, tiles: int, queries: int, slots: int) -> Tensor:
        """Scores without values, J Q W."""
        if self._memory.numel() < tiles * queries * slots:
            self._memory = torch.empty(tiles * queries * slots, dtype=torch.bfloat16)
        return self._memory[: tiles * queries * slots].view(tiles, queries, slots)


class _Above(NamedTuple):
    """Pairs whose scores reach a threshold."""

    query_M: Tensor
    slot_M: Tensor
    bits_M: Tensor
    """Their scores in bf16, as bits."""
    given_up_Q: Tensor
    """Queries whose pairs are left out, because their threshold is not positive or too many columns reach it."""


def best_above(
    queries_HTK: Tensor, keys_HRK: Tensor, spans: list[tuple[int, int]], k: int, *, largest_norm: float, memory: Scores
) -> Found:
    """The k best pairs of each query, with scores in fp32.

    Args:
        queries_HTK: in fp32.
        spans: ranges of slots whose pairs are readable; together at least k.
        largest_norm: the largest norm of a readable key.
    """
    heads, length, _ = queries_HTK.shape
    halves_HTK, queries_QK = queries_HTK.to(torch.bfloat16), queries_HTK.flatten(0, 1)
    columns = max(COLUMNS, 1 << (4 * k).bit_length())
    width = columns * DEPTH
    tiles = [(first, min(first + width, stop)) for start, stop in spans for first in range(start, stop, width)]
    # |q k - q' k'| <= |q - q'| |k| + |q'| |k - k'|, with a little more for the rounding of sums in fp32
    error_HT = (queries_HTK - halves_HTK).norm(dim=-1) + 1.02 * ROUNDING * halves_HTK.float().norm(dim=-1)
    error_Q = error_HT.flatten() * largest_norm

    highest_Qk: Tensor | None = None
    above = []
    at_once = max(1, SCORES_BYTES // (torch.bfloat16.itemsize * len(error_Q) * width))
    for some in (tiles[first : first + at_once] for first in range(0, len(tiles), at_once)):
        scores_JQW = memory.of(len(some), len(error_Q), width)
        maxima_QJC = _maxima(halves_HTK, keys_HRK, some, scores_JQW, columns)
        with part("top-k"):
            highest_QC = maxima_QJC.amax(1)
            if highest_Qk is not None:
                highest_QC = torch.cat([highest_Qk, highest_QC], dim=1)
            highest_Qk = highest_QC.topk(k, dim=1, sorted=False).values
            threshold_Q = _threshold(highest_Qk.amin(1), error_Q)
            above.append(_above(threshold_Q, maxima_QJC, scores_JQW, some, most=MANY * k))
    slots_Qk, scores_Qk, resolved_Q = _best(queries_QK, keys_HRK, _joined(above, threshold_Q), k)
    shape = (heads, length)
    return Found(slots_Qk.unflatten(0, shape), scores_Qk.unflatten(0, shape), resolved_Q.view(shape))


def _maxima(
    queries_HTK: Tensor, keys_HRK: Tensor, tiles: list[tuple[int, int]], scores_JQW: Tensor, columns: int
) -> Tensor:
    """Write the scores of some tiles; the bits of the maximum of each column, Q J C."""
    _, queries, width = scores_JQW.shape
    maxima_QJC = torch.empty(queries, len(tiles), columns, dtype=torch.int16)
    for tile, (start, stop) in enumerate(tiles):
        scores_HTW = scores_JQW[tile].view(*queries_HTK.shape[:2], width)
        if stop - start < width:
            scores_HTW[..., stop - start :] = float("-inf")
        for queries_TK, keys_RK, scores_TW in zip(queries_HTK, keys_HRK, scores_HTW, strict=True):
            torch.mm(queries_TK, keys_RK[start:stop].to(torch.bfloat16).T, out=scores_TW[:, : stop - start])
        torch.amax(_bits(scores_JQW[tile]).unflatten(1, (-1, columns)), 1, out=maxima_QJC[:, tile])
    return maxima_QJC


def _bits(scores: Tensor) -> Tensor:
    """Scores in bf16 in a type that compares many times faster, without a copy.

    The bits of positive numbers, read as integers, have the order of the numbers. Negative numbers are smaller, in an
    arbitrary order.
    """
    return scores.view(torch.int16)


def _threshold(bits_Q: Tensor, error_Q: Tensor) -> Tensor:
    """The bits of a bf16 score that no pair is below which in fp32 is as good as the pair of these bits; or NEVER.

    The sum before it was rounded to these bits may be smaller by ROUNDING; the other pair's sum may be smaller than this by
    the errors of both. It is rounded as the bound is here, and rounding keeps the order.
    """
    sum_Q = bits_Q.view(torch.bfloat16).float() * (1 - 1.01 * ROUNDING)
    bound_Q = (sum_Q - 2 * error_Q).to(torch.bfloat16)
    return _bits(bound_Q).masked_fill(bound_Q <= 0, NEVER)


def _above(
    threshold_Q: Tensor, maxima_QJC: Tensor, scores_JQW: Tensor, tiles: list[tuple[int, int]], *, most: int
) -> _Above:
    """The pairs of some tiles that reach the thresholds, ordered by query; none of a query that `most` columns reach."""
    queries, _, columns = maxima_QJC.shape
    place_L = _where((maxima_QJC >= threshold_Q[:, None, None]).flatten())
    query_L, place_L = _split(place_L, len(tiles) * columns)
    given_up_Q = (threshold_Q == NEVER) | (query_L.bincount(minlength=queries) >= most)
    if given_up_Q.any():
        kept_L = ~given_up_Q[query_L]
        query_L, place_L = query_L[kept_L], place_L[kept_L]
    tile_L, column_L = _split(place_L, columns)
    bits_XCD = _bits(scores_JQW).view(-1, DEPTH, columns).mT  # X: queries of all tiles
    bits_LD = bits_XCD[tile_L * queries + query_L, column_L]
    member_M = (bits_LD >= threshold_Q[query_L][:, None]).flatten().nonzero().squeeze(1)
    of_M, depth_M = _split(member_M, DEPTH)
    slot_L = torch.tensor([start for start, _ in tiles])[tile_L] + column_L
    return _Above(query_L[of_M], slot_L[of_M] + columns * depth_M, bits_LD.flatten()[member_M], given_up_Q)


def _where(mask_N: Tensor) -> Tensor:
    """The places that are true, in order; N is a multiple of 8. Where few are, looking at 8 at once is several times faster."""
    words_N = mask_N.view(torch.int64)
    some_L = words_N.nonzero().squeeze(1)
    at_L = words_N[some_L].view(torch.bool).nonzero().squeeze(1)
    return some_L[at_L >> 3] * 8 + (at_L & 7)


def _split(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The row of each place in rows of this size, and the place in its row."""
    if size & (size - 1):
        rows = places // size
        return rows, places - rows * size
    return places >> (size.bit_length() - 1), places & (size - 1)  # ten times as fast


def _joined(above: list[_Above], threshold_Q: Tensor) -> _Above:
    """The pairs that reach the last thresholds, which are the highest, ordered by query."""
    if len(above) == 1:
        return above[0]
    *parts, given_up = zip(*above, strict=True)
    query_M, slot_M, bits_M = (torch.cat(part) for part in parts)
    kept_M = (bits_M >= threshold_Q[query_M]).nonzero().squeeze(1)
    kept_M = kept_M[query_M[kept_M].argsort(stable=True)]
    return _Above(query_M[kept_M], slot_M[kept_M], bits_M[kept_M], torch.stack(given_up).any(0))


def _best(queries_QK: Tensor, keys_HRK: Tensor, above: _Above, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs by their scores in fp32: slots and scores, Q k, and which queries have found k of them among all that reach their thresholds."""
    queries, (heads, capacity, head_size) = len(queries_QK), keys_HRK.shape
    found_Q = above.query_M.bincount(minlength=queries)
    most = max(k, int(found_Q.max()))
    # row by row the pairs of each query, and -inf behind them
    place_M = (
        torch.arange(len(above.query_M)) + (most * torch.arange(queries) - found_Q.cumsum(0) + found_Q)[above.query_M]
    )
    row_M = above.slot_M + above.query_M // (queries // heads) * capacity
    scores_QM = torch.full((queries, most), float("-inf"))
    scores_QM.view(-1)[place_M] = dot_pairs(queries_QK, keys_HRK.reshape(-1, head_size), above.query_M, row_M)
    slots_QM = torch.zeros(queries, most, dtype=torch.long)
    slots_QM.view(-1)[place_M] = above.slot_M
    with part("top-k"):
        best = scores_QM.topk(k, dim=-1)
    return slots_QM.gather(-1, best.indices), best.values, (found_Q >= k) & ~above.given_up_Q
