"""All benches by name, and what they found as one document."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from memexp.bench import archs, memory, search, startup, step, write
from memexp.bench.figures import Figure, Say
from memexp.bench.machine import describe_machine
from memexp.bench.work import Work
from memexp.config import BENCHES, BenchConfig, TrainConfig

WORK = Work()
MEASURES = {
    "search": search.measure,
    "write": write.measure,
    "step": step.measure,
    "memory": memory.measure,
    "startup": startup.measure,
}


def run_benches(config: BenchConfig, say: Say, settings: Callable[[], Mapping[str, TrainConfig]]) -> list[Figure]:
    """The figures of the benches that are asked for, in their own order.

    Args:
        settings: gives those of every architecture, for the bench that compares them.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    figures = []
    for name in chosen(config):
        if name == "archs":
            figures += archs.measure(config, WORK, _about(name, say), settings())
        else:
            figures += MEASURES[name](config, WORK, _about(name, say))
    return figures


def _about(name: str, say: Say) -> Say:
    return lambda what: say(f"{name}: {what}")


def chosen(config: BenchConfig) -> list[str]:
    """Names of the benches to run."""
    return [name for name in BENCHES if name in config.what or not config.what]


def document(config: BenchConfig, figures: list[Figure]) -> dict[str, Any]:
    """Everything that was measured, where and with what settings."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {"what": chosen(config), "repeats": config.repeats, "slots": config.slots},
        "work": asdict(WORK),
        "figures": [figure.as_dict() for figure in figures],
    }
