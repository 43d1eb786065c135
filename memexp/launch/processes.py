"""Jobs of a sweep as processes, a few at a time; the run folder of each job shows its progress."""

import json
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import memexp
from memexp.files import open_ordinary, write_json
from memexp.machine import JOBS, PARENT
from memexp.store.folder import METRICS_FILE
from memexp.train.interrupt import STOPS

JOB_FILE = "MEMEXP_JOB_FILE"
"""Environment variable with the name of the file into which a job of a sweep writes its run folder."""

CHECKOUT = Path(memexp.__file__).resolve().parent.parent
"""The folder from which jobs import memexp when it is not installed."""


def import_path() -> str:
    """`PYTHONPATH` of a process that imports the same memexp as this one, wherever it runs."""
    first = str(CHECKOUT) if (CHECKOUT / "pyproject.toml").is_file() else None
    return os.pathsep.join(filter(None, [first, os.environ.get("PYTHONPATH")]))


POLL_SECONDS = 0.25
TAIL_BYTES = 8192
"""More than the length of a line of metrics."""

INTERRUPTED = (*(-number for number in STOPS), *(128 + number for number in STOPS))


def announce(path: Path) -> None:
    """Tell the sweep that started this process where its run folder is; without a sweep, do nothing."""
    if name := os.environ.get(JOB_FILE):
        write_json(Path(name), {"run": str(path)})


class JobCrashed(Exception):
    """A job ended because of a bug; its log has the traceback."""


