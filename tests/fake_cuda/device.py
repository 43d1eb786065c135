"""A CUDA device that is not there: tensors of it have shapes and types, but no values.

Found are tensors of two devices in one operation, types and shapes that do not fit, waits of the host for the device, copies
from pageable memory, kernels, bytes that kernels read and write, and bytes that are held at once. No time is measured.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

CHECKOUT = Path(__file__).resolve().parents[2]

NO_KERNEL = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "split", "split_with_sizes",
    "unsqueeze", "squeeze", "alias", "detach", "as_strided", "unbind", "unfold", "diagonal", "lift_fresh", "_reshape_alias",
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "tensor_split", "chunk", "reshape", "dtype",
    "device", "is_pinned", "unsafe_split", "view_as", "resize_", "set_", "_local_scalar_dense", "record_stream",
    "squeeze_", "unsqueeze_",
}  # fmt: skip
"""Operations that only look at a tensor in another way, or reserve memory."""
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
"""Operations whose result has a size that the host must wait for."""
SERIAL = 8
"""With more than this many indices for each place, adding at equal indices one after another takes long."""


@cache
def _of_memexp(file: str) -> str:
    """The path of a file of memexp within the checkout; empty for other files."""
    path = file.removeprefix(f"{CHECKOUT}/")
    return "" if path == file or path.startswith((".venv", "tests/")) else path


def place() -> str:
    """The innermost line of memexp that is running; in a backward pass there is none."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if file := _of_memexp(frame.f_code.co_filename):
            return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "backward"


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments or results, also in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@dataclass
class Seen:
    """What reached the device, by the line of memexp that asked for it, and what waited for it."""

    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    """How often the host waited for the device."""
    pageable: Counter[str] = field(default_factory=Counter)
    """Bytes that were copied to the device from memory that is not pinned; such a copy waits too."""
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes that kernels read and wrote."""
    serial: Counter[str] = field(default_factory=Counter)
    """Indices of additions at given indices, where the device adds equal indices one after another."""
    plans: set[str] = field(default_factory=set)
    """Shapes of attention for which cuDNN builds a plan, which takes it up to a second each."""
    unfused: Counter[str] = field(default_factory=Counter)
    """Norms of several kernels, because the input and the weight have different types."""
    convolutions: Counter[str] = field(default_factory=Counter)
    """Convolutions in full precision, which cuDNN does in TF32 by default."""
    peak: int = 0
    """The largest number of bytes held at once."""
    held: int = 0
    """Bytes held at the end."""

    @property
    def count(self) -> int:
        """All kernels."""
        return sum(self.kernels.values())

    @property
    def total_waits(self) -> int:
        return sum(self.waits.values())

    def moved_by(self, part: str) -> int:
        """Bytes that were moved by lines of files whose path has this part."""
        return sum(size for line, size in self.moved.items() if part in line)


class Watch(TorchDispatchMode):
    """Counts all that is done on the device; stands above the mode that makes the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self._alive: dict[int, tuple[Any, int]] = {}
        self._held = 0

    def begin(self) -> None:
        """Forget what was seen, but not what is held."""
        self._forget()
        self.seen = Seen(peak=self._held)

    def end(self) -> Seen:
        """What was seen since `begin`."""
        self._forget()
        self.seen.held = self._held
        return self.seen

    def _forget(self) -> None:
        for key in [key for key, (reference, _) in self._alive.items() if reference.expired()]:
            self._held -= self._alive.pop(key)[1]

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            if not self._alive[key][0].expired():
                return
            self._held -= self._alive.pop(key)[1]
        self._alive[key] = (StorageWeakRef(storage), storage.nbytes())
        self._held += storage.nbytes()
        if self._held > self.seen.peak:
            self._forget()
            self.seen.peak = max(self.seen.peak, self._held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        tensors = list(_tensors((*args, *kwargs.values())))
        on_cuda = any(x.device.type == "cuda" for x in tensors)
        if name == "_local_scalar_dense":
            self._wait("item", on_cuda)
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        if name in SIZED_BY_VALUES or (name == "repeat_interleave" and on_cuda):
            self._wait(name, on_cuda)
            if name == "nonzero":
                return args[0].new_zeros((max(1, args[0].numel() // 2), args[0].dim()), dtype=torch.long)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"):
            args = self._without_masks(name, args, on_cuda)
        result = func(*args, **kwargs)
        out = list(_tensors((result,)))
        on_cuda = on_cuda or any(x.device.type == "cuda" for x in out)
        if name in ("_to_copy", "copy_", "_foreach_copy_") and tensors:
            self._copied(*((tensors[0], out[0]) if name == "_to_copy" else (tensors[-1], tensors[0])))
        for tensor in out:
            if tensor.device.type == "cuda":
                self._hold(tensor)
        if on_cuda and name not in NO_KERNEL and not func.is_view:
            line = place()
            self.seen.kernels[line] += 1
            self.seen.moved[line] += sum(x.numel() * x.element_size() for x in [*tensors, *out])
            if "convolution" in name and args[0].dtype == torch.float32:
                self.seen.convolutions[line] += 1
        return result

    def _wait(self, how: str, on_cuda: bool) -> None:
        if on_cuda:
            self.seen.waits[f"{place()}: {how}"] += 1

    def _without_masks(self, name: str, args: Any, on_cuda: bool) -> Any:
        """Indexing by a mask has a size that the host waits for; here, half of the mask is true."""
        indices = list(args[1])
        adds = "put" in name and len(args) > 3 and args[3]
        if on_cuda and adds:
            places = [
                (index.numel(), size) for index, size in zip(indices, args[0].shape, strict=False) if index is not None
            ]
            many, few = max(count for count, _ in places), prod(size for _, size in places)
            if many > SERIAL * few:
                self.seen.serial[place()] += many
        if not any(index is not None and index.dtype == torch.bool for index in indices):
            return args
        self._wait("indexing by a mask", on_cuda)
        whole: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype != torch.bool:
                whole.append(index)
                continue
            count = max(1, index.numel() // 2)
            whole += [torch.zeros(count, dtype=torch.long, device=index.device) for _ in range(index.dim())]
        return args[0], whole, *args[2:]

    def _copied(self, source: Tensor, target: Tensor) -> None:
        if source.device.type == "cuda" and target.device.type == "cpu":
            self._wait("copy to the host", True)
        elif source.device.type == "cpu" and target.device.type == "cuda" and not getattr(source, "pinned", False):
            self.seen.pageable[place()] += source.numel() * source.element_size()


@contextmanager
def a_gpu() -> Iterator[Watch]:
    """Inside, torch has a CUDA device, and all new tensors are without values."""
    fake, watch = FakeTensorMode(), Watch()
    real_from_numpy, real_tolist, real_numpy = torch.from_numpy, Tensor.tolist, Tensor.numpy
    rms_norm = torch.nn.functional.rms_norm

    def from_numpy(array: Any) -> Tensor:
        tensor: Tensor = fake.from_tensor(real_from_numpy(np.ascontiguousarray(array)))
        return tensor

    def pin_memory(self: Tensor) -> Tensor:
        copy: Any = self.clone()
        copy.pinned = True
        return copy  # type: ignore[no-any-return]

    def tolist(self: Tensor) -> Any:
        if not isinstance(self, FakeTensor):
            return real_tolist(self)
        watch._wait("tolist", self.device.type == "cuda")
        return np.full(tuple(self.shape), 1.0 if self.dtype.is_floating_point else 20).tolist()

    def numpy(self: Tensor, **options: Any) -> Any:
        if not isinstance(self, FakeTensor):
            return real_numpy(self, **options)
        if self.device.type != "cpu" or self.dtype == torch.bfloat16:
            raise TypeError(f"a tensor of {self.device} in {self.dtype} is no array")
        return np.zeros(tuple(self.shape), dtype=str(self.dtype).removeprefix("torch."))

    def to(self: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    moved = parameter.detach().to(device)
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)
        return self

    def one_kernel(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        if weight is not None and weight.dtype != x.dtype:
            watch.seen.unfused[place()] += 1
            return rms_norm(x, shape, weight, eps)
        normed: Tensor = torch.ops.aten._fused_rms_norm(x, list(shape), weight, eps)[0]
        return normed

    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True,
        "max_memory_allocated": 1, "get_device_capability": (9, 0), "synchronize": None, "is_initialized": True,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None,
        "get_device_properties": SimpleNamespace(name="no GPU", total_memory=150 * 10**9, major=9, minor=0),
    }  # fmt: skip
    with ExitStack() as stack:
        for name, value in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, _answer(value)))
        for owner, name, replacement in (
            (torch, "from_numpy", from_numpy), (Tensor, "pin_memory", pin_memory), (FakeTensor, "tolist", tolist),
            (Tensor, "numpy", numpy), (torch.nn.Module, "to", to), (torch.nn.functional, "rms_norm", one_kernel),
            (torch.nn.functional, "scaled_dot_product_attention", _Attention(watch)),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.enter_context(fake)
        stack.enter_context(watch)
        yield watch


def _answer(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


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
