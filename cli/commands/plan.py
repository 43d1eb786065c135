"""`memexp plan`: what the runs of a paper's table cost on named hardware, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memexp.config.commands import PlanConfig
from memexp.experiment.cells import cells, chosen_columns
from memexp.experiment.definition import load
from memexp.experiment.settings import wanted
from memexp.report.escape import console
from memexp.report.table.formats import to_terminal
from memexp.report.table.text import Grid
from memexp.wording import compact, whole

if TYPE_CHECKING:  # it loads torch
    from memexp.cost.table import Cost, Hardware

HOUR = 3600


def run(config: PlanConfig) -> None:
    """Print a line for each row that trains, of the first column asked for."""
    from memexp.cost.table import HARDWARE, cost

    experiment = load(config.table)
    column = chosen_columns(experiment, config.scale, config.corpora)[0]
    first = {
        cell.row: cell
        for cell in cells(experiment, config.scale, data=[column], seeds=experiment.seeds[:1])
        if cell.trains
    }
    composed = wanted([first[row] for row in experiment.rows if row in first])
    hardware, devices, utilisation = HARDWARE[config.hardware], config.devices, config.utilisation
    costs = [(one.cell.row, cost(one.settings, hardware, devices=devices, utilisation=utilisation)) for one in composed]
    title = f"{experiment.title}, scale={config.scale}, {column}"
    screen = console()
    screen.print(
        to_terminal(page(title, costs, hardware, devices=devices, utilisation=utilisation), width=screen.width)
    )


def page(
    title: str,
    costs: Sequence[tuple[str, Cost]],
    hardware: Hardware,
    *,
    devices: int,
    utilisation: float,
) -> Grid:
    """The plan in words, a line a row that trains."""
    lines = [
        [
            label, compact(one.parameters), compact(one.tokens), whole(one.operations_a_token / 1e6),
            f"{one.tokens * one.operations_a_token:.2e}", f"{one.device_bytes / 1e9:.1f}",
            "yes" if one.device_bytes <= hardware.memory else "no", f"{one.seconds / HOUR:,.1f}",
        ]
        for label, one in costs
    ]  # fmt: skip
    hours = sum(one.seconds for _, one in costs) / HOUR
    return Grid(
        title=f"{title}: {devices} x {hardware.name}",
        headers=["model", "parameters", "tokens", "MFLOP a token", "FLOP", "GB a device", "fits", "hours"],
        right=[False] + [True] * 7,
        lines=lines,
        notes=[
            f"Together {hours:,.1f} hours a seed and data set.",
            "FLOP a token: 2 x (3 x (positions a token x (weights but the embedding + attention) + head) + search). Positions: "
            "memory tokens count. Attention: 2 x layers x heads x head size x (half the window + cache); search: heads x head "
            "size x slots for each layer that searches. Adaptive softmax: its clusters as often as Zipf's law has their words.",
            "GB a device: weights, gradients and optimizer whole on each, in fp32 with a copy in bf16; states, activations of a "
            "gradient window in bf16, what positions add to the scores of attention, and logits of its share of the lanes.",
            f"Assumed: {100 * utilisation:.0f} % of the {hardware.peak / 1e12:,.1f} TFLOP/s that {hardware.name} has on paper "
            f"({hardware.memory / 1e9:.0f} GB), no time for communication or input, each row by itself.",
        ],
        missing=[],
        commands=[],
    )
