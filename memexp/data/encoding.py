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
"""Bytes of a block. A document is cut into blocks at ends of lines, and a process gets one block of text at a time."""

ALONE = 8 << 20
"""Below so many bytes of text no other process is started, because starting takes a second."""


class Block(NamedTuple):
    """A document, or some of its lines."""

    entry: Entry
    start: int
    """Byte of the document that it begins with."""
    data: bytes


class _Work(NamedTuple):
    """A block as it is sent to another process."""

    id: str
    start: int
    data: bytes


class Encoder:
    """Runs a tokenizer in several processes. It is a context manager, which ends them."""

    def __init__(self, tokenizer: Tokenizer, *, bytes: int, processes: int | None = None) -> None:
        """
        Args:
            bytes: size of all text to encode.
            processes: how many; default: one for each core, or only this process if there is little text.
        """
        processes = cores() if processes is None else processes
        self._tokenizer, self._processes = tokenizer, processes if bytes > ALONE and tokenizer.slow else 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Encoder":
        if self._processes > 1:
            # Not forked: the thread that draws progress may hold a lock, and a forked copy would wait for it forever.
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
    """Documents in blocks. Where a document may be cut, it is cut after the last line that fits, or after one longer line."""
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
    """Small blocks put together until they have the size of a block."""
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
"""The tokenizer of a process that was started to encode."""


def _begin(model: bytes) -> None:
    """Load the tokenizer. Ignore interrupts, which the parent process handles, and end when the parent ends."""
    global _here
    _here = tokenizers.load(model, name="the tokenizer")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this process was started by it
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
            f"the tokenizer changes document {work.id}; expected a tokenizer that gives text back unchanged, "
            "or data.tokenizer.lossless=false, with which bytes are counted in the text that comes back"
        )
    return tokens


def as_text(id: str, data: bytes, start: int = 0) -> str:
    """The text of some bytes of a document.

    Args:
        start: the place of the first byte in the document, for the message.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"document {id} is not UTF-8 at offset {start + error.start}; expected text, or data.tokenizer.kind=bytes"
        ) from error
