"""`memexp reproduce`: train and score what a paper's table lacks, then show it."""

import math
import re
import time
from pathlib import Path

from rich.console import Console

from memexp.config.commands import ReproduceConfig
from memexp.config.compose import compose
from memexp.config.hydra_errors import explain
from memexp.config.introspection import CONF
from memexp.errors import USER_ERROR, UserError
from memexp.experiment.cells import cells
from memexp.experiment.definition import Experiment, load
from memexp.experiment.library import Wanted
from memexp.experiment.queue import Work
from memexp.experiment.settings import wanted
from memexp.files import find_root
from memexp.report.paper_table.reproduction import reproduction
from memexp.wording import compact, plural

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(budget: str) -> float:
    """90m, 2h or 1.5d in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", budget)
    if match is None:
        raise UserError(f"budget is {budget!r}; expected a number and s, m, h or d, such as 90m or 2h")
    return float(match[1]) * SECONDS[match[2]]


def _check_launcher(name: str) -> None:
    """Refuse a launcher that Hydra does not know, before every job does."""
    try:
        compose("train", [f"hydra/launcher={name}"])
    except Exception as error:
        if (reason := explain(error, "train")) is None:
            raise
        raise UserError(reason) from error


def run(config: ReproduceConfig) -> None:
    """Train and score until every cell is done, the budget is spent or a signal comes; run again, it goes on."""
    until = math.inf if config.budget is None else time.monotonic() + seconds_of(config.budget)
    if config.budget is not None and config.launcher != "local":
        raise UserError(
            f"budget is {config.budget} with launcher={config.launcher}; expected a time limit of that launcher's own, for its jobs "
            "go on when this command ends"
        )
    _check_launcher(config.launcher)
    root = find_root(config.root)
    experiment = load(CONF, config.table)
    if experiment.needs is not None:
        raise UserError(
            f"{experiment.name} cannot be run yet: it needs {experiment.needs}; expected another experiment"
        )
    all_cells = wanted(cells(experiment, config.scale, data=config.corpora, seeds=config.seeds))
    work = Work(experiment.name, root, all_cells, config)
    console = Console()
    console.print(work.summary(), highlight=False)
    if config.dry_run:
        _print_plan(work, console)
        if config.close and any(work.plan()):
            console.print("close=true: which cells get one more seed is known when these are done", highlight=False)
        elif config.close:
            work.cells = _close(root, experiment, config, console)
            _print_plan(work, console)
        return
    work.keep()
    interrupted = work.do(console, until)
    if config.close and (interrupted or work.failed):
        console.print("close=true: nothing, for not all cells are done", highlight=False)
    elif config.close:
        work.cells += _close(root, experiment, config, console)
        interrupted = work.do(console, until)
    for job in work.failed:
        console.print(f"failed {job.label}: {job.reason}; see {job.log}", highlight=False, markup=False, soft_wrap=True)
    from memexp.cli.commands.table import show_experiment

    show_experiment(root, experiment.name, scale=config.scale, data=config.corpora)
    if interrupted and time.monotonic() < until:
        raise KeyboardInterrupt
    if work.failed:
        if all(job.exit_code == USER_ERROR for job in work.failed):
            raise UserError(f"{plural(len(work.failed), 'job')} failed; the same command again leaves out what is done")
        raise SystemExit(1)


def _print_plan(work: "Work", console: Console) -> None:
    plan, tokens = list(work.plan()), work.tokens_to_train
    for label, words in plan:
        console.print(f"  {label}: memexp {' '.join(words)}", highlight=False, markup=False, soft_wrap=True)
    if tokens:
        console.print(
            f"{plural(len(plan), 'command')}, {compact(tokens)} tokens to train; how fast is in `memexp runs`, and at the paper's scale "
            f"in `memexp plan {work.experiment}`",
            highlight=False,
            soft_wrap=True,
        )


def _close(root: Path, experiment: Experiment, config: ReproduceConfig, console: Console) -> list[Wanted]:
    """The cells that a column's trend agreement wants once more; says how many."""
    table = reproduction(root, experiment.name, scale=config.scale, data=config.corpora)
    seeds = {(row, column): seed for column in table.columns for row, seed in table.close(column).items()}
    more = cells(experiment, config.scale, data=table.columns, seeds=sorted(set(seeds.values())))
    more = [cell for cell in more if seeds.get((cell.row, cell.column)) == cell.seed]
    console.print(f"close=true: one more seed of {plural(len(more), 'cell')}", highlight=False)
    return wanted(more)
