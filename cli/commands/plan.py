"""`memexp plan`: estimate what the runs of a paper's table cost on given hardware."""

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

if TYPE_CHECKING:  # this module loads torch
    from memexp.cost.table import Cost, Hardware

HOUR = 3600


def run(config: PlanConfig) -> None:
    """Print a line for each row that trains, for the first of the columns."""
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
    costs = [
        (item.cell.row, cost(item.settings, hardware, devices=devices, utilisation=utilisation)) for item in composed
    ]
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
    """The plan as a table, with a line for each row that trains."""
    lines = [
        [
            label, compact(cost.parameters), compact(cost.tokens), whole(cost.operations_a_token / 1e6),
            f"{cost.tokens * cost.operations_a_token:.2e}", f"{cost.device_bytes / 1e9:.1f}",
            "yes" if cost.device_bytes <= hardware.memory else "no", f"{cost.seconds / HOUR:,.1f}",
        ]
        for label, cost in costs
    ]  # fmt: skip
    hours = sum(cost.seconds for _, cost in costs) / HOUR
    return Grid(
        title=f"{title}: {devices} x {hardware.name}",
        headers=["model", "parameters", "tokens", "MFLOP per token", "FLOP", "GB per device", "fits", "hours"],
        right=[False] + [True] * 7,
        lines=lines,
        notes=[
            f"All rows together: {hours:,.1f} hours per seed and data set.",
            "FLOP per token: 2 x (3 x (positions per token x (weights without the embedding + attention) + head) + search). "
            "Positions include memory tokens. Attention: 2 x layers x heads x head size x (half the window + cache). Search: heads "
            "x head size x slots, for each layer that searches. Adaptive softmax: each cluster is used as often as its words occur "
            "by Zipf's law.",
            "GB per device: all weights, gradients and optimizer states, in fp32 with a copy in bf16; and for its share of the "
            "lanes: states, activations of a gradient window in bf16, position biases of the attention scores, and logits.",
            f"Assumed: {100 * utilisation:.0f} % of the {hardware.peak / 1e12:,.1f} TFLOP/s that {hardware.name} reaches by its "
            f"data sheet ({hardware.memory / 1e9:.0f} GB), no time for communication or input, one row after another.",
        ],
        missing=[],
        commands=[],
    )
