"""Counts what reaches a device: kernels, bytes that they read and write, waits of the host, and bytes that are held at once."""

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

CHECKOUT = Path(__file__).resolve().parents[1]

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
READ_IN_PART = {"gather", "index", "index_select", "embedding"}
"""Operations that read only as many entries of their first tensor as they make."""
SUMMED = {"_embedding_bag", "_embedding_bag_forward_only"}
"""Operations that sum chosen rows of their first tensor; their second tensor has the numbers of the rows."""
WRITTEN_IN_PART = {"scatter_", "index_copy_", "index_put_", "_index_put_impl_", "index_add_"}
"""Operations that write only as many entries of their first tensor as their last tensor has."""
ONLY_WRITTEN = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "_foreach_copy_", "_foreach_zero_"}
"""Operations in place that do not read what they replace."""
CHUNK, BLOCKS, TENSORS = 1 << 16, 320, (110, 64, 48, 36, 30)
"""Numbers of a block, most blocks, and most tensors of one to five lists, of a kernel that works on lists of tensors."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
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


def size_of(tensor: Tensor) -> int:
    """Bytes; entries that are one in memory count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@dataclass
class Seen:
    """What reached the device, by the line of memexp that asked for it and the operation, and what waited for it."""

    kernels: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes that kernels read and wrote."""
    waits: Counter[str] = field(default_factory=Counter)
    """How often the host waited for the device."""
    pageable: Counter[str] = field(default_factory=Counter)
    """Bytes that were copied to the device from memory that is not pinned; such a copy waits too."""
    serial: Counter[str] = field(default_factory=Counter)
    """Indices of additions at given indices, where the device adds equal indices one after another."""
    plans: set[str] = field(default_factory=set)
    """Shapes of attention for which cuDNN builds a plan, which takes it up to a second each."""
    unfused: Counter[str] = field(default_factory=Counter)
    """Norms of several kernels, because the input and the weight have different types."""
    convolutions: Counter[str] = field(default_factory=Counter)
    """Convolutions in full precision, which cuDNN does in TF32 by default."""
    shared: Counter[str] = field(default_factory=Counter)
    """Bytes that processes sum or gather, by the operation: of one whole sum, or of all parts together."""
    peak: int = 0
    """The largest number of bytes held at once."""
    held: int = 0
    """Bytes held at the end."""

    def count(self, *parts: str) -> int:
        """The kernels of lines and operations that have one of these parts; without parts, all kernels."""
        return _sum(self.kernels, parts)

    def bytes(self, *parts: str) -> int:
        """The bytes that were moved by lines and operations that have one of these parts; without parts, all bytes."""
        return _sum(self.moved, parts)

    @property
    def total_waits(self) -> int:
        return sum(self.waits.values())


def _sum(counter: Counter[str], parts: tuple[str, ...]) -> int:
    return sum(number for line, number in counter.items() if not parts or any(part in line for part in parts))


class Watch(TorchDispatchMode):
    """Counts all that is done on a device; stands above a mode that makes the tensors, if there is one.

    Args:
        device: the type of the device, `cuda` or `meta`.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.seen = Seen()
        self._sizes: dict[int, int] = {}
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._pinned: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._held = 0

    def begin(self) -> None:
        """Forget what was seen, but not what is held."""
        self.seen = Seen(peak=self._held)

    def end(self) -> Seen:
        """What was seen since `begin`."""
        self.seen.held = self._held
        return self.seen

    def wait(self, how: str) -> None:
        """The host waits for the device."""
        self.seen.waits[f"{place()}: {how}"] += 1

    def kernel(self, name: str, bytes_: int, launches: int = 1) -> None:
        """Kernels of this name run on the device."""
        line = f"{place()}: {name}"
        self.seen.kernels[line] += launches
        self.seen.moved[line] += bytes_

    def pin(self, tensor: Tensor) -> Tensor:
        """This memory of the host is pinned."""
        self._pinned.add(tensor.untyped_storage())
        return tensor

    def resized(self, storage: torch.UntypedStorage) -> None:
        """The memory of a tensor was given back, or taken again."""
        if storage._cdata in self._sizes:
            self._add(storage.nbytes() - self._sizes[storage._cdata])
            self._sizes[storage._cdata] = storage.nbytes()

    def on_device(self, *tensors: Tensor) -> bool:
        """Whether one of the tensors is on the device."""
        return any(tensor.device.type == self.device for tensor in tensors)

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            # torch keeps the object of a storage until the memory is given back, also if only an operation holds it
            self._alive[key] = weakref.ref(storage, lambda _: self._freed(key))
            self._sizes[key] = storage.nbytes()
            self._add(storage.nbytes())

    def _freed(self, key: int) -> None:
        del self._alive[key]
        self._held -= self._sizes.pop(key)

    def _add(self, size: int) -> None:
        self._held += size
        self.seen.peak = max(self.seen.peak, self._held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:  # it does the same with the part that is here, which is seen then
            return NotImplemented
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        given = list(_tensors((*args, *kwargs.values())))
        if func.namespace == "c10d":
            self.seen.shared[name] += sum(map(size_of, _tensors(args[1:2] if "scatter" in name else args[:1])))
        on_device, pinned = self.on_device(*given), kwargs.pop("pin_memory", False)
        without_values = on_device or any(isinstance(tensor, FakeTensor) for tensor in given)
        if name == "_local_scalar_dense" and without_values:
            if on_device:
                self.wait("item")
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        if on_device and (name in SIZED_BY_VALUES or name == "repeat_interleave"):
            self.wait(name)
        if name == "nonzero" and without_values:
            return args[0].new_zeros((max(1, args[0].numel() // 2), args[0].dim()), dtype=torch.long)
        if without_values and name in INDEXING:
            args = self._without_masks(name, args, on_device)
        result = func(*args, **kwargs)
        made = list(_tensors((result,)))
        if pinned:
            self.pin(made[0])
        if name in ("_to_copy", "copy_", "_foreach_copy_") and given:
            source, target = (given[0], made[0]) if name == "_to_copy" else (given[-1], given[0])
            self._copied(
                source, target, waits=not (name == "copy_" and args[2:] == (True,) and self._is_pinned(target))
            )
        for tensor in made:
            if tensor.device.type == self.device:
                self._hold(tensor)
        if (on_device or self.on_device(*made)) and name not in NO_KERNEL and not func.is_view:
            self.kernel(name, _moved(name, given, made), _launches(name, args))
            if "convolution" in name and args[0].dtype == torch.float32:
                self.seen.convolutions[place()] += 1
        return result

    def _without_masks(self, name: str, args: Any, on_device: bool) -> Any:
        """Indexing by a mask has a size that the host waits for; here, half of the mask is true."""
        indices = list(args[1])
        adds = "put" in name and len(args) > 3 and args[3]
        if on_device and adds:
            places = [
                (index.numel(), size) for index, size in zip(indices, args[0].shape, strict=False) if index is not None
            ]
            many, few = max(count for count, _ in places), prod(size for _, size in places)
            if many > SERIAL * few:
                self.seen.serial[place()] += many
        if not any(index is not None and index.dtype == torch.bool for index in indices):
            return args
        if on_device:
            self.wait("indexing by a mask")
        whole: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype != torch.bool:
                whole.append(index)
                continue
            count = max(1, index.numel() // 2)
            whole += [torch.zeros(count, dtype=torch.long, device=index.device) for _ in range(index.dim())]
        return args[0], whole, *args[2:]

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage() in self._pinned

    def _copied(self, source: Tensor, target: Tensor, *, waits: bool) -> None:
        if source.device.type == self.device and target.device.type == "cpu":
            if waits:
                self.wait("copy to the host")
        elif source.device.type == "cpu" and target.device.type == self.device and not self._is_pinned(source):
            self.seen.pageable[place()] += source.numel() * source.element_size()


def _launches(name: str, args: Any) -> int:
    """How many kernels an operation is: one, or as many as a list of tensors needs (`MultiTensorApply.cuh`)."""
    lists = [list(_tensors(each)) for each in args if isinstance(each, list | tuple)]
    lists = [each for each in lists if each]
    if not name.startswith(("_foreach_", "_fused_adam")) or not lists:
        return 1
    chunks = sum(-(-tensor.numel() // CHUNK) for tensor in lists[0])
    return max(-(-chunks // BLOCKS), -(-len(lists[0]) // TENSORS[len(lists) - 1])) + (name == "_foreach_norm")


def _moved(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    """What an operation reads, once each, and what it writes; of a table only what is chosen."""
    written = {id(tensor) for tensor in made}
    if name in WRITTEN_IN_PART:
        return sum(map(size_of, given[1:])) + size_of(given[-1])
    reads_what_it_writes = name.endswith("_") and name not in ONLY_WRITTEN
    read = [tensor for tensor in given if id(tensor) not in written or reads_what_it_writes]
    sizes, output = [size_of(tensor) for tensor in read], sum(map(size_of, made))
    if name == "_embedding_bag_per_sample_weights_backward":
        sizes[1] = made[0].numel() * read[1].shape[-1] * read[1].element_size()
    elif name in SUMMED:
        sizes[0] = read[1].numel() * read[0].shape[-1] * read[0].element_size()
    elif name in READ_IN_PART and read:
        sizes[0] = min(sizes[0], made[0].numel() * read[0].element_size())
    return sum(sizes) + output
