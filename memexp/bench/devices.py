"""Several devices beside one: losses of every architecture, a run whose process is killed, and the time of a step.

On all GPUs over NCCL; without a GPU, in two processes on the CPU over gloo, which tries the checks themselves.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.sessions import opened, settings
from memexp.bench.gpu.suite import told
from memexp.bench.gpu.values import LOSS, difference
from memexp.bench.measurement import Figure, Say
from memexp.bench.workload import Work
from memexp.config.commands import BenchConfig
from memexp.config.introspection import choices_of
from memexp.device import describe, visible_cards, why_no_gpu
from memexp.errors import UserError
from memexp.launch.processes import import_path
from memexp.machine import PARENT, end_with_parent
from memexp.ranks import exchange
from memexp.ranks.place import Place
from memexp.store.folder import Run, all_runs
from memexp.train.loop import update

STEPS = 3
"""Steps whose losses are compared, and of which the last one is timed."""
CONTINUED = 1e-3
"""Largest relative difference of the loss after a kill, on GPUs, whose sums have no fixed order; on a CPU there is none."""
OVER_ONE = 1.25
"""Largest wanted time of a step on several GPUs, relative to one with as many lanes as each of them."""
SHARED = "shard_weights=true"
RUN = ("arch=xl", "size=tiny", "data=tiny", "steps=30", "checkpoint_every=5", "log_every=1", "optim.warmup=1")
KILLED_AFTER = 12
START_SECONDS = 300.0
ENDING_SECONDS = 5.0
ON_A_CPU = Ground(device="cpu", memory=0, large=("size=tiny",), small=("size=tiny",), lanes=2, slots=(64,))


class Steps(NamedTuple):
    """Some training steps."""

    losses: list[float]
    seconds: float
    """Of the last one."""


Group = Callable[..., Steps]
"""Trains by the settings that it is given, on all devices of the group together."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """Compare all devices with one. `work` is not used: its sizes are those of one CPU.

    Raises:
        UserError: there is one GPU.
    """
    ground, count = the_devices()
    figures = []
    try:
        for figure in compared(ground, count, choices_of("arch")):
            say(told(figure))
            figures.append(figure)
    except RuntimeError as error:  # the processes cannot go on without the one that failed
        why = f"failed: {' '.join(str(error).split())}"
        figures.append(Figure.without(f"what follows {figures[-1].what if figures else 'the start'}", why, failed=True))
    return figures


def the_devices() -> tuple[Ground, int]:
    """What is compared with one device: all GPUs, or two processes on the CPU.

    Raises:
        UserError: there is one GPU.
    """
    if why_no_gpu():
        return ON_A_CPU, 2
    count = len(visible_cards())
    if count < 2:
        raise UserError(
            "there is one GPU; expected at least two, which are compared with one. With CUDA_VISIBLE_DEVICES= two processes on the CPU "
            "are compared"
        )
    return Ground("cuda", describe(torch.device("cuda"), asked="cuda").memory), count


def compared(ground: Ground, count: int, archs: Sequence[str]) -> Iterator[Figure]:
    """All figures: losses, a kill, and times."""
    together = f"{count} {'GPUs' if ground.device == 'cuda' else 'processes on the CPU'}"
    with group(ground, 1) as alone, group(ground, count) as several:
        for name in archs:
            words = (*ground.small, f"arch={name}", f"lanes={2 * count}", "precision=fp32", "data.max_document=0")
            expected = alone(*words)
            for more in ((), (SHARED,)):
                found = several(*words, *more)
                apart = [abs(a - b) / abs(b) for a, b in zip(found.losses, expected.losses, strict=True)]
                what = " ".join((f"losses of {name}, {together}", *more))
                yield difference(what, torch.tensor(apart).amax().item(), LOSS, "one device")
        words = (*ground.large, "arch=knn", f"mem={ground.slots[0]}", "data.max_document=0")
        one = alone(*words, f"lanes={ground.lanes}")
        for more in ((), (SHARED,)):
            found = several(*words, f"lanes={count * ground.lanes}", *more)
            yield Figure(
                " ".join((f"step of knn, {ground.lanes} lanes each, {together}", *more)), "together", "one of them", "s",
                [found.seconds], [one.seconds], ratio_at_most=OVER_ONE if ground.device == "cuda" else None,
                note=f"{count * one.seconds / found.seconds:.2f} times the tokens per second of one",
            )  # fmt: skip
    yield killed(ground, count, together)


def killed(ground: Ground, count: int, together: str) -> Figure:
    """The loss of a run of which a process is killed, and which the same command continues, beside one that nothing stopped."""
    with tempfile.TemporaryDirectory(prefix="memexp-") as folder:
        losses = []
        for name, kills in (("whole", False), ("killed", True)):
            root = Path(folder) / name
            root.mkdir()
            command = [
                sys.executable,
                "-P",
                "-m",
                "memexp",
                "train",
                *RUN,
                f"device={ground.device}",
                f"devices={count}",
            ]
            command += [f"lanes={2 * count}", "eval.documents=1", f"root={root}"]
            if kills and _kill_one(command, root) == 0:
                return Figure.without(
                    f"a run of {together}", "failed: it ended before a process was killed", failed=True
                )
            done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
            if done.returncode or ("continues from step" in done.stdout) != kills:
                last = ["no message", *done.stdout.splitlines(), *done.stderr.splitlines()][-1]
                return Figure.without(f"a run of {together}, {name}", f"failed: {last}", failed=True)
            losses.append(float(_the_run(root).summary["loss"]))  # type: ignore[index]
    limit = CONTINUED if ground.device == "cuda" else 1e-12
    apart = abs(losses[1] - losses[0]) / abs(losses[0])
    return difference(f"loss of a run of {together}, one of which was killed", apart, limit, "one that was not")


def _kill_one(command: Sequence[str], root: Path) -> int:
    """Start a run, kill its last process once it has taken some steps, and wait until all have ended; returns the exit code."""
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, env=_environment(), stdout=nowhere, stderr=nowhere) as process:
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            metrics = [run.metrics for run in all_runs(root)]
            if metrics and metrics[0] and metrics[0][-1]["step"] >= KILLED_AFTER:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(children[-1]), signal.SIGKILL)
                break
            time.sleep(0.01)
        return process.wait(START_SECONDS)


def _the_run(root: Path) -> Run:
    (run,) = all_runs(root)
    return run


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": import_path(), PARENT: str(os.getpid())}


@contextmanager
def group(ground: Ground, count: int) -> Iterator[Group]:
    """So many processes, a device each, which stay until the end.

    Raises:
        RuntimeError: one of them failed or ended, or they found different losses, when a group is called.
    """
    context = get_context("spawn")  # a process that is forked has no use of CUDA
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pipes = [context.Pipe() for _ in range(count)]
    before = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())
    if ground.device == "cpu" and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's name may lead nowhere
    places = [Place(rank, count, rank, "127.0.0.1", port) for rank in range(count)]
    processes = [
        context.Process(target=_work, args=(ground, place, theirs), daemon=True)
        for place, (_, theirs) in zip(places, pipes, strict=True)
    ]
    try:
        for process in processes:
            process.start()
    finally:
        os.environ.pop(PARENT) if before is None else os.environ.update({PARENT: before})
    for _, theirs in pipes:
        theirs.close()

    def train(*words: str) -> Steps:
        for ours, _ in pipes:
            with suppress(OSError):  # it has ended, which is said below
                ours.send(words)
        found = _answers([ours for ours, _ in pipes], processes, " ".join(words))
        return found[0]._replace(seconds=max(each.seconds for each in found))

    try:
        yield train
    finally:
        for process in processes:
            process.kill()
            process.join()


def _answers(pipes: Sequence[Connection], processes: Sequence[BaseProcess], what: str) -> list[Steps]:
    """What each process has found.

    Args:
        what: they were asked to train, for an error.

    Raises:
        RuntimeError: one has failed or ended, for which the others may wait for ever; or they found different losses.
    """
    found: dict[int, Steps] = {}
    while len(found) < len(pipes):
        missing = [rank for rank in range(len(pipes)) if rank not in found]
        ready = wait([waited for rank in missing for waited in (pipes[rank], processes[rank].sentinel)])
        for rank in missing:
            if pipes[rank] in ready:  # first: what a process says last tells more than that it has ended
                try:
                    answer = pipes[rank].recv()
                except (EOFError, OSError):
                    raise _ended(rank, processes, what) from None
                if not isinstance(answer, Steps):
                    raise RuntimeError(f"{what}: rank {rank}: {answer}")
                found[rank] = answer
            elif processes[rank].sentinel in ready:
                raise _ended(rank, processes, what)
    for rank, answer in sorted(found.items()):
        if answer.losses != found[0].losses:
            raise RuntimeError(f"{what}: rank {rank} has the losses {answer.losses}, and rank 0 {found[0].losses}")
    return [found[rank] for rank in range(len(pipes))]


def _ended(rank: int, processes: Sequence[BaseProcess], what: str) -> RuntimeError:
    processes[rank].join(ENDING_SECONDS)  # its pipe may close first
    return RuntimeError(f"{what}: rank {rank} of {len(processes)} ended with exit code {processes[rank].exitcode}")


def _work(ground: Ground, place: Place, calls: Connection) -> None:
    """Train by the settings that come, and send what was found, or the error."""
    end_with_parent()
    torch.set_num_threads(1)
    try:
        if place.ranks > 1 or ground.device == "cuda":
            exchange.join(place, on_gpu=ground.device == "cuda")
            dist.all_reduce(torch.zeros((), device=ground.device))  # which starts NCCL, also for one device
        while True:
            calls.send(_steps(ground, calls.recv()))
    except Exception as error:  # of any kind: the one who asked says it, and then ends all
        calls.send(f"{type(error).__name__}: {error}")


def _steps(ground: Ground, words: Sequence[str]) -> Steps:
    losses, seconds = [], 0.0
    with opened(settings(ground, *words)) as session:
        for _ in range(STEPS):
            exchange.wait()
            began = time.perf_counter()
            losses.append(update(session, gauges_wanted=False).loss)
            seconds = time.perf_counter() - began
    return Steps(losses, seconds)
