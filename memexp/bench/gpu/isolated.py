"""A check in a process of its own, so that one that fails, hangs or spoils the device does not lose the others."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from memexp.bench.gpu.ground import Ground
from memexp.bench.measurement import Figure
from memexp.machine import PARENT, end_with_parent

Measure = Callable[[Ground], Iterator[Figure]]
"""Yields each figure when it is measured."""


class Check(NamedTuple):
    """One check of a device."""

    name: str
    measure: Measure
    seconds: float
    """After this time it is stopped."""


def run(check: Check, ground: Ground, *, seconds: float) -> Iterator[Figure]:
    """The figures of a check, each as soon as it is measured; if it fails or is stopped, the last figure says why.

    Args:
        seconds: the time that is left; the check's own limit holds too.
    """
    limit = min(seconds, check.seconds)
    end = time.monotonic() + limit
    context = get_context("spawn")  # a process that is forked has no use of CUDA
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(check, ground, theirs), name=check.name)
    before = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())
    try:
        process.start()
    finally:
        os.environ.pop(PARENT) if before is None else os.environ.update({PARENT: before})
    theirs.close()
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            try:
                got = ours.recv()
            except EOFError:
                process.join()
                why = f"failed: its process ended with code {process.exitcode}"
                yield Figure.without(check.name, why, failed=True)
                return
            if got is None:
                return
            yield got if isinstance(got, Figure) else Figure.without(check.name, f"failed: {got}", failed=True)
        yield Figure.without(check.name, f"failed: stopped after {limit:.0f} s, its limit", failed=True)
    finally:
        assert process.pid is not None
        process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        process.join()
        ours.close()


def _work(check: Check, ground: Ground, results: Connection) -> None:
    """Measure, and send each figure, or why there is none; at the end None."""
    end_with_parent()
    os.setpgrp()
    try:
        for figure in check.measure(ground):
            results.send(figure)
    except Exception as error:  # of any kind: other checks go on
        results.send(said(error))
    results.send(None)


def said(error: Exception) -> str:
    """An error in one line, with the line of code where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {first} ({Path(last.filename).name}:{last.lineno})"
