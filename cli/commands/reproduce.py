"""`memexp reproduce`: train and score the missing cells of a paper's table, or of all tables, then show it."""

import math
import time

from rich.console import Console

from memexp.config.checkpoints import find_folder
from memexp.config.commands import ReproduceConfig
from memexp.config.compose import compose
from memexp.config.hydra_errors import in_one_line
from memexp.config.words import quote, seconds_in
from memexp.errors import USER_ERROR, UserError
from memexp.experiment import overview
from memexp.experiment.command_lines import naming
from memexp.experiment.definition import ALL, load
from memexp.experiment.files import path_of, show_filled
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import open_table
from memexp.experiment.queue import Work
from memexp.experiment.settings import Wanted
from memexp.files import find_root
from memexp.launch.processes import JobProcess
from memexp.launch.slurm import advice, require_slurm
from memexp.report.escape import console
from memexp.report.table.files import show
from memexp.terminal import same_command
from memexp.train.interrupt import Stopped
from memexp.wording import compact, plural


def _check_launcher(name: str) -> None:
    """Refuse a launcher that is not there, before every job fails on it."""
    if name == "slurm":
        require_slurm()
        return
    with in_one_line("train"):
        compose("train", [f"hydra/launcher={quote(name)}"])


def run(config: ReproduceConfig) -> None:
    """Train and score until every cell is done, the time budget is used up or a signal arrives; a later call continues."""
    until = math.inf if config.budget is None else time.monotonic() + seconds_in("budget", config.budget)
    if config.budget is not None and config.launcher != "local":
        raise UserError(
            f"budget is {config.budget} with launcher={config.launcher}; expected the launcher's own time limit instead, because its "
            "jobs keep running after this command ends"
        )
    _check_launcher(config.launcher)
    library, screen = Library(find_root(config.root)), console()
    if config.table == ALL:
        failed, interrupted = _reproduce_all(overview.all_work(config, library), screen, until)
    else:
        experiment = load(config.table, checkpoint=config.checkpoint)
        if experiment.needs is not None:
            raise UserError(
                f"{config.table} cannot be run yet: it needs {experiment.needs}; expected another experiment"
            )
        if experiment.checkpoint is not None:
            find_folder(experiment.checkpoint, None, ask=not config.dry_run)
        table = open_table(
            config.table, scale=config.scale, data=config.corpora, seeds=config.seeds, checkpoint=config.checkpoint
        )
        work = Work(table, library, config)
        failed, interrupted = work.failed, _reproduce(work, screen, until)
    if interrupted and time.monotonic() < until:
        raise Stopped(interrupted)
    if interrupted:
        screen.print(f"the budget of {config.budget} is used up; {same_command()} goes on from here", highlight=False)
    if failed:
        if all(job.exit_code == USER_ERROR for job in failed):
            raise UserError(f"{plural(len(failed), 'job')} failed; {same_command()} skips the finished jobs")
        raise SystemExit(1)


def _reproduce_all(works: list[Work], screen: Console, until: float) -> tuple[list[JobProcess], int]:
    """Fill all tables, the most informative first; return the jobs that failed, and the signal that stopped it."""
    left, failed, interrupted = {work.table.experiment.name: work for work in works}, list[JobProcess](), 0
    config = works[0].config
    # Training one table may decide pairs of another, so the order is found again after each.
    while not (config.dry_run or interrupted):
        missing = [
            one for one in overview.by_worth(overview.standings(left.values())) if one.done < one.cells or config.close
        ]
        if not missing:
            break
        work = left.pop(missing[0].name)
        interrupted = _reproduce(work, screen, until)
        failed += work.failed
    if not interrupted or time.monotonic() >= until:
        show(overview.lay_out(overview.by_worth(overview.standings(works)), works[0].table.scale))
    return failed, interrupted


def _reproduce(work: Work, screen: Console, until: float) -> int:
    """Fill one table and show it, or with `dry_run` only print what is missing; return the signal that stopped it, else 0."""
    config, table = work.config, work.table
    screen.print(work.summary(), highlight=False)
    if config.dry_run:
        _print_plan(work, screen)
        if config.close and any(work.plan()):
            screen.print(
                "close=true: the cells that get one more seed are known only after these commands", highlight=False
            )
        elif config.close:
            work.cells = _close(work, screen)
            _print_plan(work, screen)
        return 0
    if config.launcher == "slurm" and any(work.plan()):
        screen.print(advice(), soft_wrap=True, highlight=False)
    work.keep()
    interrupted = work.do(screen, until)
    if config.close and (interrupted or work.failed):
        screen.print("close=true: no more seeds yet, because not all cells are done", highlight=False)
    elif config.close:
        work.cells += _close(work, screen)
        interrupted = work.do(screen, until)
    for job in work.failed:
        screen.print(f"failed {job.label}: {job.reason}; see {job.log}", highlight=False, markup=False, soft_wrap=True)
    work.library.forget()
    # The table is written beside the light copies of its runs.
    folder = work.root / "results" / table.experiment.name
    show_filled(fill(table, work.library), path_of(table, folder, config.corpora))
    return interrupted


def _print_plan(work: Work, screen: Console) -> None:
    plan, tokens = list(work.plan()), work.tokens_to_train
    for label, words in plan:
        screen.print(f"  {label}: memexp {' '.join(words)}", highlight=False, markup=False, soft_wrap=True)
    if tokens:
        screen.print(
            f"{plural(len(plan), 'command')}, {compact(tokens)} tokens to train. For the speed on this machine see `memexp runs`; for the "
            f"time at the paper's scale, `memexp plan {' '.join(naming(work.table.experiment))}`",
            highlight=False,
            soft_wrap=True,
        )


def _close(work: Work, screen: Console) -> list[Wanted]:
    """The cells whose rows are too close for the trend agreement, each with one more seed; prints how many there are."""
    shown = fill(work.table, work.library)
    seeds = {(row, column): seed for column in shown.columns for row, seed in shown.close(column).items()}
    more = [first.with_seed(seeds[place]) for place, first in work.table.places.items() if place in seeds]
    screen.print(f"close=true: one more seed of {plural(len(more), 'cell')}", highlight=False)
    return more
