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

from memexp.machine import jobs_here, memory_bytes
from memexp.ranks.exchange import is_first, on_this_machine
from memexp.terminal import warn
from memexp.train.pinned import pinned_like

SHARE = 1 / 2
"""Largest share of the host's memory for the copies of checkpoints, of all processes of the run and of all jobs on this machine
together; a larger one is written while training waits."""

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
        self._waits = False
        """Whether it was said that training waits."""

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
        if self._executor is None:
            write(tree)
            return
        leaves, structure = pytree.tree_flatten(tree)
        copied = self._copied([leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)])
        if copied is None:
            write(tree)
            return
        tensors = iter(copied)
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

    def _copied(self, tensors: list[Tensor]) -> list[Tensor] | None:
        """Copies in the host's memory; they are there when the device has done all that is in its queue now. None: no room for them."""
        if [_form(copy) for copy in self._copies] != [_form(tensor) for tensor in tensors]:
            self._copies = []  # before there are others
            copies = _like(tensors) if _fits(tensors) else None
            if copies is None:
                self._say_that_training_waits(sum(tensor.nbytes for tensor in tensors))
                return None
            self._copies = copies
        for copy, tensor in zip(self._copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        return self._copies

    def _say_that_training_waits(self, size: int) -> None:
        if self._waits or not is_first():
            return
        self._waits = True
        room, sharing = SHARE * memory_bytes(), on_this_machine() * jobs_here()
        others = f", shared by {sharing} processes" * (sharing > 1)
        warn(
            f"training waits while checkpoints are written, because copies of {size / 1e9:,.1f} GB are too large for this machine; "
            f"expected at most {room / 1e9:,.1f} GB{others}. checkpoint_memory=false makes them smaller by the memory"
        )


def _like(tensors: list[Tensor]) -> list[Tensor] | None:
    """Memory for copies; for those of a GPU it is pinned."""
    pinned = pinned_like([tensor for tensor in tensors if tensor.is_cuda])
    if pinned is None:
        return None
    of_gpu = iter(pinned)
    return [next(of_gpu) if x.is_cuda else torch.empty(x.shape, dtype=x.dtype) for x in tensors]


def _fits(tensors: list[Tensor]) -> bool:
    size, there = sum(x.nbytes for x in tensors), sum(x.nbytes for x in tensors if not x.is_cuda)
    sharing = on_this_machine() * jobs_here()
    return sharing * size <= SHARE * (memory_bytes() - sharing * there)


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _end_of_queue(device: torch.device) -> Callable[[], object]:
    """Waits until the device has done all that is in its queue now."""
    if device.type != "cuda":
        return lambda: None
    return torch.cuda.current_stream(device).record_event().synchronize
