"""A CUDA device that is not there: tensors of it have shapes and types, but no values.

Found are tensors of two devices in one operation, types and shapes that do not fit, and what `tests.counting` counts. No time
is measured.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import _disable_current_modes

from memexp.model.knn_memory import accelerator_search, scores_fused, streaming
from memexp.ranks import draws, sharding
from memexp.train import saving, session

from ..counting import Watch, place, size_of
from .kernels import Kernel


class _Stream:
    """A stream of the device."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def wait_stream(self, other: "_Stream") -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def is_capturing(self) -> bool:
        return False

    def record_event(self) -> Any:
        return _Event(self._watch)


class _Event:
    """A place in the queue of a stream."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        self._watch.wait("event")


@contextmanager
def a_gpu(*, triton: bool = True) -> Iterator[Watch]:
    """Inside, torch has a CUDA device, and all new tensors are without values.

    Args:
        triton: whether Triton's kernels are there. They compute nothing, but what they read and write is counted.
    """
    fake, watch = FakeTensorMode(), Watch("cuda")
    real_from_numpy, real_tolist, real_numpy = torch.from_numpy, Tensor.tolist, Tensor.numpy
    rms_norm, real_resize = torch.nn.functional.rms_norm, torch.UntypedStorage.resize_

    def from_numpy(array: Any) -> Tensor:
        tensor: Tensor = fake.from_tensor(real_from_numpy(np.ascontiguousarray(array)))
        return tensor

    def pin_memory(self: Tensor) -> Tensor:
        return watch.pin(self.clone())

    def pinned_like(tensors: list[Tensor]) -> list[Tensor]:
        return [watch.pin(torch.empty(tensor.shape, dtype=tensor.dtype)) for tensor in tensors]

    def tolist(self: Tensor) -> Any:
        if not isinstance(self, FakeTensor):
            return real_tolist(self)
        if watch.on_device(self):
            watch.wait("tolist")
        return np.full(tuple(self.shape), 1.0 if self.dtype.is_floating_point else 20).tolist()

    def numpy(self: Tensor, **options: Any) -> Any:
        if not isinstance(self, FakeTensor):
            return real_numpy(self, **options)
        if self.device.type != "cpu" or self.dtype == torch.bfloat16:
            raise TypeError(f"a tensor of {self.device} in {self.dtype} is no array")
        return np.zeros(tuple(self.shape), dtype=str(self.dtype).removeprefix("torch."))

    def apply(self: torch.nn.Module, move: Callable[[Tensor], Tensor], recurse: bool = True) -> torch.nn.Module:
        for module in self.modules() if recurse else [self]:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    moved = move(parameter.detach())
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = move(buffer)
        return self

    def resize(self: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        real_resize(self, size)
        watch.resized(self)
        return self

    def one_kernel(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        if weight is not None and weight.dtype != x.dtype:
            watch.seen.unfused[place()] += 1
            return rms_norm(x, shape, weight, eps)
        normed: Tensor = _FusedNorm.apply(x, list(shape), weight, watch)
        return normed

    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True,
        "max_memory_allocated": 1, "get_device_capability": (9, 0), "synchronize": None, "is_initialized": True,
        "Stream": _Stream(watch), "Event": _Event(watch), "current_stream": _Stream(watch), "stream": nullcontext(), "device_of": nullcontext(),
        "set_rng_state": None,
        "get_device_properties": SimpleNamespace(name="no GPU", total_memory=150 * 10**9, major=9, minor=0),
    }  # fmt: skip
    with ExitStack() as stack:
        for name, value in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, _answer(value)))
        for owner, name, replacement in (
            (torch, "from_numpy", from_numpy), (Tensor, "pin_memory", pin_memory), (FakeTensor, "tolist", tolist),
            (Tensor, "numpy", numpy), (torch.nn.Module, "_apply", apply), (torch.nn.functional, "rms_norm", one_kernel),
            (torch.nn.functional, "scaled_dot_product_attention", _Attention(watch)),
            (torch.UntypedStorage, "resize_", resize),
            (_foreach_utils, "_foreach_supported_types", [Tensor, FakeTensor]), (scores_fused, "INSTALLED", triton), (scores_fused, "maxima_kernel", Kernel("maxima", watch)),
            (scores_fused, "best_kernel", Kernel("best", watch)),
            (accelerator_search, "TOLERANCE", 2.0),  # of a difference without a value
            (torch.accelerator, "current_stream", _answer(_Stream(watch))),
            (saving, "memory_bytes", _answer(1 << 50)), (saving, "pinned_like", pinned_like),
            (torch, "get_rng_state", _random_state), (torch.cuda, "get_rng_state", _random_state),
            (torch, "set_rng_state", _answer(None)),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(owner, name, replacement))
        for known in (accelerator_search._scores, streaming.copies_to):
            known.cache_clear()
            stack.callback(known.cache_clear)
        stack.enter_context(fake)
        stack.enter_context(watch)
        yield watch


@contextmanager
def one_of(ranks: int) -> Iterator[None]:
    """Inside, this process is the first of so many that share the lanes; the others are not there, and what they send has no values.

    Within `a_gpu`.
    """

    def mesh(*arguments: Any, **options: Any) -> Any:
        with _disable_current_modes():  # its numbers are read
            return init_device_mesh(*arguments, **options)

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        with (
            mock.patch.object(sharding, "init_device_mesh", mesh),
            mock.patch.object(session, "first", lambda do: do()),
            mock.patch.object(draws, "begin"),  # it sets the state of a generator
        ):
            yield
    finally:
        dist.destroy_process_group()


def _answer(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _random_state(device: Any = None) -> Tensor:
    return torch.zeros(16, dtype=torch.uint8)


class _FusedNorm(torch.autograd.Function):
    """The norm's kernel on CUDA, which a CPU build has only as several operations: it keeps its input and a factor for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: list[int], weight: Tensor | None, watch: Watch) -> Tensor:
        normed, factor = torch.empty_like(x), x.new_empty(*x.shape[: -len(shape)], 1, dtype=torch.float32)
        watch.kernel("_fused_rms_norm", sum(map(size_of, (x, normed, factor, *([] if weight is None else [weight])))))
        ctx.shape = shape
        ctx.save_for_backward(x, factor, weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, factor, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
        of_x, of_weight = torch.ops.aten._fused_rms_norm_backward(gradients[0], x, ctx.shape, factor, weight, wanted)
        return of_x, None, of_weight, None


class _Attention:
    """Attention by the kernel that torch 2.13 takes on a Hopper GPU (`sdp_utils.cpp`).

    In half precision cuDNN comes first, where it is allowed and no bias wants a gradient; then flash attention, without a
    mask; then the efficient kernel. In full precision only the efficient kernel is left.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        aten = torch.ops.aten
        if torch.is_autocast_enabled("cuda"):
            kind = torch.get_autocast_dtype("cuda")
            queries, keys, values = (x.to(kind) for x in (queries, keys, values))
        assert queries.dtype == keys.dtype == values.dtype, (queries.dtype, keys.dtype, values.dtype)
        if 0 in queries.shape or 0 in keys.shape:
            return queries.new_zeros(*queries.shape[:3], values.shape[-1])
        half = queries.dtype != torch.float32
        learned = attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled()
        if half and torch.backends.cuda.cudnn_sdp_enabled() and not learned:
            self._watch.seen.plans.add(f"{tuple(queries.shape)} {tuple(keys.shape)} {attn_mask is not None}")
        if attn_mask is None and half and queries.shape[-1] == values.shape[-1]:
            read: Tensor = aten._scaled_dot_product_flash_attention(
                queries, keys, values, dropout_p, is_causal, False, scale=scale
            )[0]
            return read
        bias = None
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=queries.dtype).masked_fill_(~attn_mask, float("-inf"))
            attn_mask = attn_mask.to(queries.dtype)
            if rest := -attn_mask.shape[-1] % 16:
                attn_mask = torch.nn.functional.pad(attn_mask, (0, rest))[..., : attn_mask.shape[-1]]
            bias = attn_mask.expand(*queries.shape[:3], keys.shape[2])
        wanted = any(x.requires_grad for x in (queries, keys, values)) and torch.is_grad_enabled()
        read = aten._scaled_dot_product_efficient_attention(
            queries, keys, values, bias, wanted, dropout_p, is_causal, scale=scale
        )[0]
        return read
