"""The display while a run trains: a progress bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from typing import Any, Self

from memexp.terminal import console, escape
from memexp.wording import clock

WIDE = 100
"""Columns of a terminal that has room for a run's name, a bar and the numbers on one line."""

QUIET_SECONDS = 15.0
"""Time between two lines without a terminal."""


class Progress:
    """Shows step, speed, time left, loss and gauges."""

    def __init__(self, name: str, *, done: int, steps: int) -> None:
        self._name, self._first, self._steps = escape(name), done, steps
        self._began = self._shown = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._first:
            print(f"{self._name} continues from step {self._first:,} of {self._steps:,}", flush=True)
        if sys.stdout.isatty():
            from rich import progress
            from rich.table import Column

            def text(what: str) -> progress.TextColumn:
                return progress.TextColumn(what, markup=False, table_column=Column(overflow="fold"))  # long lines fold

            screen = console()
            columns = [
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(elapsed_when_finished=True),
                text("{task.fields[numbers]}"),
            ]
            if screen.width < WIDE:  # numbers need the place of the name and the bar
                print(self._name, flush=True)
            else:
                columns = [text("{task.description}"), progress.BarColumn(bar_width=20), *columns]
            self._bar = progress.Progress(*columns, console=screen)
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._steps, completed=self._first, numbers="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: int, *, loss: float, tokens_per_second: float, gauges: dict[str, float]) -> None:
        """Show the numbers of a step, and the gauges of the last logged one, but not more often than a person can read."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self._bar else QUIET_SECONDS) and step < self._steps:
            return
        self._shown = now
        words = [f"loss {loss:.3f}", f"{tokens_per_second:,.0f} tokens/s"]
        words += [f"{name} {value:.3g}" for name, value in gauges.items()]
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers="  ".join(words))
            return
        left = (now - self._began) / max(1, step - self._first) * (self._steps - step)
        print(f"{self._name}  step {step:,}/{self._steps:,}  {'  '.join(words)}  {clock(left)} left", flush=True)
