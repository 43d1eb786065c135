"""All checks of a GPU in order, within a limit of time."""

import time
from collections.abc import Sequence

import torch

from memexp.bench.formats import cells
from memexp.bench.gpu import isolated
from memexp.bench.gpu.generation import generation
from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.isolated import Check
from memexp.bench.gpu.search import device_rates, search
from memexp.bench.gpu.training import checkpoint, jobs, step, waits
from memexp.bench.gpu.values import archs, bias, half_evaluation
from memexp.bench.measurement import Figure, Say
from memexp.bench.workload import Work
from memexp.config.commands import GPU_CHECKS, BenchConfig
from memexp.device import describe, why_no_gpu
from memexp.errors import UserError

CHECKS = (
    Check("rates", device_rates, 40),
    Check("archs", archs, 120),
    Check("search", search, 150),
    Check("step", step, 210),
    Check("checkpoint", checkpoint, 120),
    Check("bias", bias, 40),
    Check("waits", waits, 60),
    Check("generation", generation, 90),
    Check("evaluation", half_evaluation, 40),
    Check("jobs", jobs, 120),
)
"""In the order in which they run; each has a process of its own, which takes seconds to start."""
assert tuple(check.name for check in CHECKS) == GPU_CHECKS


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """Run the checks on a GPU. `work` is not used: its sizes are those of a CPU.

    Raises:
        UserError: there is no GPU.
    """
    ground = the_ground(config)
    return run_checks([check for check in CHECKS if not config.only or check.name in config.only], ground, config, say)


def the_ground(config: BenchConfig) -> Ground:
    """The GPU.

    Raises:
        UserError: there is none.
    """
    if reason := why_no_gpu():
        raise UserError(
            f"there is no GPU: {reason}; expected a GPU, its driver and a build of torch for it, because these checks compare it with the CPU"
        )
    return Ground("cuda", describe(torch.device("cuda"), asked="cuda").memory, repeats=config.repeats)


def run_checks(checks: Sequence[Check], ground: Ground, config: BenchConfig, say: Say) -> list[Figure]:
    """The figures of all checks; those for which no time is left say so."""
    end = time.monotonic() + 60 * config.minutes
    figures = []
    for check in checks:
        left = end - time.monotonic()
        if left <= 0:
            figures.append(
                Figure.without(check.name, f"left out: the limit of {config.minutes:g} minutes was reached (minutes=)")
            )
            continue
        say(f"{check.name}, at most {min(left, check.seconds):.0f} s")
        for figure in isolated.run(check, ground, seconds=left):
            say(told(figure))
            figures.append(figure)
    return figures


def told(figure: Figure) -> str:
    """A figure in one line, which is there even if the rest of the command is not."""
    words = "; ".join(cell for cell in cells(figure) if cell)
    return f"{words} ({figure.note})" if figure.note else words
