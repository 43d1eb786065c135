"""Products with chosen rows of a table, without ever copying the rows together.

Shapes: N queries, M chosen rows of each, R rows of the table, K numbers of a row.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def dot_rows(queries_NK: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    """The inner product of each query with each of its rows, N M, with gradient to the queries alone.

    Args:
        table_RK: may be written to afterwards, but not in the chosen rows: the backward pass reads them again.
    """
    products_NM: Tensor = _Dot.apply(queries_NK, table_RK, places_NM)
    return products_NM


def sum_rows(weights_NM: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    """The sum of each one's chosen rows by weight, N K, with gradient to the weights alone; the table as in `dot_rows`."""
    sums_NK: Tensor = _Sum.apply(weights_NM, table_RK, places_NM)
    return sums_NK


class _Dot(torch.autograd.Function):
    """Its backward pass is `_Sum`'s forward, and the other way round."""

    @staticmethod
    def forward(ctx: Any, queries_NK: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
        ctx.table_RK, ctx.places_NM = table_RK, places_NM
        return _dots(queries_NK, table_RK, places_NM)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NM: Tensor) -> tuple[Tensor, None, None]:
        return _sums(gradient_NM, ctx.table_RK, ctx.places_NM), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights_NM: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
        ctx.table_RK, ctx.places_NM = table_RK, places_NM
        return _sums(weights_NM, table_RK, places_NM)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NK: Tensor) -> tuple[Tensor, None, None]:
        return _dots(gradient_NK, ctx.table_RK, ctx.places_NM), None, None


def _dots(queries_NK: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    if table_RK.dtype != queries_NK.dtype:  # rows in half precision count as they are stored, in sums of full precision
        rows_NMK = table_RK[places_NM].to(queries_NK.dtype)
        # in this order: a product of many matrices with a vector each is several times slower
        return torch.bmm(queries_NK[:, None], rows_NMK.mT).squeeze(1)
    count, each = places_NM.shape
    starts_N = torch.arange(0, count * each, each, device=places_NM.device)
    owner = torch.arange(count, device=places_NM.device).repeat_interleave(each)
    # the gradient of a weighted sum to its weights is just these products, and its kernel reads the rows where they are
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        queries_NK, table_RK, places_NM.flatten(), starts_N, owner, 0
    )
    products_NM: Tensor = flat.view_as(places_NM)
    return products_NM


def _sums(weights_NM: Tensor, table_RK: Tensor, places_NM: Tensor) -> Tensor:
    if table_RK.dtype != weights_NM.dtype:
        return torch.bmm(weights_NM[:, None], table_RK[places_NM].to(weights_NM.dtype)).squeeze(1)
    return F.embedding_bag(places_NM, table_RK, mode="sum", per_sample_weights=weights_NM)
