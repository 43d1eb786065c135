"""What fits into a device: a table of the largest memories of pairs, calculated as `memexp plan` does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from memexp.config.train import TrainConfig
from memexp.cost.memory import SHARE
from memexp.cost.table import on_device

CARDS = (8, 24, 80, 141)
"""Memory of devices, in GB (10^9 bytes)."""
LANES = (32, 16, 8, 4, 2, 1)
SLOTS = tuple(1 << power for power in range(20, 12, -1))
"""Sizes of a memory, largest first; the smallest is 8,192 pairs."""


def fits(config: TrainConfig, memory: float) -> bool:
    """Whether a training step fits into a device with so many bytes."""
    return on_device(config) <= SHARE * memory


def table(configs: Mapping[str, TrainConfig], cards: Sequence[float] = CARDS) -> str:
    """For each run and device, the most lanes with which the smallest memory fits, and the largest memory with them, as Markdown.

    Args:
        configs: runs with a memory of pairs, by what is written in their row.
        cards: memory of each device, in GB (10^9 bytes).
    """
    lines = [
        f"| settings | {' | '.join(f'{card:g} GB' for card in cards)} |",
        f"|{' --- |' * (len(cards) + 1)}",
    ]
    for label, config in configs.items():
        needed = _needed(config)
        lines.append(f"| `{label}` | {' | '.join(_largest(needed, SHARE * card * 1e9) for card in cards)} |")
    return "\n".join(lines)


def _needed(config: TrainConfig) -> Callable[[int, int], int]:
    """Bytes on the device by lanes and slots."""
    return cache(lambda lanes, slots: on_device(replace(config, lanes=lanes, mem=slots)))


def _largest(needed: Callable[[int, int], int], room: float) -> str:
    for lanes in LANES:
        if needed(lanes, SLOTS[-1]) <= room:
            slots = next(slots for slots in SLOTS if needed(lanes, slots) <= room)
            return f"{slots:,} x {lanes}"
    return "none"
