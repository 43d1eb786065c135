"""Jobs of a sweep as processes: a few at a time, each a command of its own whose run folder tells how far it is."""

import json
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import memexp

JOB_FILE = "MEMEXP_JOB_FILE"
"""Environment variable that names the file in which a job of a sweep tells its run folder."""

CHECKOUT = Path(memexp.__file__).resolve().parent.parent
"""Where jobs find memexp when it is not installed."""

POLL_SECONDS = 0.25
TAIL_BYTES = 8192
"""More than a line of metrics is long."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = (*(-number for number in STOPS), *(128 + number for number in STOPS))


class JobCrashed(Exception):
    """A job ended in a way that is a bug; its log has the traceback."""


@dataclass
class JobProcess:
    """One job: what to run, and how far it is."""

    label: str
    command: list[str]
    log: Path
    """Where its output goes; beside it, with the suffix .json, it tells its run folder."""
    steps: int = 0
    """Steps it is to train; 0 when the command trains nothing."""
    state: str = "waiting"
    latest: dict[str, Any] = field(default_factory=dict)
    """The newest line of its run's metrics."""
    run: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _first: tuple[float, int] | None = None
    """When the first progress was seen, and its step: what the time left is reckoned from."""

    @property
    def running(self) -> bool:
        return self.state in ("starting", "running")

    def start(self) -> None:
        """Start the process in a session of its own, so that the terminal's Ctrl-C reaches it only through us."""
        environment = os.environ | {JOB_FILE: str(self.log.with_suffix(".json")), "PYTHONUNBUFFERED": "1"}
        if (CHECKOUT / "pyproject.toml").is_file():
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        with self.log.open("wb") as log:
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.state = "starting"

    def signal(self, number: int) -> None:
        """Send a signal to the process if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def poll(self) -> None:
        """Look at the process and at the run folder's newest numbers."""
        assert self._process is not None
        code = self._process.poll()
        if self.run is None:
            self.run = _announced(self.log.with_suffix(".json"))
        if self.run and (line := last_metrics(self.run)):
            self.latest = line
            self._first = self._first or (time.monotonic(), line["step"])
        if code is None:
            self.state = "running" if self.latest else "starting"
        elif code == 0:
            self.state = "done"
        else:
            # Before a process has set up its handlers, Python's own ends it with a traceback.
            self.state = "stopped" if code in INTERRUPTED or self.reason == "KeyboardInterrupt" else "failed"

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    @property
    def reason(self) -> str:
        """The last line that the job printed."""
        lines = [line.strip() for line in self.output.splitlines()]
        return next((line for line in reversed(lines) if line), "it printed nothing")

    @property
    def output(self) -> str:
        """What the job printed."""
        return self.log.read_text(encoding="utf-8", errors="replace").partition("\n")[2]

    @property
    def seconds_left(self) -> float | None:
        """Time to its last step at the speed seen so far, or None while that is unknown."""
        if self.state != "running" or self._first is None or self.latest["step"] <= self._first[1]:
            return None
        a_step = (time.monotonic() - self._first[0]) / (self.latest["step"] - self._first[1])
        return a_step * float(self.steps - self.latest["step"])


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """What tells the jobs of a sweep apart: the overrides that not all of them have."""
    common = set.intersection(*(set(job) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(override for override in job if override not in common) or "defaults" for job in jobs]


def run_jobs(jobs: list[JobProcess], *, at_a_time: int, show: Callable[[], None], until: float = math.inf) -> bool:
    """Run every job, `at_a_time` of them side by side, and call `show` a few times a second.

    Args:
        jobs: `show` may add to those that wait, and put them in another order.
        until: the time of `time.monotonic` at which jobs are interrupted.

    Returns:
        Whether it was interrupted: by a signal, handed on once to the jobs that run, which save and end. A
        second signal ends them at once.
    """
    with _forwarded(jobs) as (signals, forward):
        while any(job.running or job.state == "waiting" for job in jobs):
            if time.monotonic() >= until and not signals:
                forward(signal.SIGINT, None)
            for job in [job for job in jobs if job.state == "waiting"]:
                if signals:
                    job.state = "stopped"
                elif sum(other.running for other in jobs) < at_a_time:
                    job.start()
            show()
            time.sleep(POLL_SECONDS)
            for job in jobs:
                if job.running:
                    job.poll()
            show()
    return bool(signals)


@contextmanager
def _forwarded(jobs: list[JobProcess]) -> Iterator[tuple[list[int], Callable[[int, FrameType | None], None]]]:
    """Hand signals on to the jobs; yields the list of those that came, and what hands one on."""
    seen: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        for job in jobs:
            job.signal(number if len(seen) == 1 else signal.SIGKILL)

    # what is ignored stays so: nohup means it
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heard}
    try:
        yield seen, forward
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announced(path: Path) -> Path | None:
    try:
        return Path(json.loads(path.read_text(encoding="utf-8"))["run"])
    except FileNotFoundError:
        return None


def last_metrics(run: Path) -> dict[str, Any]:
    """The newest whole line of training in a run's metrics; empty when there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        if line.startswith(b"{") and b'"loss"' in line:
            return dict(json.loads(line))
    return {}
