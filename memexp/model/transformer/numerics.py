"""Computations that need full precision, also under autocast."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert half precision to fp32, for inputs of a softmax: in half precision, large scores would become equal."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_norm(x: Tensor) -> Tensor:
    """`x` divided by the norm of its last axis, like `F.normalize`, but with a third of its passes over memory."""
    normed: Tensor = _UnitNorm.apply(x)
    return normed


class _UnitNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # in half precision each operation would round, and the norms of keys would differ
        dtype = torch.promote_types(x.dtype, torch.float32)
        factor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).clamp_min_(1e-12).reciprocal_()
        normed = (x * factor).to(x.dtype)
        ctx.save_for_backward(normed, factor)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        normed, factor = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, normed)[..., None]
        return torch.addcmul(gradient, normed, along, value=-1).mul_(factor.to(gradient.dtype))
