"""Gauges are computed only while somebody watches: training watches the steps that it logs.

`memory_fill...` is always there, because a run keeps the largest of all steps. Evaluation always watches.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")
Gauges = dict[str, Tensor]
"""Detached scalars by name."""

_watched: ContextVar[bool] = ContextVar("watched", default=True)


def watched() -> bool:
    """Whether somebody watches the gauges."""
    return _watched.get()


@contextmanager
def watching(on: bool) -> Iterator[None]:
    """Watch the gauges, or do not, while the block runs; in a thread of its own, also a recomputation has to say it."""
    before = _watched.set(on)
    try:
        yield
    finally:
        _watched.reset(before)


def if_watched(compute: Callable[P, Gauges]) -> Callable[P, Gauges]:
    """A function that computes gauges, without gradient; it returns none while nobody watches."""

    @wraps(compute)
    def gauges(*args: P.args, **options: P.kwargs) -> Gauges:
        if not watched():
            return {}
        with torch.no_grad():
            return compute(*args, **options)

    return gauges


def mean_of_layers(**values: Sequence[Tensor]) -> Gauges:
    """Means over layers by name, of those gauges of which there are any."""
    return {name: torch.stack(list(of_layers)).mean() for name, of_layers in values.items() if of_layers}


def is_fill(name: str) -> bool:
    """Whether a gauge is one that is always there: how full a memory is."""
    return name.startswith("memory_fill")


def on_host(gauges: Gauges) -> dict[str, float]:
    """The gauges as numbers, for which the host waits once."""
    values = torch.stack([value.double() for value in gauges.values()]).tolist() if gauges else []
    return dict(zip(gauges, values, strict=True))
