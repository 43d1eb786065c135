"""Attention with a bias of positions on an accelerator, for a part of the lanes and heads after another.

Kernels of attention take bias and mask as one tensor, B H T S, which is as large as the scores that they never store, and keep it
for the backward pass. So it is made for a part of the lanes and heads at a time, and made again for the backward pass.

What all lanes share of a bias is prepared once for some heads; its gradient is the sum over lanes. What a lane has of its own
is taken for a part of the lanes, like queries, keys and values.

Shapes: B lanes, H heads, T queries, S keys, K head size.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from memexp.model.transformer.kept import ALIGNED
from memexp.model.transformer.numerics import uncast
from memexp.model.transformer.position import Structured

AT_ONCE = 1 << 29
"""Largest size of bias and mask in bytes: of what all layers would keep together, and of the lanes and heads that are read
together, if these are several."""

Hidden = Callable[[slice], Tensor]
"""A function of lanes; returns where their queries may not attend, B 1 T S, where B and T may be 1."""


class Form(NamedTuple):
    """How the scores of attention are changed."""

    bias: Structured
    """Its kind and places; the tensors in it are not read."""
    hidden: Hidden | None
    """None: a query may attend to all keys."""


def fits(queries_BHTK: Tensor, keys_BHSK: Tensor, queries_kept: int) -> bool:
    """Whether bias and mask of all lanes and heads may exist at once.

    Args:
        queries_kept: queries of a lane and head for which the backward pass keeps them, in all layers; 0: it keeps nothing.
    """
    lanes, heads, length, _ = queries_BHTK.shape
    return lanes * heads * max(length, queries_kept) * _row(keys_BHSK) <= AT_ONCE


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

        def empty() -> Tensor:
            # in the order of memory in which heads are joined
            return values.new_empty(lanes, length, heads, values.shape[-1]).transpose(1, 2)

        read = _Whole((lanes, heads), empty)
        with uncast(queries.device):
            for some_heads in _heads(queries, keys):
                prepared = form.bias.prepared(shared[some_heads])
                for some in _parts(queries, keys, some_heads):
                    read.put(some, _attend(prepared, form, some[0], *(x[some] for x in inputs)))
        return read.tensor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        form: Form = ctx.form
        shared, *inputs = ctx.saved_tensors
        gradients = [_Whole(x.shape[:2], partial(x.new_empty, x.shape)) for x in inputs]
        of_shared = _Whole(shared.shape[:1], partial(torch.empty_like, shared))
        learned = ctx.needs_input_grad[1]
        with torch.enable_grad(), uncast(gradient.device):
            for heads in _heads(inputs[0], inputs[1]):
                shared_by_heads = shared[heads].detach().requires_grad_(learned)
                found = _backward_of_heads(inputs, gradient, gradients, shared_by_heads, form, heads)
                if found is not None:
                    of_shared.put((heads,), found)
        return (None, of_shared.tensor if learned else None, *(each.tensor for each in gradients))


class _Whole:
    """A tensor that is made part by part; if there is only one part, it is the tensor, without a copy.

    Args:
        axes: the sizes of the first axes, along which there are parts.
        empty: makes the tensor into which parts are copied.
    """

    tensor: Tensor

    def __init__(self, axes: Sequence[int], empty: Callable[[], Tensor]) -> None:
        self._axes, self._empty = tuple(axes), empty

    def put(self, some: tuple[slice, ...], part: Tensor) -> None:
        """The part at these places of the first axes."""
        if part.shape[: len(self._axes)] == self._axes:
            self.tensor = part
            return
        if not hasattr(self, "tensor"):
            self.tensor = self._empty()
        self.tensor[some] = part


def _backward_of_heads(
    inputs: list[Tensor], gradient: Tensor, gradients: list[_Whole], shared: Tensor, form: Form, heads: slice
) -> Tensor | None:
    """Put the gradients of the inputs where they belong; returns that of what lanes share, if it is learned."""
    prepared = form.bias.prepared(shared)
    by_lanes = prepared.detach().requires_grad_(shared.requires_grad)
    summed = None
    for some in _parts(inputs[0], inputs[1], heads):
        given = [x[some].detach().requires_grad_() for x in inputs]
        found = _gradients(form, some[0], by_lanes, given, gradient[some])
        for whole, of_part in zip(gradients, found, strict=False):
            whole.put(some, of_part)
        if by_lanes.requires_grad:
            summed = found[-1] if summed is None else summed.add_(found[-1])
    return None if summed is None else torch.autograd.grad(prepared, shared, summed)[0]


def _gradients(form: Form, lanes: slice, prepared: Tensor, given: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """The gradients of what some lanes are given, and of what is prepared, if it is learned."""
    (queries, keys, values), own = given[:3], given[3:]
    bias = form.bias.in_lanes(prepared, *own)
    added = _added(bias.detach(), form, lanes, values.dtype).requires_grad_(bias.requires_grad)
    read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)
    if not bias.requires_grad:
        return list(torch.autograd.grad(read, (queries, keys, values), gradient))
    *found, of_added = torch.autograd.grad(read, (queries, keys, values, added), gradient)
    del read, added  # both are as large as their gradients
    # where a query may not attend, the gradient is 0; that of lanes is summed in the type of the bias
    if len(bias) < len(of_added):
        of_bias = torch.sum(of_added, 0, keepdim=True, dtype=bias.dtype, out=torch.empty_like(bias))
    else:
        of_bias = of_added.to(bias.dtype)
    learned = [prepared] if prepared.requires_grad else []
    return [*found, *torch.autograd.grad(bias, [*own, *learned], of_bias)]


def _attend(
    prepared: Tensor, form: Form, lanes: slice, queries: Tensor, keys: Tensor, values: Tensor, *of_lanes: Tensor
) -> Tensor:
    added = _added(form.bias.in_lanes(prepared, *of_lanes), form, lanes, values.dtype)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)


def _added(bias: Tensor, form: Form, lanes: slice, dtype: torch.dtype) -> Tensor:
    """Bias and mask of some lanes; kernels of attention take only rows without gaps."""
    added = bias.to(dtype, memory_format=torch.contiguous_format).contiguous()
    if form.hidden is None:
        return added
    hidden = form.hidden(lanes)
    own = added is not bias and len(hidden) <= len(added)  # a copy of the right size
    return added.masked_fill_(hidden, float("-inf")) if own else added.masked_fill(hidden, float("-inf"))


def _row(keys_BHSK: Tensor) -> int:
    """Bytes of bias and mask of one query, whose row is padded."""
    return -(-keys_BHSK.shape[2] // ALIGNED) * ALIGNED * keys_BHSK.element_size()


def _heads(queries_BHTK: Tensor, keys_BHSK: Tensor) -> Iterator[slice]:
    """The heads in parts."""
    heads, length = queries_BHTK.shape[1:3]
    at_once = min(heads, max(1, AT_ONCE // (length * _row(keys_BHSK))))
    yield from (slice(start, min(start + at_once, heads)) for start in range(0, heads, at_once))


def _parts(queries_BHTK: Tensor, keys_BHSK: Tensor, heads: slice) -> Iterator[tuple[slice, slice]]:
    """The lanes in parts, each with these heads."""
    lanes, _, length, _ = queries_BHTK.shape
    at_once = max(1, AT_ONCE // (length * _row(keys_BHSK) * (heads.stop - heads.start)))
    yield from ((slice(start, start + at_once), heads) for start in range(0, lanes, at_once))
