"""Progress of the jobs of a sweep: a live table on a terminal, otherwise lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from memexp.launch.processes import JobProcess
from memexp.terminal import Fitting
from memexp.wording import clock

LINE_SECONDS = 30.0
"""Time between two progress lines of a job without a terminal."""

STYLES = {
    "failed": "red",
    "stopped": "yellow",
    "elsewhere": "yellow",
    "done": "green",
    "waiting": "dim",
    "queued": "dim",
}


@contextmanager
def shown(jobs: list[JobProcess], console: Console) -> Iterator[Callable[[], None]]:
    """Show the jobs while the block runs; yields the function that updates the display."""
    if not console.is_terminal:
        yield Lines(jobs, console)
        return
    with Live(Fitting(progress_table(jobs)), console=console, refresh_per_second=2) as live:
        yield lambda: live.update(Fitting(progress_table(jobs)))


class Lines:
    """Prints a line when a job changes its state, and every half minute while it trains."""

    def __init__(self, jobs: list[JobProcess], console: Console) -> None:
        self._jobs, self._console = jobs, console
        self._said: dict[Path, tuple[str, float]] = {}

    def __call__(self) -> None:
        for job in self._jobs:
            state, when = self._said.get(job.log, ("waiting", 0.0))
            if job.state != state or (job.state == "running" and time.monotonic() - when >= LINE_SECONDS):
                self._said[job.log] = (job.state, time.monotonic())
                line = "  ".join([f"{job.state:8}", job.label, *progress_words(job)])
                self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def progress_words(job: JobProcess) -> list[str]:
    """Step, loss, speed, time left and name of the run; unknown values are left out."""
    step, loss, speed, left, run = _cells(job)
    words = (
        f"step {step}" * bool(step),
        f"loss {loss}" * bool(loss),
        f"{speed} tokens/s" * bool(speed),
        f"{left} left" * bool(left),
        run,
    )
    return [word for word in words if word]


def progress_table(jobs: list[JobProcess]) -> Table:
    """A table with a row for each job."""
    table = Table(box=None, pad_edge=False)
    for name in ("job", "state", "step", "loss", "tokens/s", "left", "run"):
        table.add_column(name, justify="left" if name in ("job", "state", "run") else "right", overflow="fold")
    for job in jobs:
        table.add_row(Text(job.label), job.state, *map(Text, _cells(job)), style=STYLES.get(job.state, ""))
    return table


def _cells(job: JobProcess) -> tuple[str, str, str, str, str]:
    latest, left = job.latest, job.seconds_left
    return (
        f"{latest['step']:,}/{job.steps:,}" if latest else "",
        f"{latest['loss']:.3f}" if latest.get("loss") is not None else "",
        f"{latest['tokens_per_second']:,.0f}" if latest.get("tokens_per_second") else "",
        "" if left is None else clock(left),
        job.place,
    )
