"""`memexp reproduce`: train and score what a paper's table lacks, then show it."""

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from memexp.cli.cells import reproduction, wanted
from memexp.cli.compose import compose
from memexp.cli.jobs import JobProcess, run_jobs
from memexp.cli.messages import explain
from memexp.cli.progress import clock, shown
from memexp.cli.settings import CONF
from memexp.config import ReproduceConfig
from memexp.errors import USER_ERROR, UserError
from memexp.experiment.cells import cells
from memexp.experiment.commands import train_words
from memexp.experiment.definition import Experiment, load
from memexp.experiment.kept import keep
from memexp.experiment.matching import Library, Wanted
from memexp.machine import cores
from memexp.report.numbers import compact, plural
from memexp.report.scores import eval_command
from memexp.runs import find_root

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
    from memexp.cli.table import show_experiment

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


@dataclass
class Work:
    """The cells of an experiment that are not done, and the jobs that do them: runs that start from others and scores of
    another memory wait for the runs they are of, and come next once these are done."""

    experiment: str
    root: Path
    cells: list[Wanted]
    config: ReproduceConfig
    library: Library = field(init=False)
    failed: list[JobProcess] = field(default_factory=list)
    _tried: set[str] = field(default_factory=set)
    _training: dict[str, JobProcess] = field(default_factory=dict)
    """The job that trains a run, by what determines that: it scores the run too, a while after this is done."""
    _folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.library = Library(self.root)
        self._folder = self.root / "results" / "sweeps" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"

    def summary(self) -> str:
        """How many cells are done, and which others are in other hands."""
        done = sum(self.library.score(cell) is not None for cell in self.cells)
        text = f"{self.experiment} at scale={self.config.scale}: {done} of {len(self.cells)} cells are done"
        busy = {run.name for cell in self.cells if (run := self.library.unfinished(cell)) and run.state == "running"}
        return text + (f"; another process trains {', '.join(sorted(busy))}" if busy else "")

    def keep(self) -> None:
        """Make light copies of what is done."""
        for cell in self.cells:
            if found := self.library.score(cell):
                keep(found[0], self.root, self.experiment)

    def plan(self) -> Iterable[tuple[str, list[str]]]:
        """Each cell that is not done, with the words that do it once the run it starts from or scores, called RUN, is there."""
        for cell in self.cells:
            if self.library.score(cell) is None:
                run = self.library.with_weights(cell)
                if run or not cell.cell.trains:
                    yield _label(cell), self._eval_words(cell, run.name if run else "RUN")
                else:
                    yield _label(cell), self._train_words(cell)

    @property
    def tokens_to_train(self) -> int:
        """Of the cells that are not done."""
        missing = [one for one in self.cells if one.cell.trains and not self.library.with_weights(one)]
        settings = [one.settings for one in missing if not self.library.score(one)]
        return sum(one.steps * one.accumulate * one.lanes * one.segment for one in settings)

    def do(self, console: Console, until: float) -> bool:
        """Run what is ready until nothing is; gives whether a signal or the budget stopped it."""
        interrupted = False
        while not interrupted and (jobs := self.ready()):
            with shown(jobs, console) as show:
                watched = self.watched(jobs, show, console)
                interrupted = run_jobs(jobs, at_a_time=self.config.jobs, show=watched, until=until)
        return interrupted

    def ready(self) -> list[JobProcess]:
        """Jobs for which everything is there and that were not tried before, in the order of the cells."""
        self.library.forget()
        self._folder.mkdir(parents=True, exist_ok=True)
        jobs = []
        for cell in sorted(self.cells, key=lambda one: not one.cell.trains):  # a run is named by the row it is of
            step = None if self.library.score(cell) else self._step(cell)
            if step is None or (key := " ".join(step[1])) in self._tried:
                continue
            doing, words = step
            self._tried.add(key)
            command = [sys.executable, "-P", "-m", "memexp", *self._launched(words)]
            steps = doing.settings.steps if words[0] == "train" else 0
            job = JobProcess(_label(doing), command, self._folder / f"{len(self._tried) - 1}.log", steps=steps)
            if steps:
                self._training[doing.result] = job
            jobs.append(job)
        return sorted(jobs, key=_turn)

    def _launched(self, words: list[str]) -> list[str]:
        """A command with what says where it runs."""
        root = [f"root={self.config.root}"] if self.config.root else []
        if self.config.launcher != "local":
            return [words[0], "-m", *words[1:], *root, f"hydra/launcher={self.config.launcher}"]
        return [*words, f"threads={max(1, cores() // self.config.jobs)}", *root]

    def _step(self, cell: Wanted) -> tuple[Wanted, list[str]] | None:
        """The command that brings a cell nearer to being done, and of which cell it is; None while it has to wait."""
        if (job := self._training.get(cell.result)) and (job.running or job.state == "waiting"):
            return None
        if run := self.library.with_weights(cell):
            return cell, self._eval_words(cell, run.name)
        if (begun := self.library.unfinished(cell)) and begun.state == "running":
            return None
        if cell.start is not None and self.library.with_weights(cell.start) is None:
            return self._step(cell.start)
        return cell, self._train_words(cell)

    def _eval_words(self, cell: Wanted, run: str) -> list[str]:
        return eval_command(run, cell.scored, mem=cell.changed_mem, memory=cell.cell.memory).split()[1:]

    def _train_words(self, cell: Wanted) -> list[str]:
        """The run that it starts from is called RUN while it is not there."""
        start = None if cell.start is None else self.library.with_weights(cell.start)
        init_from = None if cell.start is None else start.name if start else "RUN"
        return train_words(cell, init_from=init_from, tag=self.experiment)

    def watched(self, jobs: list[JobProcess], show: Callable[[], None], console: Console) -> Callable[[], None]:
        """`show`, and for every job that ends a light copy, the jobs that waited for it, and a line that says how long all
        others will take."""
        began, ended = time.monotonic(), set[Path]()

        def look() -> None:
            show()
            for job in list(jobs):
                if job.log in ended or job.state not in ("done", "failed"):
                    continue
                ended.add(job.log)
                self.failed += [job] if job.state == "failed" else []
                self.library.forget()
                self.keep()
                waiting = [one for one in jobs if one.state == "waiting"]
                jobs[len(jobs) - len(waiting) :] = sorted(waiting + self.ready(), key=_turn)
                console.print(f"{len(ended)} of {len(jobs)} jobs ended{_left(jobs, began)}", highlight=False)

        return look


def _turn(job: JobProcess) -> int:
    """Scores come first, then runs that start from others, which say more of a row that is there already."""
    if not job.steps:
        return 0
    return 1 if any(word.startswith("init_from=") for word in job.command) else 2


def _label(cell: Wanted) -> str:
    return f"{cell.cell.row} | {cell.cell.column} | seed {cell.cell.seed}"


def _left(jobs: list[JobProcess], began: float) -> str:
    """The time that all jobs will still take if they go on as they did."""
    parts = [1.0 if job.state in ("done", "failed") else job.latest.get("step", 0) / max(1, job.steps) for job in jobs]
    done = sum(parts)
    return f", about {clock((time.monotonic() - began) * (len(jobs) - done) / done)} left" if done < len(jobs) else ""
