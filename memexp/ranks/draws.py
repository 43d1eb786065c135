"""Random numbers in several processes: some must be the same in all, such as where thoughts cut a segment, others must differ.

What is drawn for single lanes (dropout) comes from torch's own generators, which differ. What is drawn for all lanes comes
from `common`, which begins as the generator of one process. So without dropout, several processes draw what one would.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from memexp.ranks.exchange import rank, ranks

_common: torch.Generator | None = None


def common() -> torch.Generator | None:
    """The generator of what is drawn for all lanes; None, which is torch's own, in one process."""
    return _common


def begin(state: Tensor, *, seed: int, step: int) -> None:
    """Give this process generators of its own, unless it is alone.

    Args:
        state: of the generator for what is drawn for all lanes.
        seed, step: of the run; with the rank they determine what is drawn for single lanes from this step on.
    """
    global _common
    if ranks() == 1:
        _common = None
        torch.set_rng_state(state)
        return
    _common = torch.Generator()
    _common.set_state(state)
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank())).generate_state(1, np.uint64)[0]))


def common_state() -> Tensor:
    """The state of the generator for what is drawn for all lanes."""
    return torch.get_rng_state() if _common is None else _common.get_state()


def same_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`, which restores only torch's generators: what a segment draws for all lanes, it draws again."""
    if _common is None:
        return nullcontext(), nullcontext()
    return nullcontext(), _drawing_from(_common, _common.get_state())


@contextmanager
def _drawing_from(generator: torch.Generator, state: Tensor) -> Iterator[None]:
    now = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(now)
