"""A device that is not there: torch's `meta`, whose tensors have no values; operations on them are counted."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
NO_KERNEL = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "_reshape_alias"}
CHOSEN = {
    "gather": 1,
    "index": 1,
    "index_select": 1,
    "_embedding_bag_per_sample_weights_backward": 1,
    "embedding_bag": 1,
}
"""Operations that read only chosen rows of their first or second tensor, and not all of it."""
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "repeat_interleave", "bincount"}


class Counts(TorchDispatchMode):
    """Kernels, bytes read and written, waits of the host, and bytes that are held at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.held = self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def moved(self) -> int:
        return sum(self.bytes.values())

    def count(self, name: str, bytes_: int) -> None:
        self.kernels[name] += 1
        self.bytes[name] += bytes_

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not any(tensor.device == META for tensor in [*given, *made]):
            return result
        if name in WAITS or (name in ("_to_copy", "copy_") and any(tensor.device.type == "cpu" for tensor in made)):
            self.waits[name] += 1
        for tensor in made:
            self._hold(tensor)
        if name not in NO_KERNEL and not func.is_view:
            self.count(name, _bytes(func, name, args, kwargs, given, made))
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._alive.get(key)
        if known and not known[0].expired():
            return
        if known:
            self.held -= known[1]
        self._alive[key] = (StorageWeakRef(storage), storage.nbytes())
        self.held += storage.nbytes()
        if self.held > self.peak:
            for old in [key for key, (ref, _) in self._alive.items() if ref.expired()]:
                self.held -= self._alive.pop(old)[1]
            self.peak = max(self.peak, self.held)


def _bytes(func: Any, name: str, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]) -> int:
    """What is written once, and what is read, once each; of a table only the rows that are chosen."""
    written = {id(tensor) for tensor in made}
    read = [tensor for tensor in given if id(tensor) not in written or name.endswith("_")]
    sizes = [tensor.numel() * tensor.element_size() for tensor in read]
    output = sum(tensor.numel() * tensor.element_size() for tensor in made)
    if name in CHOSEN:
        table = 1 if name.startswith("_embedding_bag") else 0
        chosen = made[0].numel() * read[table].element_size()
        if name.startswith("_embedding_bag"):
            chosen *= read[1].shape[-1]
        sizes[table] = min(sizes[table], chosen) if name != "_embedding_bag_per_sample_weights_backward" else chosen
    if name == "scatter_":
        sizes[0], output = 0, sizes[-1]
    return sum(sizes) + output
