"""Names for the parts of a step, which a profile shows."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

MARK = "memexp."
"""Prefix of the names of parts in a trace."""

_profiling = False
"""Whether a profile is being taken."""


def part(name: str) -> AbstractContextManager[object]:
    """Count the code inside, and its backward pass, as this part of a step; without a profile this costs nothing.

    If parts are nested, the innermost counts. Every name is allowed, and a profile shows all names;
    `memexp.train.profiling` has an order for the names in this package. Compiled code has no parts inside; the part
    that calls it counts.
    """
    # is_compiling comes first, because otherwise a profile would cause a recompilation
    if torch.compiler.is_compiling() or not _profiling:
        return nullcontext()
    return torch.profiler.record_function(MARK + name)


@contextmanager
def marked() -> Iterator[None]:
    """Let `part` mark its regions in the trace while this context is open."""
    global _profiling
    _profiling = True
    try:
        yield
    finally:
        _profiling = False
