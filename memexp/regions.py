"""Names for what a step spends its time on; only a profile asks for them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

MARK = "memexp."
"""What the names of parts begin with in a trace."""

_taken = False
"""Whether a profile is being taken."""


def part(name: str) -> AbstractContextManager[object]:
    """Count what runs inside, and its backward pass, as this part of a step; while no profile is taken this is free.

    Of parts inside one another the innermost counts. Any name will do: a profile shows all; `memexp.train.profiling` knows those
    of this package and shows them in its order. Compiled code has no parts, only what calls it has.
    """
    # asked first, or compiled code would be compiled again for a profile
    if torch.compiler.is_compiling() or not _taken:
        return nullcontext()
    return torch.profiler.record_function(MARK + name)


@contextmanager
def marked() -> Iterator[None]:
    """Have `part` leave its marks."""
    global _taken
    _taken = True
    try:
        yield
    finally:
        _taken = False
