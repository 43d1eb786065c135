"""A thread that writes checkpoints while training goes on.

Training waits only until the copies of all tensors to the host are in the queue of the GPU, behind the step's own work and before
that of the next step. They go to pinned memory, to which the GPU copies by itself, and which is kept for the next checkpoint.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.machine import memory_bytes
from memexp.ranks.exchange import on_this_machine

SHARE = 1 / 4
"""Largest share of the host's memory for the copies of a checkpoint, of all processes of the run on this machine together; a larger
one is written while training waits."""
ROUNDED = 2
"""Pinned memory of any size takes up to so many times as much: its size is a power of two."""

Write = Callable[[Any], None]
"""A function that writes a tree of tensors, numbers and texts."""


class Saving:
    """Writes one tree after another, each in the background if that is possible."""

    def __init__(self, device: torch.device, *, background: bool) -> None:
        """
        Args:
            background: whether a thread may write; otherwise training waits for each write.
        """
        self._device = device
        self._executor = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._written: Future[None] | None = None
        self._copies: list[Tensor] = []

    def save(self, tree: Any, write: Write) -> None:
        """Write the tree as it is now; what changes it later is not written.

        Args:
            write: gets the tree, or one of copies. If a thread calls it, what it raises is raised by the next call of `save` or
                `finish`. This tree is written nevertheless, and before that.
        """
        earlier = self._error()
        self._start(tree, write)
        if earlier is not None:
            self.finish()
            raise earlier

    def _start(self, tree: Any, write: Write) -> None:
        if self._executor is None or not _fits(tree):
            write(tree)
            return
        leaves, structure = pytree.tree_flatten(tree)
        tensors = iter(self._copied([leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]))
        copy = pytree.tree_unflatten(
            [next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
        )
        wait = _end_of_queue(self._device)

        def later() -> None:
            wait()
            write(copy)

        self._written = self._executor.submit(later)

    @property
    def failed(self) -> bool:
        """Whether the last tree could not be written, as far as is known now; `finish` raises the error."""
        return self._written is not None and self._written.done() and self._written.exception() is not None

    def wait(self) -> None:
        """Wait until all is written, or could not be."""
        if self._written is not None:
            self._written.exception()

    def finish(self) -> None:
        """Wait until all is written."""
        if (error := self._error()) is not None:
            raise error

    def _error(self) -> BaseException | None:
        """Wait until all is written; gives the error by which it could not be, once."""
        written, self._written = self._written, None
        return None if written is None else written.exception()

    def _copied(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copies in the host's memory; they are there when the device has done all that is in its queue now."""
        if [_form(copy) for copy in self._copies] != [_form(tensor) for tensor in tensors]:
            self._copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda) for x in tensors]
        for copy, tensor in zip(self._copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        return self._copies


def _fits(tree: Any) -> bool:
    sizes = [leaf.nbytes for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return ROUNDED * sum(sizes) * on_this_machine() <= SHARE * memory_bytes()


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _end_of_queue(device: torch.device) -> Callable[[], object]:
    """Waits until the device has done all that is in its queue now."""
    if device.type != "cuda":
        return lambda: None
    return torch.cuda.current_stream(device).record_event().synchronize
