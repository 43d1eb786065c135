"""Attention with a bias of distances on an accelerator, for a part of the lanes and heads after another.

Kernels of attention take bias and mask as one tensor, B H T S, which is as large as the scores that they never store. So it is
made for a part of the lanes and heads at a time, and made again for the backward pass.

Shapes: B lanes, H heads, T queries, S keys, K head size, N numbers of a bias.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from memexp.model.transformer.kept import ALIGNED
from memexp.model.transformer.numerics import uncast
from memexp.model.transformer.position import ByDistance

AT_ONCE = 1 << 29
"""Largest size of bias and mask of the lanes and heads that are read together, in bytes, if these are several."""

Hidden = Callable[[slice], Tensor]
"""A function of lanes; returns where their queries may not attend, B 1 T S, where B and T may be 1."""


class Form(NamedTuple):
    """How the scores of attention are changed."""

    bias: ByDistance
    """With its numbers or with others."""
    hidden: Hidden | None
    """None: a query may attend to all keys."""


def fits(queries_BHTK: Tensor, keys_BHSK: Tensor) -> bool:
    """Whether bias and mask of all lanes and heads may exist at once."""
    return queries_BHTK.shape[0] * queries_BHTK.shape[1] * _size(queries_BHTK, keys_BHSK) <= AT_ONCE


def attend_by_lanes(queries_BHTK: Tensor, keys_BHSK: Tensor, values_BHSK: Tensor, form: Form) -> Tensor:
    """The output of each head, B H T K; queries, keys and values are of the same type."""
    table_HN = form.bias.table_HN
    form = form._replace(bias=form.bias._replace(table_HN=table_HN.detach()))
    read_BHTK: Tensor = _ByLanes.apply(queries_BHTK, keys_BHSK, values_BHSK, table_HN, form)
    return read_BHTK


class _ByLanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, table_HN: Tensor, form: Form) -> Tensor:
        ctx.form = form
        ctx.save_for_backward(queries, keys, values, table_HN)
        lanes, heads, length, _ = queries.shape
        # in the order of memory in which heads are joined
        read = values.new_empty(lanes, length, heads, values.shape[-1]).transpose(1, 2)
        with uncast(queries.device):
            for some_heads in _heads(queries, keys):
                bias_1HTS = _bias(form, table_HN[some_heads])
                for some in _parts(queries, keys, some_heads):
                    read[some] = _attend(bias_1HTS, form, some[0], queries[some], keys[some], values[some])
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        form: Form = ctx.form
        *inputs, table_HN = ctx.saved_tensors
        gradients = [x.new_empty(x.shape) for x in inputs]
        of_table_HN = torch.empty_like(table_HN) if ctx.needs_input_grad[3] else None
        with torch.enable_grad(), uncast(gradient.device):
            for heads in _heads(inputs[0], inputs[1]):
                numbers_HN = table_HN[heads].detach().requires_grad_(of_table_HN is not None)
                _backward_of_heads(inputs, gradient, gradients, numbers_HN, form, heads)
                if of_table_HN is not None and numbers_HN.grad is not None:
                    of_table_HN[heads] = numbers_HN.grad
        return (*gradients, of_table_HN, None)


def _backward_of_heads(
    inputs: list[Tensor], gradient: Tensor, gradients: list[Tensor], numbers_HN: Tensor, form: Form, heads: slice
) -> None:
    """Write the gradients of queries, keys and values, and put that of the numbers on them."""
    made_1HTS = _bias(form, numbers_HN)
    # the gradients of lanes are summed on it, in its type
    bias_1HTS = made_1HTS.detach().requires_grad_(numbers_HN.requires_grad)
    queries, keys, _ = inputs
    for some in _parts(queries, keys, heads):
        of_lanes = [x[some].detach().requires_grad_() for x in inputs]
        _attend(bias_1HTS, form, some[0], *of_lanes).backward(gradient[some])
        for whole, part in zip(gradients, of_lanes, strict=True):
            assert part.grad is not None
            whole[some] = part.grad
    if bias_1HTS.grad is not None:
        made_1HTS.backward(bias_1HTS.grad)


def _attend(bias_1HTS: Tensor, form: Form, lanes: slice, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    added = bias_1HTS.to(values.dtype)
    if form.hidden is not None:
        added = added.masked_fill(form.hidden(lanes), float("-inf"))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)


def _bias(form: Form, table_HN: Tensor) -> Tensor:
    """The bias of some heads, 1 H T S, in the type of the table: gradients of lanes are summed in it."""
    return form.bias._replace(table_HN=table_HN).dense()


def _size(queries_BHTK: Tensor, keys_BHSK: Tensor) -> int:
    """Bytes of bias and mask of one lane and head, whose rows are padded."""
    return queries_BHTK.shape[2] * -(-keys_BHSK.shape[2] // ALIGNED) * ALIGNED * keys_BHSK.element_size()


def _heads(queries_BHTK: Tensor, keys_BHSK: Tensor) -> Iterator[slice]:
    """The heads in parts."""
    heads = queries_BHTK.shape[1]
    at_once = min(heads, max(1, AT_ONCE // _size(queries_BHTK, keys_BHSK)))
    yield from (slice(start, min(start + at_once, heads)) for start in range(0, heads, at_once))


def _parts(queries_BHTK: Tensor, keys_BHSK: Tensor, heads: slice) -> Iterator[tuple[slice, slice]]:
    """The lanes in parts, each with these heads."""
    lanes = queries_BHTK.shape[0]
    at_once = max(1, AT_ONCE // (_size(queries_BHTK, keys_BHSK) * (heads.stop - heads.start)))
    yield from ((slice(start, start + at_once), heads) for start in range(0, lanes, at_once))
