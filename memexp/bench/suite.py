"""All benches by name, and their results as one document."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from memexp.bench import archs, checkpoint, curve, devices, evaluation, search, startup, step, write
from memexp.bench import peak_memory as memory
from memexp.bench.gpu import suite as gpu
from memexp.bench.gpu.ground import Ground
from memexp.bench.hardware import describe_machine, floors
from memexp.bench.measurement import Figure, Say, about
from memexp.bench.others import peers
from memexp.bench.workload import Work
from memexp.config.commands import BENCHES, BenchConfig
from memexp.config.train import TrainConfig

WORK = Work()
MEASURES = {
    "search": search.measure,
    "curve": curve.measure,
    "write": write.measure,
    "evaluation": evaluation.measure,
    "memory": memory.measure,
    "startup": startup.measure,
    "peers": peers.measure,
    "gpu": gpu.measure,
    "devices": devices.measure,
}
ACROSS = {"step": step.measure, "archs": archs.measure}
"""Benches that read the settings of every architecture."""
ON_REQUEST = ("peers", "checkpoint", "gpu", "devices")
"""Benches that run only if they are named."""


def run_benches(
    config: BenchConfig,
    say: Say,
    settings: Callable[[], Mapping[str, TrainConfig]],
    settings_of: Callable[..., TrainConfig],
) -> list[Figure]:
    """Run the chosen benches in the order of `BENCHES`, and return their figures.

    Args:
        settings: returns the settings of every architecture, for the benches that compare them.
        settings_of: composes the settings of a training run, for the bench of a checkpoint.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    figures = []
    for name in chosen(config):
        if name in ACROSS:
            figures += ACROSS[name](config, WORK, about(name, say), settings())
        elif name == "checkpoint":
            reading = checkpoint.Reading(str(config.checkpoint))
            figures += checkpoint.measure(config, reading, about(name, say), settings_of)
        else:
            figures += MEASURES[name](config, WORK, about(name, say))
    return figures


def chosen(config: BenchConfig) -> list[str]:
    """Names of the benches to run."""
    return [name for name in BENCHES if name in config.what or (not config.what and name not in ON_REQUEST)]


def work_of(config: BenchConfig) -> Work | Ground | checkpoint.Reading:
    """The sizes at which the chosen benches measure."""
    if config.checkpoint is not None:
        return checkpoint.Reading(config.checkpoint)
    if config.what == ["devices"]:
        return devices.the_devices()[0]
    return gpu.the_ground(config) if config.what == ["gpu"] else WORK


def document(config: BenchConfig, figures: list[Figure]) -> dict[str, Any]:
    """All measurements, with the machine and the settings, as JSON content."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine() | {"floors": {} if config.what in (["gpu"], ["devices"]) else floors()},
        "settings": {"what": chosen(config), "repeats": config.repeats, "slots": config.slots}
        | ({"only": list(config.only), "minutes": config.minutes} if "gpu" in config.what else {}),
        "work": asdict(work_of(config)),
        "figures": [figure.as_dict() for figure in figures],
    }
