"""One command, several processes: what it prints, and how all of them end when one does."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memexp.store.folder import all_runs

from ..messages import says
from ..tiny import TINY
from ..train.conftest import assert_same_result

CHECKOUT = Path(__file__).resolve().parents[2]
HANG = 120

pytestmark = pytest.mark.hard


@contextmanager
def started(root: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`memexp train` in processes of its own, none of which outlives the test."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "memexp", "train", *TINY, f"root={root}", "lanes=4", *words],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=HANG)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started, in the order of their ranks."""
    found = []
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
        if rank := re.search(r"\x00RANK=(\d+)\x00", f"\x00{environment}"):
            found.append((int(rank[1]), int(pid)))
    return [pid for _, pid in sorted(found)]


def wait_for_step(process: subprocess.Popen[str], root: Path, step: int) -> None:
    end = time.monotonic() + HANG
    while time.monotonic() < end and process.poll() is None:
        if any(run.metrics and run.metrics[-1]["step"] >= step for run in all_runs(root)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} was reached: {process.communicate()}")


def lines(text: str) -> list[str]:
    """What was printed, without warnings and progress."""
    return [
        line
        for line in text.splitlines()
        if line and not line.startswith(("warning:", "Reading", "Training", "Encoding"))
    ]


def test_a_killed_process_ends_all_and_the_same_command_goes_on(roots: Callable[[str], Path]) -> None:
    words = ["arch=xl", "devices=2", "steps=40", "checkpoint_every=5", "log_every=1"]
    whole, root = roots("whole"), roots("killed")
    with started(whole, *words) as process:
        out, err = process.communicate(timeout=HANG)
        assert (process.returncode, lines(err)) == (0, [])
        assert out.count("perplexity") == out.count("precision:") == 1
    with started(root, *words) as process:
        wait_for_step(process, root, 12)
        os.kill(workers(process)[1], signal.SIGKILL)
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 128 + signal.SIGKILL
        (line,) = lines(err)
        assert says(
            "memexp train: ", "rank 1 of 2 processes was killed by SIGKILL", "continues from the newest checkpoint"
        )(line)
    with started(root, *words) as process:
        out, err = process.communicate(timeout=HANG)
        assert (process.returncode, lines(err)) == (0, [])
        assert "continues from step 10 of 40" in out
    (found,), (expected,) = all_runs(root), all_runs(whole)
    assert_same_result(found, expected)
    assert found.summary is not None
    assert found.summary["devices"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_save(number: signal.Signals, roots: Callable[[str], Path]) -> None:
    root = roots("asked")
    with started(root, "arch=xl", "devices=2", "steps=400") as process:
        wait_for_step(process, root, 5)
        process.send_signal(number)
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 128 + number
        assert sum("and saved" in line for line in lines(err)) == 1
    (run,) = all_runs(root)
    assert len([*run.path.glob("checkpoints/step-*.*-of-2.pt")]) == 2
    assert run.state.startswith("stopped") or "step" in run.state


def test_one_line_for_an_error_of_all(roots: Callable[[str], Path]) -> None:
    root = roots("high")
    with started(root, "arch=vanilla", "devices=2", "steps=40", "optim.rate=1e20", "optim.clip=0") as process:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 2
        (line,) = lines(err)
        assert says("memexp train: ", "expected a finite number", "optim.rate")(line)


def test_an_error_of_one_names_its_process(roots: Callable[[str], Path]) -> None:
    root = roots("full")
    program = (
        "import memexp.train.checkpoint as checkpoint, sys\n"
        "from memexp.errors import UserError\n"
        "plain = checkpoint.save\n"
        "def save(path, content):\n"
        "    if '.1-of-2' in path.name:\n"
        "        raise UserError('cannot write: no space left; expected some')\n"
        "    plain(path, content)\n"
        "checkpoint.save = save\n"
    )
    (root / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK') == '1':\n" + "".join(f"    {line}\n" for line in program.splitlines())
    )
    with started(
        root, "arch=xl", "devices=2", "steps=400", "checkpoint_every=3", PYTHONPATH=f"{root}:{CHECKOUT}"
    ) as process:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 2
        (line,) = lines(err)
        assert says("memexp train, rank 1 of 2 processes: ", "no space left")(line)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_is_named(rank: int, roots: Callable[[str], Path]) -> None:
    root = roots("still")
    with started(root, "arch=xl", "devices=2", "steps=4000", MEMEXP_SILENT_SECONDS="4") as process:
        wait_for_step(process, root, 5)
        os.kill(workers(process)[rank], signal.SIGSTOP)
        _, err = process.communicate(timeout=HANG)
        assert process.returncode != 0
        (line,) = lines(err)
        assert says("memexp: ", f"no sign of life from rank {rank} of 2 processes in 4 s", "it was stopped")(line)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_never_come_are_named(rank: int, roots: Callable[[str], Path], free_port: int) -> None:
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    with started(roots("alone"), "arch=xl", MEMEXP_JOIN_SECONDS="3", **place) as process:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 2
        (line,) = lines(err)
        expected = (
            ("of 2 processes only 1 came in 3 s", "Missing: rank 1")
            if rank == 0
            else ("no answer from 127.0.0.1", "rank 0")
        )
        assert says("memexp train", *expected)(line)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
