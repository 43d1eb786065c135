"""A signal at any moment, once or twice, ends a command with one line and its exit code."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memexp.cli.main import main
from memexp.train.interrupt import Stopped, stop_on_signal, stopped_by_signals

from ..messages import says
from ..tiny import TINY

HANG = 300
"""Seconds after which a process that a test waits for counts as one that never ends."""

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", [*NUMBERS, signal.SIGUSR2])
def test_a_signal_in_a_command_is_one_line_and_its_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("memexp.cli.main._dispatch", lambda words: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert main(["table"]) == 128 + number
    assert says("memexp table: interrupted")(capsys.readouterr().err)
    assert signal.getsignal(number) is before


def test_an_import_that_a_signal_broke_off_is_no_failed_import() -> None:
    def load() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    with pytest.raises(Stopped) as stop, stopped_by_signals("memexp"):
        load()
    assert stop.value.signal_number == signal.SIGTERM


def test_whoever_ignores_a_signal_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals("memexp"), stop_on_signal() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.signal_number is None
    finally:
        signal.signal(signal.SIGINT, before)


SWALLOWS = """
import os, signal, sys
from memexp.train.interrupt import stopped_by_signals
class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
with stopped_by_signals("memexp train"):
    thing = Thing()
    del thing
    print("went on")
"""

LONG_STEP = """
import hashlib, os, signal, threading, time
from memexp.train.interrupt import stop_on_signal
def send():
    for _ in range(TIMES):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
with stop_on_signal():
    threading.Thread(target=send, daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # a long call into C, like a step
"""


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=HANG
    )


def test_a_signal_that_python_would_swallow_ends_the_process() -> None:
    done = ended(SWALLOWS)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "memexp train: interrupted\n")


@pytest.mark.hard
def test_a_second_signal_ends_a_long_step() -> None:
    done = ended(LONG_STEP.replace("TIMES", "2"))
    assert done.returncode == 143
    first, last = done.stderr.splitlines()
    assert says("after this step", "again")(first)
    assert says("interrupted")(last)


PROGRAM = [sys.executable, "-P", "-m", "memexp"]


@pytest.mark.hard
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("turn", range(6))
def test_a_signal_at_a_random_moment(
    number: signal.Signals, times: int, turn: int, root: Path, environment: dict[str, str], chance: random.Random
) -> None:
    words = [["--help"], ["train", *TINY, "steps=100000"], ["prepare", "data=tiny"]][turn % 3]
    if turn % 3:
        words = [*words, f"root={root}"]
    wait = chance.uniform(0.15, 4) if turn % 3 else chance.uniform(0.1, 0.4)
    print(f"{words[0]}: {number.name} after {wait:.3f} s, {times} times")
    with subprocess.Popen(
        [*PROGRAM, *words], env=environment, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(wait)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(chance.uniform(0, 0.05))
        _, errors = process.communicate(timeout=HANG)
    # Before the first line of the program runs, Python's own handlers end it.
    early = -signal.SIGTERM if number == signal.SIGTERM else -signal.SIGINT
    assert process.returncode in (0, 128 + number, early), errors
    if process.returncode == 128 + number:
        assert "Traceback" not in errors
        assert "interrupted" in errors or "stopped at step" in errors


WAITS = """
import os, sys, time
from pathlib import Path
from memexp.launch.processes import JobProcess, run_jobs
job = [sys.executable, "-c", "from memexp.machine import end_with_parent; end_with_parent(); import time; time.sleep(600)"]
jobs = [JobProcess("a", job, Path(sys.argv[1]))]
def show():
    if jobs[0]._process is not None:
        print(jobs[0]._process.pid, flush=True)
run_jobs(jobs, at_a_time=1, show=show)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_end_with_the_sweep_that_started_them(
    number: signal.Signals, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-P", "-c", WAITS, str(tmp_path / "0.log")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as sweep:
        assert sweep.stdout is not None
        job = int(sweep.stdout.readline())
        time.sleep(1)  # until the job has told the system; before, it sees that its parent has changed
        sweep.send_signal(number)
        sweep.stdout.read()
        sweep.wait(HANG)
    wait_until(lambda: not alive(job))


def wait_until(happened: Callable[[], bool]) -> None:
    """Return when it has happened; fail if it does not at all."""
    for _ in range(20 * HANG):
        if happened():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.hard
def test_a_sweep_whose_sigint_is_ignored_hears_sigterm(root: Path, environment: dict[str, str]) -> None:
    """As when a script starts it in the background."""
    line = f"{' '.join(PROGRAM)} train -m {' '.join(TINY)} root={root} seed=0,1 steps=100000 jobs=2"
    with subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec setsid {line}"], env=environment, cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as sweep:  # fmt: skip
        wait_until(lambda: len(list(root.glob("results/runs/*/metrics.jsonl"))) == 2)
        sweep.send_signal(signal.SIGINT)
        time.sleep(1)
        assert sweep.poll() is None
        sweep.send_signal(signal.SIGTERM)
        _, errors = sweep.communicate(timeout=HANG)
    assert sweep.returncode == 143, errors
    assert says("memexp train: interrupted")(errors.splitlines()[-1])
    assert len(list(root.glob("results/runs/*/checkpoints/*.pt"))) == 2