@dataclass
class JobProcess:
    """One job: the command to run, and its progress."""

    here: ClassVar[bool] = True
    """Whether it takes cores and GPUs of this machine."""

    label: str
    command: list[str]
    log: Path
    """Where its output goes; the file beside it with the suffix .json names its run folder."""
    steps: int = 0
    """Number of training steps; 0 when the command trains nothing."""
    devices: int = 1
    """How many GPUs it takes, if there are any."""
    card: str = ""
    """The GPUs that it may use, as `CUDA_VISIBLE_DEVICES` names them; empty: those of this process."""
    at_a_time: int = 1
    """How many jobs run on this machine at the same time, this one included."""
    state: str = "waiting"
    latest: dict[str, Any] = field(default_factory=dict)
    """The newest line of its run's metrics."""
    run: Path | None = None
    _process: subprocess.Popen[bytes] | None = None
    _first: tuple[float, int] | None = None
    """Time and step of the first progress that was seen, from which the time left is estimated."""
    _killed: bool = False

    @property
    def running(self) -> bool:
        return self.state in ("queued", "starting", "running")

    @property
    def place(self) -> str:
        """Where it is found: the name of its run, once that is known."""
        return self.run.name if self.run else ""

    def start(self) -> None:
        """Start the process in its own session, so that Ctrl-C in the terminal reaches it only through us."""
        environment = os.environ | {JOB_FILE: str(self.log.with_suffix(".json")), "PYTHONUNBUFFERED": "1"}
        environment |= {PARENT: str(os.getpid()), JOBS: str(self.at_a_time), "PYTHONPATH": import_path()}
        shown = shlex.join(self.command)
        if self.card:
            environment["CUDA_VISIBLE_DEVICES"] = self.card
            shown = f"CUDA_VISIBLE_DEVICES={self.card} {shown}"
        with self.log.open("wb") as log:
            log.write(f"$ {shown}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.state = "starting"

    def signal(self, number: int) -> bool:
        """Send a signal to the process if it is running; returns whether it is."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.send_signal(number)
        return True

    def kill(self) -> None:
        """Kill the process if it is running."""
        self._killed = True
        self.signal(signal.SIGKILL)

    def forget(self) -> None:
        """Delete its log, whose content was shown, and the folder of the sweep if nothing else is in it."""
        self.log.unlink()
        self.log.with_suffix(".json").unlink(missing_ok=True)
        with suppress(OSError):
            self.log.parent.rmdir()

    def wait(self) -> None:
        """Wait until the process ends, if it was started."""
        if self._process is not None:
            self._process.wait()

    def poll(self) -> None:
        """Update the state from the process and the newest metrics of its run folder."""
        assert self._process is not None
        self._process.poll()
        self._look()
        if (code := self.exit_code) is None:
            self.state = "running" if self.latest else "starting"
        else:
            self._end(code)

    def _look(self) -> None:
        """Read the newest metrics of its run."""
        if self.run is None:
            self.run = _announced(self.log.with_suffix(".json"))
        if self.run and (line := last_metrics(self.run)):
            self.latest = line
            self._first = self._first or (time.monotonic(), line["step"])

    def _end(self, code: int) -> None:
        if code == 0:
            self.state = "done"
        else:
            # Before a process has set up its handlers, Python's own ends it with a traceback.
            interrupted = self._killed or code in INTERRUPTED or self.reason == "KeyboardInterrupt"
            self.state = "stopped" if interrupted else "failed"

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    @property
    def reason(self) -> str:
        """The signal that killed the job, or else the last line that it printed."""
        if self.state == "failed" and (name := _signal_of(self.exit_code)):
            return f"it was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
        lines = [line.strip() for line in self.output.splitlines()]
        return next((line for line in reversed(lines) if line), "it printed nothing")

    @property
    def output(self) -> str:
        """What the job printed."""
        return self.log.read_text(encoding="utf-8", errors="replace").partition("\n")[2]

    @property
    def seconds_left(self) -> float | None:
        """Seconds to its last step at the speed so far; None while the speed is unknown."""
        if self.state != "running" or self._first is None or self.latest["step"] <= self._first[1]:
            return None
        step = int(self.latest["step"])
        return (time.monotonic() - self._first[0]) / (step - self._first[1]) * (self.steps - step)


def _signal_of(code: int | None) -> str:
    """The signal that ended a process with this exit code; a shell adds 128 to its number. Empty if none did."""
    number = 0 if code is None else -code if code < 0 else code - 128
    return signal.Signals(number).name if number in list(signal.Signals) else ""


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """A label for each job of a sweep: the overrides that not all jobs share."""
    common = set.intersection(*(set(job) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(override for override in job if override not in common) or "defaults" for job in jobs]


def run_jobs(jobs: list[JobProcess], *, at_a_time: int, show: Callable[[], None], until: float = math.inf) -> int:
    """Run every job, `at_a_time` of them in parallel, and call `show` a few times a second.

    If several run in parallel on a machine with GPUs, each gets as many as it takes: those that the fewest running jobs have.

    Args:
        jobs: `show` may add jobs to the list, and change the order of the waiting ones.
        until: the time of `time.monotonic` at which jobs are interrupted.

    Returns:
        The signal by which the jobs were interrupted, SIGTERM for the time limit; 0 if they were not. The running jobs get the
        signal once; they save and end. A second signal kills them.
    """
    cards = _cards() if at_a_time > 1 and any(job.here for job in jobs) else []
    with _signals_handed_on(jobs) as stop:
        try:
            while any(job.running or job.state == "waiting" for job in jobs):
                if time.monotonic() >= until:
                    stop.ask(signal.SIGTERM)  # not SIGINT: processes that a shell starts in the background ignore it
                for job in [job for job in jobs if job.state == "waiting"]:
                    if stop.asked:
                        job.state = "stopped"
                    elif sum(started.running for started in jobs) < at_a_time:
                        taken = [card for started in jobs if started.running for card in started.card.split(",")]
                        job.card = ",".join(sorted(cards, key=taken.count)[: job.devices])
                        job.at_a_time = at_a_time
                        job.start()
                        stop.hand_on(job)
                show()
                time.sleep(POLL_SECONDS)
                for job in jobs:
                    if job.running:
                        job.poll()
                show()
        except BaseException:
            stop.ask(signal.SIGTERM)  # otherwise the jobs would keep running without this process
            for job in jobs:
                job.wait()
            raise
    return stop.number or 0


def _cards() -> list[str]:
    from memexp.device import visible_cards  # this module loads torch

    return visible_cards()


class _Stop:
    """Stops jobs early: the first request makes them save and end, a further signal kills them."""

    def __init__(self, jobs: Sequence[JobProcess]) -> None:
        self._jobs, self._signals = jobs, 0
        self._number: int | None = None
        self._told: list[JobProcess] = []

    @property
    def number(self) -> int | None:
        """The signal of the first request; None before."""
        return self._number

    @property
    def asked(self) -> bool:
        return self._number is not None

    def ask(self, number: int) -> None:
        if not self.asked:
            self._number = number
            self._told = [job for job in self._jobs if job.signal(number)]

    def hand_on(self, job: JobProcess) -> None:
        """Signal a job that was still starting, without a process, when the stop was requested."""
        if self._number is not None and job not in self._told:  # a second signal would end it without saving
            job.signal(self._number)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._signals += 1
        self.ask(number)
        if self._signals > 1:
            for job in self._jobs:
                job.kill()


@contextmanager
def _signals_handed_on(jobs: Sequence[JobProcess]) -> Iterator[_Stop]:
    stop = _Stop(jobs)
    # a signal that is already ignored stays ignored, as nohup intends
    handled = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.hear) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announced(path: Path) -> Path | None:
    try:
        return Path(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, TypeError, KeyError):  # it is only needed to show progress
        return None


def last_metrics(run: Path) -> dict[str, Any]:
    """The newest complete training line of a run's metrics; empty if there is none."""
    try:
        with open_ordinary(run / METRICS_FILE) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        if line.startswith(b"{") and b'"loss"' in line:
            with suppress(ValueError):
                return dict(json.loads(line))
    return {}
