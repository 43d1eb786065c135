"""`memexp plan`: estimate what the runs of a paper's table cost on given hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from memexp.config.checks import check_lanes_of_devices
from memexp.config.commands import PlanConfig
from memexp.experiment.cells import cells, chosen_columns
from memexp.experiment.definition import load
from memexp.experiment.settings import wanted
from memexp.report.escape import console
from memexp.report.table.formats import to_terminal
from memexp.report.table.text import Grid
from memexp.wording import compact, duration, plural, whole

if TYPE_CHECKING:  # this module loads torch
    from memexp.cost.table import Cost, Hardware


def run(config: PlanConfig) -> None:
    """Print a line for each row that trains, for the first of the columns."""
    from memexp.cost.table import HARDWARE, computed_in, cost

    experiment = load(config.table, checkpoint=config.checkpoint)
    column = chosen_columns(experiment, config.scale, config.corpora)[0]
    first = {
        cell.row: cell
        for cell in cells(experiment, config.scale, data=[column], seeds=experiment.seeds[:1])
        if cell.trains
    }
    composed = wanted([first[row] for row in experiment.rows if row in first])
    hardware, devices, utilisation = HARDWARE[config.hardware], config.devices, config.utilisation
    settings = [(item.cell.row, replace(item.settings, shard_weights=config.shard_weights)) for item in composed]
    for _, each in settings:
        check_lanes_of_devices(replace(each, devices=devices, nodes=1))
    costs = [(row, cost(each, hardware, devices=devices, utilisation=utilisation)) for row, each in settings]
    precisions = sorted({computed_in(item.settings) for item in composed})
    title = f"{experiment.full_title}, scale={config.scale}, {column}"
    screen = console()
    screen.print(
        to_terminal(
            page(
                title,
                costs,
                hardware,
                devices=devices,
                jobs=config.jobs,
                shared=config.shard_weights,
                utilisation=utilisation,
                precisions=precisions,
            ),
            width=screen.width,
        )
    )


def page(
    title: str,
    costs: Sequence[tuple[str, Cost]],
    hardware: Hardware,
    *,
    devices: int,
    jobs: int,
    shared: bool,
    utilisation: float,
    precisions: Sequence[str],
) -> Grid:
    """The plan as a table, with a line for each row that trains.

    Args:
        jobs: runs at the same time, each on devices of its own.
        shared: whether the devices share the weights.
        precisions: those that the rows train in.
    """
    from memexp.cost.memory import SHARE

    def fits(size: int) -> str:
        return "yes" if size <= SHARE * hardware.memory else "no"

    several = devices > 1
    lines = [
        [
            label, compact(cost.parameters), compact(cost.tokens), whole(cost.operations_a_token / 1e6),
            f"{cost.tokens * cost.operations_a_token:.2e}", f"{cost.device_bytes / 1e9:.1f}",
            fits(cost.device_bytes),
            *([fits(cost.one_device_bytes), f"{cost.sent / 1e9:.2f}"] if several else []),
            duration(cost.seconds),
        ]
        for label, cost in costs
    ]  # fmt: skip
    together = duration(in_jobs([cost.seconds for _, cost in costs], jobs))
    at_once = f", {jobs} at a time on {plural(jobs * devices, 'device')}" if jobs > 1 else ""
    rates = {"bf16": hardware.bf16, "tf32": hardware.tf32, "fp32": hardware.fp32}
    shown = " and ".join(
        f"{rates[name] / 1e12:,.1f} TFLOP/s in {name}" for name in sorted({*precisions, "bf16", "fp32"})
    )
    today = (
        f"{plural(devices, 'device')} share the lanes of a run, a process each (`memexp train devices=N`), and each holds "
        f"{'its part of the' if shared else 'all'} weights. These times leave out what they send each other."
        if several
        else "A run is trained in one process on one device."
    )
    return Grid(
        title=f"{title}: {devices} x {hardware.name}",
        headers=[
            "model",
            "parameters",
            "tokens",
            "MFLOP per token",
            "FLOP",
            "GB per device",
            "fits",
            *(["fits one", "GB sent"] if several else []),
            "time",
        ],
        right=[False] + [True] * (9 if several else 7),
        lines=lines,
        notes=[
            f"All rows together{at_once}: {together} per seed and data set. {today}"
            + ("" if hardware.runs_memexp else f" It does not run on a {hardware.name}; this is arithmetic alone."),
            "FLOP per token: 2 x (3 x (positions per token x (weights without the embedding + attention) + head) + search). "
            "Positions include memory tokens. Attention: 2 x layers x heads x head size x (half the window + cache). Exact "
            "search: heads x head size x slots x the products in fp16 that a score is made of (2 for keys in bf16, 3 in fp32), "
            "and again heads x head size x the members of the best groups, for each layer that searches. Adaptive softmax: each cluster is used as often as its words occur "
            "by Zipf's law.",
            f"GB per device: {'a part of the' if shared else 'all'} weights, gradients and optimizer states, in fp32; and for its share of the lanes: states, activations of a "
            "gradient window in the row's precision, position biases of the attention scores, and logits; with precision=bf16 also a copy "
            "of the weights in bf16.",
            *([_sending(shared)] if several else []),
            f"Layers and head are computed in {' or '.join(precisions)}, as the rows train. The scores of a search are always in "
            "fp32; for exact search, tensor cores multiply numbers that are split into parts in fp16.",
            f"Assumed: {100 * utilisation:.0f} % of the rates that {hardware.name} reaches by its data sheet ({shown}; "
            f"{hardware.memory / 1e9:.0f} GB), and of {hardware.bandwidth / 1e12:,.2f} TB/s for what a search reads and writes; no time for communication or input, {f'{jobs} rows at a time' if jobs > 1 else 'one row after another'}. `fits`: in {SHARE:.0%} of a device's memory.",
        ],
        missing=[],
        commands=[],
    )


def _sending(shared: bool) -> str:
    """What is assumed of what devices send."""
    if not shared:
        return (
            "GB sent: in a step by each device, which receives as much; two times its share of the gradients, in fp32. `fits one`: one "
            "device reads all lanes."
        )
    return (
        "GB sent: in a step by each device, which receives as much. For each segment, matrices are gathered for the forward and for the "
        "backward pass and their gradients are summed in fp32, counted once also where a model uses a layer several times for a "
        "segment. A matrix is whole while it is used, and so is the one before it; embeddings, norms and gates are whole for a pass. "
        "`fits one`: one device reads all lanes."
    )


def in_jobs(seconds: Sequence[float], jobs: int) -> float:
    """The time until the last of some runs is done, so many at a time, the longest first."""
    ends = [0.0] * jobs
    for run in sorted(seconds, reverse=True):
        ends[ends.index(min(ends))] += run
    return max(ends)
