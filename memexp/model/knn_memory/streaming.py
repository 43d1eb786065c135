"""Rows of a ring in the host's memory, carried to an accelerator while it computes.

A device can only copy by itself from memory that the operating system cannot move (pinned). So rows pass through two pinned
buffers: one is filled while the other is copied, on a second stream of the device.
Shapes: N lanes and heads, R slots, K head size, M rows.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from memexp.model.knn_memory.ring import Ring, readable_spans

PIECE_BYTES = 32 << 20
"""Bytes that are carried at a time; the keys of one lane and head may be more."""


class Copies(Protocol):
    """Copies to a device that run beside its computations."""

    def buffer(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory of the host from which the device can copy, with the type of `like`."""

    def start(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        """Start to copy to the first of each pair from the second, once all computations that were started are done.

        Returns a function that waits for the end of these copies.
        """

    def require(self) -> None:
        """Let the computations that are started from now on wait for all copies that were started; the host goes on."""


class InTurn:
    """Copies within the host's memory, one after another."""

    def buffer(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_empty(size)

    def start(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        for to, source in pairs:
            to.copy_(source)
        return lambda: None

    def require(self) -> None:
        pass


class OnStream:
    """Copies on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def buffer(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_empty(size, pin_memory=True)  # torch keeps pinned memory and gives it again

    def start(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for to, source in pairs:
                to.copy_(source, non_blocking=True)
        return self.stream.record_event().synchronize

    def require(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)


@cache
def copies_to(device: torch.device) -> Copies:
    """The way to a device."""
    return OnStream(device) if device.type == "cuda" else InTurn()


class _Belt:
    """Two buffers in turn."""

    def __init__(self, copies: Copies, size: tuple[int, ...], like: Tensor) -> None:
        self.copies = copies
        self.buffers = [copies.buffer(size, like) for _ in range(2)]
        self.waits: list[Callable[[], None]] = []

    def free(self) -> Tensor:
        """The buffer that is next; what stood in it has been copied."""
        if len(self.waits) >= 2:
            self.waits[-2]()
        return self.buffers[len(self.waits) % 2]

    def send(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Copy from the buffer that `free` gave last."""
        self.waits.append(self.copies.start(pairs))


def keys_on(device: torch.device, ring: Ring, at_once: int) -> Iterator[Tensor]:
    """The keys of a ring, N R K, at most `at_once` lanes and heads at a time; each is valid until the next is taken.

    From the host's memory only readable keys are carried, for which the host waits for the counts; the other slots hold
    arbitrary numbers.
    """
    keys_NRK = ring.keys_BHRK.flatten(0, 1)
    if keys_NRK.device == device:
        yield from keys_NRK.split(at_once)
    else:
        yield from _carried(copies_to(device), device, ring, at_once)


def _carried(copies: Copies, device: torch.device, ring: Ring, at_once: int) -> Iterator[Tensor]:
    keys_NRK, heads = ring.keys_BHRK.flatten(0, 1), ring.keys_BHRK.shape[1]
    at_once = min(at_once, max(1, PIECE_BYTES // (keys_NRK[0].numel() * keys_NRK.element_size())), len(keys_NRK))
    spans = readable_spans(ring)
    belt = _Belt(copies, (at_once, *keys_NRK.shape[1:]), keys_NRK)
    on_device = [torch.empty_like(buffer, device=device) for buffer in belt.buffers]

    def send(first: int) -> None:
        buffer, target, pairs = belt.free(), on_device[first // at_once % 2], []
        for place, row in enumerate(range(first, min(first + at_once, len(keys_NRK)))):
            for start, stop in spans[row // heads]:
                buffer[place, start:stop] = keys_NRK[row, start:stop]
                pairs.append((target[place, start:stop], buffer[place, start:stop]))
        belt.send(pairs)

    send(0)
    for first in range(0, len(keys_NRK), at_once):
        copies.require()
        if first + at_once < len(keys_NRK):  # before the search of these keys starts, so that it does not wait for it
            send(first + at_once)
        yield on_device[first // at_once % 2][: len(keys_NRK) - first]


def rows_on(device: torch.device, table_RK: Tensor, rows_M: Tensor) -> Tensor:
    """Copies of chosen rows of a table in the host's memory on a device, M K."""
    copies, (_, size) = copies_to(device), table_RK.shape
    copied_MK = table_RK.new_empty(len(rows_M), size, device=device)
    at_once = min(max(1, PIECE_BYTES // (size * table_RK.element_size())), len(rows_M))
    belt = _Belt(copies, (at_once, size), table_RK)
    for first in range(0, len(rows_M), at_once):
        some_M = rows_M[first : first + at_once]
        buffer_MK = belt.free()[: len(some_M)]
        torch.index_select(table_RK, 0, some_M, out=buffer_MK)
        belt.send([(copied_MK[first : first + at_once], buffer_MK)])
    copies.require()
    return copied_MK
