"""Attention with a bias of positions on an accelerator, for a part of the lanes and heads after another.

Kernels of attention take bias and mask as one tensor, B H T S, which is as large as the scores that they never store. So it is
made for a part of the lanes and heads at a time, and made again for the backward pass.

What all lanes share of a bias is prepared once for some heads; its gradient is the sum over lanes. What a lane has of its own
is taken for a part of the lanes, like queries, keys and values.

Shapes: B lanes, H heads, T queries, S keys, K head size.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from memexp.model.transformer.kept import ALIGNED
from memexp.model.transformer.numerics import uncast
from memexp.model.transformer.position import ByDistance, ByQuery

AT_ONCE = 1 << 29
"""Largest size of bias and mask of the lanes and heads that are read together, in bytes, if these are several."""

Hidden = Callable[[slice], Tensor]
"""A function of lanes; returns where their queries may not attend, B 1 T S, where B and T may be 1."""


class Form(NamedTuple):
    """How the scores of attention are changed."""

    bias: ByDistance | ByQuery
    """Its kind and places; the tensors in it are not read."""
    hidden: Hidden | None
    """None: a query may attend to all keys."""


def fits(queries_BHTK: Tensor, keys_BHSK: Tensor) -> bool:
    """Whether bias and mask of all lanes and heads may exist at once."""
    return queries_BHTK.shape[0] * queries_BHTK.shape[1] * _size(queries_BHTK, keys_BHSK) <= AT_ONCE


def attend_by_lanes(queries_BHTK: Tensor, keys_BHSK: Tensor, values_BHSK: Tensor, form: Form) -> Tensor:
    """The output of each head, B H T K; queries, keys and values are of the same type."""
    shared, of_lanes = form.bias.shared, [each.to(values_BHSK.dtype) for each in form.bias.of_lanes]
    form = form._replace(bias=form.bias.alone())
    read_BHTK: Tensor = _ByLanes.apply(form, shared, queries_BHTK, keys_BHSK, values_BHSK, *of_lanes)
    return read_BHTK


class _ByLanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: Form, shared: Tensor, *inputs: Tensor) -> Tensor:
        """Read what `attend_by_lanes` returns.

        Args:
            inputs: queries, keys and values, and what the bias has of each lane; the first axes are B H.
        """
        ctx.form = form
        ctx.save_for_backward(shared, *inputs)
        queries, keys, values, *_ = inputs
        lanes, heads, length, _ = queries.shape
        # in the order of memory in which heads are joined
        read = values.new_empty(lanes, length, heads, values.shape[-1]).transpose(1, 2)
        with uncast(queries.device):
            for some_heads in _heads(queries, keys):
                prepared = form.bias.prepared(shared[some_heads])
                for some in _parts(queries, keys, some_heads):
                    read[some] = _attend(prepared, form, some[0], *(x[some] for x in inputs))
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        form: Form = ctx.form
        shared, *inputs = ctx.saved_tensors
        gradients = [x.new_empty(x.shape) for x in inputs]
        of_shared = torch.empty_like(shared) if ctx.needs_input_grad[1] else None
        with torch.enable_grad(), uncast(gradient.device):
            for heads in _heads(inputs[0], inputs[1]):
                shared_by_heads = shared[heads].detach().requires_grad_(of_shared is not None)
                _backward_of_heads(inputs, gradient, gradients, shared_by_heads, form, heads)
                if of_shared is not None and shared_by_heads.grad is not None:
                    of_shared[heads] = shared_by_heads.grad
        return (None, of_shared, *gradients)


def _backward_of_heads(
    inputs: list[Tensor], gradient: Tensor, gradients: list[Tensor], shared: Tensor, form: Form, heads: slice
) -> None:
    """Write the gradients of the inputs, and put that of what lanes share on it."""
    prepared = form.bias.prepared(shared)
    # the gradients of lanes are summed on it, in its type
    by_lanes = prepared.detach().requires_grad_(shared.requires_grad)
    for some in _parts(inputs[0], inputs[1], heads):
        of_lanes = [x[some].detach().requires_grad_() for x in inputs]
        _attend(by_lanes, form, some[0], *of_lanes).backward(gradient[some])
        for whole, part in zip(gradients, of_lanes, strict=True):
            assert part.grad is not None
            whole[some] = part.grad
    if by_lanes.grad is not None:
        prepared.backward(by_lanes.grad)


def _attend(
    prepared: Tensor, form: Form, lanes: slice, queries: Tensor, keys: Tensor, values: Tensor, *of_lanes: Tensor
) -> Tensor:
    added = form.bias.in_lanes(prepared, *of_lanes).to(values.dtype)
    if form.hidden is not None:
        added = added.masked_fill(form.hidden(lanes), float("-inf"))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)


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
