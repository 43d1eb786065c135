"""The jobs that fill a paper's table: which are ready, which wait for another job, and which are done."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from memexp.config.checks import check_lanes_of_devices
from memexp.config.commands import ReproduceConfig
from memexp.config.words import quote
from memexp.errors import UserError
from memexp.experiment.command_lines import eval_words, train_words
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable
from memexp.experiment.settings import Wanted
from memexp.launch.processes import JobProcess, run_jobs
from memexp.launch.progress import shown
from memexp.launch.slurm import SlurmJob
from memexp.machine import cores
from memexp.store.archive import keep
from memexp.terminal import warn
from memexp.wording import clock, plural

MOST_AT_ONCE = 10_000
"""Jobs of this command in Slurm's queue; Slurm decides how many of them run."""

ELSEWHERE = "elsewhere"
"""The state of a job whose run another process trains, such as the same command in another terminal."""

ENDED = ("done", "failed", ELSEWHERE)


@dataclass
class Work:
    """The cells of an experiment that are not done, and the jobs that fill them.

    A run that starts from another run, and a score with another memory, wait for that run and come next once it is done.
    """

    table: PaperTable
    library: Library
    config: ReproduceConfig
    cells: list[Wanted] = field(init=False)
    failed: list[JobProcess] = field(default_factory=list)
    _tried: set[str] = field(default_factory=set)
    _warned: set[str] = field(default_factory=set)
    _training: dict[str, JobProcess] = field(default_factory=dict)
    """The job that trains a run, by `Wanted.result`. The job also scores the run, so it ends some time after the training."""
    _folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.cells = list(self.table.cells)
        devices, nodes = self.config.devices, self.config.nodes
        for cell in self.cells:
            try:
                check_lanes_of_devices(replace(cell.settings, devices=devices, nodes=nodes))
            except UserError as error:  # the table gives the lanes, so only the devices can be others
                raise UserError(
                    f"{self.table.experiment.name}: {cell.cell.row} has {plural(cell.settings.lanes, 'lane')}, which {devices * nodes} devices "
                    "cannot share; expected a number of devices of which lanes is a multiple"
                ) from error
        self._folder = self.root / "results" / "sweeps" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"

    @property
    def root(self) -> Path:
        return self.library.root

    def summary(self) -> str:
        """How many cells are done, and which runs another process trains."""
        done = sum(self.library.score(cell) is not None for cell in self.cells)
        text = f"{self.table.experiment.name} at scale={self.table.scale}: {done} of {len(self.cells)} cells are done"
        busy = {run.name for cell in self.cells if (run := self.library.unfinished(cell)) and run.state == "running"}
        return text + (f"; another process trains {', '.join(sorted(busy))}" if busy else "")

    def keep(self) -> None:
        """Make light copies of the runs that have a score; a run that cannot be copied is named in a warning, once."""
        pairs = [scored for cell in self.cells if (scored := self.library.score(cell))]
        for line in keep({run.path: run for run, _ in pairs}.values(), self.root, self.table.experiment.name):
            if line not in self._warned:
                self._warned.add(line)
                warn(line)

    def plan(self) -> Iterable[tuple[str, list[str]]]:
        """Each score that is not there, by its first cell, and the command that makes it; RUN stands for a run that does not exist yet."""
        said = set()
        for cell in self.cells:
            if self.library.score(cell) is None and (key := (cell.result, cell.score)) not in said:
                said.add(key)  # several columns may show parts of one score
                run = self.library.with_weights(cell)
                if run or not cell.cell.trains:
                    yield _label(cell), eval_words(cell, run.name if run else "RUN")
                else:
                    yield _label(cell), self._train_words(cell)

    @property
    def tokens_to_train(self) -> int:
        """Tokens of training for the cells that are not done."""
        missing = [cell for cell in self.cells if cell.cell.trains and not self.library.with_weights(cell)]
        configs = {cell.result: cell.settings for cell in missing if not self.library.score(cell)}
        return sum(config.tokens for config in configs.values())

    def do(self, console: Console, until: float) -> int:
        """Run jobs until none is ready; return the signal that stopped it, SIGTERM for the time limit, else 0."""
        interrupted = 0
        while not interrupted and (jobs := self.ready()):
            with shown(jobs, console) as show:
                watched = self.watched(jobs, show, console)
                at_a_time = MOST_AT_ONCE if self.config.launcher == "slurm" else self.config.jobs
                interrupted = run_jobs(jobs, at_a_time=at_a_time, show=watched, until=until)
        return interrupted

    def ready(self) -> list[JobProcess]:
        """Jobs that can start now and were not tried before, in the order to run them."""
        self.library.forget()
        jobs = []
        for cell in sorted(
            self.cells, key=lambda cell: not cell.cell.trains
        ):  # a job is named after the row that it trains
            step = None if self.library.score(cell) else self._step(cell)
            if step is None or (key := " ".join(step[1])) in self._tried:
                continue
            target, words = step
            self._tried.add(key)
            steps = target.settings.steps if words[0] == "train" else 0
            job = self._job(_label(target), words, target, steps=steps)
            if steps:
                self._training[target.result] = job
            jobs.append(job)
        if jobs:
            self._folder.mkdir(parents=True, exist_ok=True)
        return sorted(jobs, key=_turn)

    def _job(self, label: str, words: list[str], target: Wanted, *, steps: int) -> JobProcess:
        """A command as a job, with the settings of where and how it runs."""
        config = self.config
        devices = max(1, config.devices)
        start = [sys.executable, "-P", "-m", "memexp"]
        root = [f"root={config.root}"] if config.root else []
        shared = [f"devices={config.devices}"] if config.devices else []
        if config.launcher == "slurm":
            nodes = [f"nodes={config.nodes}"] if config.nodes > 1 else []
            return SlurmJob.of(
                label, [*start, *words, *shared, *nodes, *root], self.root, steps=steps, devices=devices, nodes=config.nodes,
                gpus=target.settings.device != "cpu", asks=config.slurm, result=target.result if steps else "",
            )  # fmt: skip
        if config.launcher != "local":
            quoted = [f"root={quote(config.root, always=True)}"] if config.root else []
            launched = [words[0], "-m", *words[1:], *shared, *quoted, f"hydra/launcher={config.launcher}"]
        else:
            launched = [*words, *shared, f"threads={max(1, cores() // (config.jobs * devices))}", *root]
        log = self._folder / f"{len(self._tried) - 1}.log"
        return JobProcess(label, [*start, *launched], log, steps=steps, devices=devices)

    def _on_cluster(self, cell: Wanted) -> bool:
        """Whether the job that trains a run is in Slurm's queue, so that this command can go on watching it."""
        job = self._job("", self._train_words(cell), cell, steps=0)
        return isinstance(job, SlurmJob) and job.submitted

    def _step(self, cell: Wanted) -> tuple[Wanted, list[str]] | None:
        """The next command towards a cell, and the cell that it fills; None while the cell has to wait."""
        if (job := self._training.get(cell.result)) and (job.running or job.state == "waiting"):
            return None
        if run := self.library.with_weights(cell):
            return cell, eval_words(cell, run.name)
        if (begun := self.library.unfinished(cell)) and begun.state == "running" and not self._on_cluster(cell):
            return None
        if cell.start is not None and self.library.with_weights(cell.start) is None:
            return self._step(cell.start)
        return cell, self._train_words(cell)

    def _train_words(self, cell: Wanted) -> list[str]:
        return train_words(cell, self.library, tag=self.table.experiment.name)

    def _taken(self, job: JobProcess) -> bool:
        """Whether another process trains the run of a job, which it began after the job was chosen."""
        results = {result for result, training in self._training.items() if training is job}
        self.library.forget()
        return any(
            (begun := self.library.unfinished(cell)) and begun.state == "running"
            for cell in self.cells
            if cell.result in results
        )

    def watched(self, jobs: list[JobProcess], show: Callable[[], None], console: Console) -> Callable[[], None]:
        """`show`, extended: when a job ends, make its light copy, add the jobs that waited, and print the time left."""
        began, ended = time.monotonic(), set[Path]()

        def look() -> None:
            for job in jobs:
                if job.state == "failed" and job.log not in ended and self._taken(job):
                    job.state = ELSEWHERE
            show()
            for job in list(jobs):
                if job.log in ended or job.state not in ENDED:
                    continue
                ended.add(job.log)
                self.failed += [job] if job.state == "failed" else []
                self.library.forget()
                self.keep()
                waiting = [queued for queued in jobs if queued.state == "waiting"]
                jobs[len(jobs) - len(waiting) :] = sorted(waiting + self.ready(), key=_turn)
                console.print(f"{len(ended)} of {len(jobs)} jobs ended{_left(jobs, began)}", highlight=False)

        return look


def _turn(job: JobProcess) -> int:
    """Sort key: scores first, then runs that start from another run, then all other runs."""
    if not job.steps:
        return 0
    return 1 if any(word.startswith("init_from=") for word in job.command) else 2


def _label(cell: Wanted) -> str:
    return f"{cell.cell.row} | {cell.cell.column} | seed {cell.cell.seed}"


def _left(jobs: list[JobProcess], began: float) -> str:
    """The time that the remaining jobs will take at the speed so far."""
    parts = [1.0 if job.state in ENDED else job.latest.get("step", 0) / max(1, job.steps) for job in jobs]
    done = sum(parts)
    return f", about {clock((time.monotonic() - began) * (len(jobs) - done) / done)} left" if done < len(jobs) else ""
