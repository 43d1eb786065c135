"""Products with chosen rows of a table, without a copy of the chosen rows.

Shapes: N queries, M chosen rows for each query, R rows of the table, K entries of a row.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def dot_rows(queries_NK: Tensor, table_RK: Tensor, places_NM: Tensor, *, known_NM: Tensor | None = None) -> Tensor:
    """The inner product of each query with each of its rows, N M; only the queries get a gradient.

    Args:
        table_RK: the chosen rows must not be changed before the backward pass, which reads them again.
        places_NM: the chosen rows of each query.
        known_NM: the products, if they are known; then only the backward pass reads the table.
    """
    products_NM: Tensor = _Dot.apply(queries_NK, table_RK, places_NM, known_NM)
    return products_NM


def sum_rows(weights_NM: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    """The weighted sum of each query's rows, N K; only the weights get a gradient. The table is as in `dot_rows`."""
    sums_NK: Tensor = _Sum.apply(weights_NM, table_RK, places_NM)
    return sums_NK


class _Dot(torch.autograd.Function):
    """Inner products; their backward pass is the forward pass of `_Sum`, and the reverse."""

    @staticmethod
    def forward(ctx: Any, queries_NK: Tensor, table_RK: Tensor, places_NM: Tensor, known_NM: Tensor | None) -> Tensor:
        ctx.table_RK, ctx.places_NM = table_RK, places_NM
        return _dots(queries_NK, table_RK, places_NM) if known_NM is None else known_NM.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NM: Tensor) -> tuple[Tensor, None, None, None]:
        return _sums(gradient_NM, ctx.table_RK, ctx.places_NM), None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights_NM: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
        ctx.table_RK, ctx.places_NM = table_RK, places_NM
        return _sums(weights_NM, table_RK, places_NM)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NK: Tensor) -> tuple[Tensor, None, None]:
        return _dots(gradient_NK, ctx.table_RK, ctx.places_NM), None, None


def dot_pairs(queries_NK: Tensor, table_RK: Tensor, query_P: Tensor, row_P: Tensor) -> Tensor:
    """The inner products of some queries with some rows, P, without a gradient.

    Args:
        query_P: the query of each product.
        row_P: the row of each product.
    """
    if table_RK.dtype != queries_NK.dtype:  # rows stored in half precision are summed in full precision
        return (queries_NK[query_P] * table_RK[row_P].to(queries_NK.dtype)).sum(-1)
    # these products are the gradient of a weighted sum with respect to its weights; this kernel copies no rows
    start_1 = torch.zeros(1, dtype=torch.long, device=row_P.device)  # of the sums, which this kernel does not look at
    products_P: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        queries_NK, table_RK, row_P, start_1, query_P, 0
    )
    return products_P


def _dots(queries_NK: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    queries, rows = places_NM.shape
    if table_RK.dtype != queries_NK.dtype:
        rows_NMK = table_RK[places_NM].to(queries_NK.dtype)
        # queries first, because a batch of products of a matrix with a vector is several times slower
        return torch.bmm(queries_NK[:, None], rows_NMK.mT).squeeze(1)
    query_P = torch.arange(queries, device=places_NM.device).repeat_interleave(rows)
    return dot_pairs(queries_NK, table_RK, query_P, places_NM.flatten()).view_as(places_NM)


def _sums(weights_NM: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    if table_RK.dtype != weights_NM.dtype:
        return torch.bmm(weights_NM[:, None], table_RK[places_NM].to(weights_NM.dtype)).squeeze(1)
    return F.embedding_bag(places_NM, table_RK, mode="sum", per_sample_weights=weights_NM)
