"""The precision of matrix products: that of the layers, and full precision where rounding would change what is chosen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Arithmetic(NamedTuple):
    """How the matrix products of layers are computed."""

    bf16: bool = False
    """In bf16, by autocast."""
    tf32: bool = False
    """Those that are left in fp32, and convolutions, with factors that a GPU rounds to TF32: 10 bits of mantissa instead of 23."""

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Compute so while the block runs."""
        with self.unless_cast(device), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            yield

    @contextmanager
    def unless_cast(self, device: torch.device) -> Iterator[None]:
        """Compute products so that autocast leaves in fp32, as in a backward pass, which autocast does not need."""
        if device.type != "cuda":
            yield
            return
        with _tf32(self.tf32):
            yield


FP32 = Arithmetic()
"""Products in fp32."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, while the block runs: scores that are compared must not be rounded."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        with _tf32(False):
            yield


def uncast(device: torch.device) -> torch.autocast:
    """No autocast while the block runs, because the tensors have the types that it would give them; TF32 stays as it is."""
    return torch.autocast(device.type, enabled=False)


def cast_to(device: torch.device) -> torch.dtype | None:
    """The type in which autocast multiplies on this device now; None without autocast."""
    on = device.type
    if not torch.amp.is_autocast_available(on) or not torch.is_autocast_enabled(on):
        return None
    return torch.get_autocast_dtype(on)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round factors in fp32 to TF32; torch's default is no for products and yes for convolutions."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


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
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).clamp_min_(1e-12)
        if torch.compiler.is_compiling():  # which makes it one kernel, but does not know this kind of output
            normed = (x / norm).to(x.dtype)
        else:
            normed = torch.div(x, norm, out=torch.empty_like(x))  # in fp32, and rounded by the same kernel
        ctx.save_for_backward(normed, norm)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        normed, norm = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, normed)[..., None]
        return torch.addcmul(gradient, normed, along, value=-1).div_(norm)
