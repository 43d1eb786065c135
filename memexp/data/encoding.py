"""Text becomes tokens in as many processes as there are cores, in order, with little of it in memory at a time."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import NamedTuple

import numpy as np

from memexp.data import tokenizers
from memexp.data.shards import Entry
from memexp.data.tokenizers import Bytes, Tokenizer
from memexp.errors import UserError
from memexp.machine import cores

BLOCK = 1 << 18
"""Bytes that a document is cut into, behind a line's end, and that a process is given at a time."""

ALONE = 8 << 20
"""Bytes of text below which no other process is started, which takes a second."""


class Block(NamedTuple):
    """A document, or some of its lines."""

    entry: Entry
    start: int
    """Byte of the document that it begins with."""
    data: bytes


class _Work(NamedTuple):
    """A block as another process is told of it."""

    id: str
    start: int
    data: bytes


class Encoder:
    """A tokenizer at work in several processes; used as a context manager, which ends them."""

    def __init__(self, tokenizer: Tokenizer, *, bytes: int, processes: int | None = None) -> None:
        """
        Args:
            bytes: of all text that is to be encoded.
            processes: how many; by default one for every core, and none besides this one for little text.
        """
        processes = cores() if processes is None else processes
        self._tokenizer, self._processes = tokenizer, processes if bytes > ALONE and tokenizer.slow else 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Encoder":
        if self._processes > 1:
            # Not forked: the thread that draws progress may hold a lock, which a copy of this process would wait for.
            self._pool = ProcessPoolExecutor(
                self._processes,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self._tokenizer.save(),),
            )
        return self

    def __exit__(self, *failure: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def encode(self, texts: Iterable[tuple[Entry, bytes]]) -> Iterator[tuple[Block, np.ndarray]]:
        """The tokens of each document in turn, in one or more blocks.

        Raises:
            UserError: a document cannot be encoded, or does not come back as it was.
        """
        waiting: deque[tuple[list[Block], Future[list[np.ndarray]]]] = deque()
        for blocks in _batches(cut(texts, by_line=self._tokenizer.by_line)):
            work = [_Work(block.entry.id, block.start, block.data) for block in blocks]
            if self._pool is None:
                yield from zip(blocks, _encoded(work, self._tokenizer), strict=True)
                continue
            waiting.append((blocks, self._pool.submit(_encode_there, work)))
            if len(waiting) > 2 * self._processes:
                done, tokens = waiting.popleft()
                yield from zip(done, tokens.result(), strict=True)
        for done, tokens in waiting:
            yield from zip(done, tokens.result(), strict=True)


def cut(texts: Iterable[tuple[Entry, bytes]], *, by_line: bool) -> Iterator[Block]:
    """Documents in blocks, where they may be cut: behind the last end of a line, or of a longer line behind its own."""
    for entry, data in texts:
        start = 0
        while start < len(data):
            end = start + BLOCK
            if not by_line or end >= len(data):
                end = len(data)
            else:
                end = data.rfind(b"\n", start, end) + 1 or data.find(b"\n", end) + 1 or len(data)
            yield Block(entry, start, data[start:end])
            start = end


def _batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks together, as many as make one."""
    batch: list[Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += len(block.data)
        if size >= BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_here: Tokenizer
"""Of a process that was started to encode."""


def _begin(model: bytes) -> None:
    """Load the tokenizer; leave interrupts to the process that started this one, and end with it."""
    global _here
    _here = tokenizers.load(model, name="the tokenizer")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this process was started by one
    parent.join()
    os._exit(1)


def _encode_there(work: list[_Work]) -> list[np.ndarray]:
    return _encoded(work, _here)


def _encoded(work: list[_Work], tokenizer: Tokenizer) -> list[np.ndarray]:
    return [_tokens(each, tokenizer) for each in work]


def _tokens(work: _Work, tokenizer: Tokenizer) -> np.ndarray:
    if isinstance(tokenizer, Bytes):
        return tokenizer.encode(work.data)
    text = as_text(work.id, work.data, work.start)
    try:
        tokens = tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"document {work.id}: {error}") from error
    if tokenizer.lossless and tokenizer.decode(tokens) != text:
        raise UserError(
            f"the tokenizer changes document {work.id}; expected one that gives back what it was given, or "
            "data.tokenizer.lossless=false, with which bytes are counted in what comes back"
        )
    return tokens


def as_text(id: str, data: bytes, start: int = 0) -> str:
    """What UTF-8 of a document says, from its byte `start` on.

    Raises:
        UserError: it is no UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"document {id} is not UTF-8 at offset {start + error.start}; expected text, or data.tokenizer.kind=bytes"
        ) from error
