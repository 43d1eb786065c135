"""One command, several processes: what it prints, and how all of them end when one does."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from memexp.ranks.exchange import _prefix
from memexp.store.folder import all_runs

from ..messages import says
from ..tiny import TINY
from ..train.conftest import assert_same_result

CHECKOUT = Path(__file__).resolve().parents[2]
HANG = 120
CLONE_NEWNS = 0x20000
"""The thread that asks for it sees mounts of its own from then on (`unshare(2)`)."""

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
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


def test_a_disk_that_is_full_for_one_process(roots: Callable[[str], Path]) -> None:
    """It is named. Where the first process sees the folder of the checkpoints, the second one sees a disk of four pages."""
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    root = roots("small")
    (root / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import ctypes, subprocess\n"
        "    from memexp.train import checkpoint\n"
        "    plain = checkpoint.save\n"
        "    def save(path, content):\n"
        "        checkpoint.save = plain\n"
        "        path.parent.mkdir(exist_ok=True)\n"
        f"        assert ctypes.CDLL(None).unshare({CLONE_NEWNS}) == 0\n"
        "        for words in (['--make-rprivate', '/'], ['-t', 'tmpfs', '-o', 'size=16k', 'none', str(path.parent)]):\n"
        "            subprocess.run(['mount', *words], check=True)\n"
        "        plain(path, content)\n"
        "    checkpoint.save = save\n"
        "    import time\n"
        "    from memexp.ranks import exchange\n"
        "    speaks = exchange.speaks\n"
        "    exchange.speaks = lambda: time.sleep(2) or speaks()\n"  # the others wait for it
    )
    words = ["arch=xl", "devices=2", "steps=6", "optim.warmup=1", "checkpoint_every=3"]
    with started(root, *words, PYTHONPATH=f"{root}:{CHECKOUT}") as process:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 2, err
        (line,) = lines(err)
    (run,) = all_runs(root)
    folder = str(run.path / "checkpoints")
    said = (
        "memexp train, rank 1 of 2 processes: ",
        "step-0000003.1-of-2.pt",
        "No space left",
        f"file system {folder}",
        "of 16 kB free",
    )
    assert says(*said)(line)


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


def test_who_waits_for_others_hears_a_signal(roots: Callable[[str], Path]) -> None:
    """Not only after the ten minutes that it would wait, so that a job whose time is over can go into the queue again."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=HANG))
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    with started(roots("waits"), "arch=xl", **place) as process:
        store.wait([f"{_prefix()}/here 1"])  # it came, and waits for rank 0
        process.send_signal(signal.SIGUSR2)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == 128 + signal.SIGUSR2
    (line,) = lines(err)
    assert says("memexp train: interrupted", "continues")(line)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "names",
    [("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")],
    ids=["torchrun", "srun"],
)
def test_processes_that_a_launcher_has_started(
    names: tuple[str, str, str], roots: Callable[[str], Path], free_port: int
) -> None:
    root = roots("launched")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "GLOO_SOCKET_IFNAME": "lo"}
    places = [dict(zip(names, (str(rank), "2", str(rank)), strict=True)) | shared for rank in range(2)]
    words = ["arch=xl", "steps=4", "optim.warmup=1"]
    with started(root, *words, **places[0]) as first, started(root, *words, **places[1]) as second:
        said = [process.communicate(timeout=HANG) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert "perplexity" in said[0][0]
    assert (said[1][0], lines(said[1][1])) == ("", [])
    (run,) = all_runs(root)
    assert run.summary is not None
    assert run.summary["devices"] == 2


def test_a_bug_in_one_process_is_traced_once(roots: Callable[[str], Path]) -> None:
    root = roots("bug")
    (root / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from memexp.train import checkpoint\n"
        "    def save(path, content):\n"
        "        raise KeyError('a bug')\n"
        "    checkpoint.save = save\n"
    )
    path = f"{root}:{CHECKOUT}"
    with started(root, "arch=xl", "devices=2", "steps=400", "checkpoint_every=3", PYTHONPATH=path) as process:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 1
        assert err.count("Traceback") == 1
        last = [line.removeprefix("[rank1]: ") for line in err.splitlines()][-2:]  # PyTorch names it as well
        assert last == ["KeyError: 'a bug'", "rank 1 of 2 processes"]


def test_a_process_without_memory_is_named(roots: Callable[[str], Path]) -> None:
    root = roots("memory")
    (root / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from memexp.train import loop\n"
        "    def update(session, **options):\n"
        '        raise RuntimeError("can\'t allocate memory: you tried to allocate 8 bytes")\n'
        "    loop.update = update\n"
    )
    with started(root, "arch=xl", "devices=2", "steps=400", PYTHONPATH=f"{root}:{CHECKOUT}") as process:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 2
        (line,) = lines(err)
        assert says("memexp train, rank 1 of 2 processes: ", "out of memory")(line)


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_threads_end_before_their_process(fails: bool, roots: Callable[[str], Path]) -> None:
    """With signs of life all the time, a thread would be in PyTorch's C++ code when Python ends, which aborts the process."""
    root = roots("beats")
    program = "from memexp.ranks import watch\nwatch.BEAT_SECONDS = 1e-6\n"
    if fails:
        program += (
            "from memexp.errors import UserError\n"
            "from memexp.train import checkpoint\n"
            "def save(path, content):\n"
            "    raise UserError('cannot write: no space left; expected some')\n"
            "checkpoint.save = save\n"
        )
    (root / "sitecustomize.py").write_text(
        "import os\nif 'RANK' in os.environ:\n" + "".join(f"    {line}\n" for line in program.splitlines())
    )
    words = ["arch=xl", "devices=2", "steps=2", "optim.warmup=1"]
    with started(root, *words, PYTHONPATH=f"{root}:{CHECKOUT}") as process:
        _, err = process.communicate(timeout=HANG)
        assert (process.returncode, len(lines(err))) == ((2, 1) if fails else (0, 0)), err


def test_scores_are_made_by_all(roots: Callable[[str], Path]) -> None:
    root = roots("scored")
    with started(root, "arch=knn", "steps=4", "optim.warmup=1") as process:
        _, err = process.communicate(timeout=HANG)
        assert (process.returncode, lines(err)) == (0, [])
    (run,) = all_runs(root)
    nats = []
    for devices in ("0", "2"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "memexp", "eval", run.name, "memory=foreign", "force=true", f"devices={devices}", "device=cpu",
             "eval.documents=2", f"root={root}"],
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, cwd=root, text=True, capture_output=True, timeout=HANG,
        )  # fmt: skip
        assert (done.returncode, lines(done.stderr)) == (0, [])
        assert done.stdout.count("nats per token") == 1
        (score,) = (each for each in run.scores if each.summary["memory"] == "foreign")
        nats.append(np.load(score.path / "token_nats.npy"))
    assert np.abs(nats[0] - nats[1]).max() < 1e-5
