"""A run that was stopped in any way goes on to the very result that it would have had."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from memexp.cli.main import main
from memexp.config.groups import Scoring
from memexp.data.corpus import Corpus
from memexp.errors import UserError
from memexp.eval.evaluate import Request, evaluate
from memexp.store.folder import Run, all_runs
from memexp.train import checkpoint, loop, session
from memexp.train.interrupt import Interrupted
from memexp.train.spec import specify

from ..messages import says
from ..tiny import TINY, configure
from .conftest import Train, assert_same_result, losses, weights

Start = Callable[..., subprocess.Popen[str]]

# Logging and checkpoints at steps that do not divide each other, so that a line of metrics covers steps from both sides
# of a checkpoint; dropout, so that the random state matters; padding, resets and a memory that fills.
LONG = ("arch=knn", "arch.dropout=0.1", "accumulate=2", "steps=60", "checkpoint_every=7", "log_every=3")


HANG = 300
"""Seconds after which a process that a test waits for counts as one that never ends."""


class Crash(Exception):
    """Stands for a power cut: nothing is saved after it."""


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next run die inside of that step."""
    update = loop.update

    def dying(session: Any, **how: Any) -> Any:
        result = update(session, **how)
        if session.step == step:
            monkeypatch.setattr(loop, "update", update)
            raise Crash
        return result

    monkeypatch.setattr(loop, "update", dying)


@pytest.mark.parametrize(
    "settings",
    [
        ("arch=vanilla", "arch.dropout=0.2"),
        ("arch=xl", "accumulate=2", "optim=adafactor"),
        ("arch=knn", "arch.dropout=0.1", "accumulate=2"),
        ("arch=knn", "arch.write=leaving", "arch.combine=joint", "precision=bf16", "data.max_document=0"),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_crashed_run_ends_as_if_nothing_had_been(
    settings: tuple[str, ...],
    run: Train,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    chance: random.Random,
) -> None:
    settings = (*settings, "steps=17", "checkpoint_every=5", "log_every=4")
    other = tmp_path / "other"
    other.mkdir()
    expected = run(*settings, root=other)
    for step in sorted(chance.sample(range(1, 18), 2)):
        crash_at(step, monkeypatch)
        with pytest.raises(Crash):
            run(*settings)
        print("crashed at step", step)
    assert_same_result(run(*settings), expected)


@pytest.mark.parametrize(
    "arch", ["knn", *(pytest.param(arch, marks=pytest.mark.hard) for arch in ("rmt", "block_knn"))]
)
def test_a_memory_that_checkpoints_leave_out_starts_empty(
    arch: str, run: Train, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (f"arch={arch}", "steps=10", "checkpoint_every=4", "checkpoint_memory=false", "data.max_document=0")
    begun = []
    restore = session._restore

    def restored(opened: session.Session, path: Path) -> None:
        restore(opened, path)
        expected = opened.model.init_state(opened.spec.config.lanes).memory
        torch.testing.assert_close(*map(pytree.tree_leaves, (opened.state.memory, expected)), rtol=0, atol=0)
        begun.append(opened.step)
        saved = torch.load(path, weights_only=True)["state"]
        torch.testing.assert_close(pytree.tree_leaves(opened.state.cache), saved, rtol=0, atol=0)

    monkeypatch.setattr(session, "_restore", restored)
    for number, step in enumerate((6, 9)):
        crash_at(step, monkeypatch)
        with pytest.raises(Crash):
            run(*settings)
        said = capsys.readouterr()
        assert (f"memory_restarts: {number}" in said.out + said.err) == (number > 0)
    summary = run(*settings).summary
    assert begun == [4, 8]
    assert summary is not None
    assert summary["memory_restarts"] == 2


def test_what_checkpoints_hold_changes_no_run_that_is_not_stopped(run: Train) -> None:
    settings = ("arch=knn", "steps=6", "checkpoint_every=4")
    whole, without = run(*settings), run(*settings, "checkpoint_memory=false")
    assert whole.path != without.path  # stopped, they would differ
    assert losses(whole) == losses(without)
    assert without.summary is not None
    assert without.summary["memory_restarts"] == 0


def test_the_cpus_time_of_all_steps_is_kept_through_a_crash(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(step=0.5)  # half a second between the start of an update and its end
    monkeypatch.setattr(loop.time, "process_time", lambda: next(ticks))
    crash_at(8, monkeypatch)
    with pytest.raises(Crash):
        run("steps=12", "checkpoint_every=5")
    summary = run("steps=12", "checkpoint_every=5").summary
    assert summary is not None
    assert summary["cpu_seconds"] == 12 * 0.5


def test_the_cpus_time_of_a_run_that_an_older_version_began_is_not_known(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = checkpoint.save
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda path, content: saved(path, {name: content[name] for name in content if name != "cpu_seconds"}),
    )
    crash_at(8, monkeypatch)
    with pytest.raises(Crash):
        run("steps=12", "checkpoint_every=5")
    summary = run("steps=12", "checkpoint_every=5").summary
    assert summary is not None
    assert summary["steps"] == 12
    assert summary["cpu_seconds"] is None


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return loop.train(specify(configure(*LONG), corpus, tmp_path_factory.mktemp("uninterrupted")), command="")


def wait_for_step(process: subprocess.Popen[str], root: Path, step: int) -> Run:
    """The process's run once its metrics have reached a step."""
    end = time.monotonic() + HANG
    while time.monotonic() < end and process.poll() is None:
        for found in all_runs(root):
            if (metrics := found.metrics) and metrics[-1]["step"] >= step:
                return found
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"no step {step} was reached: {process.communicate()}")


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive its test."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


DIES = """
import os, signal, sys
from memexp.cli.main import main
from memexp.train import loop
update, left = loop.update, {calls}
def count(frame, event, argument):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(session, **how):
    if session.step == {step}:
        sys.setprofile(count)
    return update(session, **how)
loop.update = counted
main(sys.argv[1:])
"""
"""Trains, and kills itself so many calls after the start of a step: within it, or while it logs or saves behind it."""


@pytest.mark.hard
@pytest.mark.parametrize("turn", range(3))
def test_killed_and_gone_on(
    turn: int, start: Start, root: Path, run: Train, uninterrupted: Run, chance: random.Random
) -> None:
    dies = DIES.format(step=chance.randrange(3, 40), calls=chance.randrange(50_000))
    with ended(start(*LONG, program=dies)) as process:
        assert process.wait(HANG) == -signal.SIGKILL, process.communicate()
    (killed,) = all_runs(root)
    assert killed.state == "stopped"
    assert killed.summary is None
    assert_same_result(run(*LONG), uninterrupted)


HOLDS = """
import signal, sys, time
from memexp.cli.main import main
from memexp.train import loop
update, handlers = loop.update, []
def held(session, **how):
    handlers.append(signal.getsignal(signal.SIGTERM))
    while session.step == 3 and signal.getsignal(signal.SIGTERM) is handlers[0]:  # which the first signal takes away
        time.sleep(0.01)
    return update(session, **how)
loop.update = held
sys.exit(main(sys.argv[1:]))
"""
"""Trains, and stands still after step 3 until it is sent a signal."""


@pytest.mark.hard
def test_sigterm_saves_and_the_same_command_goes_on(start: Start, root: Path, run: Train, uninterrupted: Run) -> None:
    with ended(start(*LONG, program=HOLDS)) as process:
        stopped = wait_for_step(process, root, 3)
        with pytest.raises(UserError, check=says(str(stopped.path), f"process {process.pid};", "expected")):
            run(*LONG)  # two processes cannot share a folder
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG)
    assert process.returncode == 143
    newest = checkpoint.newest(stopped.path / "checkpoints")
    assert newest is not None
    step = int(newest.stem.removeprefix("step-"))
    assert f"stopped at step {step} of 60 and saved; `memexp train " in errors
    assert "Traceback" not in errors
    assert_same_result(run(*LONG), uninterrupted)


@pytest.mark.hard
def test_sigint_saves_and_exits_with_130(start: Start, root: Path) -> None:
    with ended(start("arch=vanilla", "steps=100000", "checkpoint_every=100000")) as process:
        stopped = wait_for_step(process, root, 3)
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=HANG)
    assert process.returncode == 130, errors
    last = stopped.metrics[-1]["step"]
    assert f"stopped at step {last} of 100000 and saved" in errors
    assert "Traceback" not in errors
    assert [path.name for path in (stopped.path / "checkpoints").iterdir()] == [f"step-{last:07d}.pt"]
    assert stopped.state == "stopped"
    assert not stopped.scores


def kill_self_at(*numbers: int) -> Callable[[Any], float]:
    """A validation that sends this process signals."""

    def validate(model: Any) -> float:
        for number in numbers:
            os.kill(os.getpid(), number)
        return 1.0

    return validate


def test_a_signal_finishes_the_step_and_gives_the_handlers_back(run: Train, root: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, check=says("stopped at step 2 of 4")) as stop:
        run("validate_every=2", validate=kill_self_at(signal.SIGTERM))
    assert stop.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    (found,) = all_runs(root)
    assert [line["step"] for line in found.metrics] == [1, 2, 2]


def test_the_second_signal_ends_it_at_once(run: Train, root: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("validate_every=2", validate=kill_self_at(signal.SIGINT, signal.SIGINT))
    (found,) = all_runs(root)
    assert checkpoint.newest(found.path / "checkpoints") is None


def test_what_nohup_ignores_does_not_stop_it(run: Train, root: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run("validate_every=2", validate=kill_self_at(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    (found,) = all_runs(root)
    assert found.state == "done"


def test_a_signal_in_the_last_step_is_not_lost(run: Train, root: Path) -> None:
    with pytest.raises(Interrupted, check=says("stopped at step 4 of 4")) as stop:
        run("validate_every=4", validate=kill_self_at(signal.SIGINT))
    assert stop.value.signal_number == signal.SIGINT
    (found,) = all_runs(root)
    assert found.state == "done"


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_says_so_and_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "arch=knn", *TINY, f"root={root}"]
    assert main(words) == 0
    assert "is done" not in capsys.readouterr().out
    before = snapshot(root / "results")
    assert main(words) == 0
    assert "is done; nothing to train" in capsys.readouterr().out
    assert snapshot(root / "results") == before
    assert before
    (found,) = all_runs(root)
    assert found.state == "done"
    assert not list(found.path.glob("checkpoints/*"))


def test_a_run_that_another_process_finishes_meanwhile_is_left_alone(
    run: Train, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = run("steps=2")
    before = snapshot(finished.path)
    locked = Run.locked
    seen: list[int] = []

    @contextmanager
    def waiting(self: Run) -> Iterator[None]:
        with locked(self):
            (finished.path / "hidden").rename(finished.path / "summary.json")
            seen.append(1)
            yield

    (finished.path / "summary.json").rename(finished.path / "hidden")
    monkeypatch.setattr(Run, "locked", waiting)
    run("steps=2")
    assert seen
    assert snapshot(finished.path).keys() == before.keys()
    assert losses(finished)
    assert (finished.path / "weights.pt").stat().st_mtime_ns == before["weights.pt"][0]


@pytest.mark.parametrize(
    ("device", "precision", "stored_on"),
    [
        ("cpu", "fp32", "host"),
        *(
            pytest.param("cuda", precision, stored_on, marks=pytest.mark.gpu)
            for precision in ("fp32", "bf16")
            for stored_on in ("device", "host")
        ),
    ],
)
def test_a_run_goes_on_and_is_scored_wherever_its_memory_is(
    device: str, precision: str, stored_on: str, run: Train, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close to one that was not stopped, for a GPU sums in another order every time; lanes run out of documents one by one."""
    settings = ("arch=knn", "steps=5", "checkpoint_every=2", "accumulate=2")
    settings += (f"device={device}", f"precision={precision}", f"arch.stored_on={stored_on}")
    (tmp_path / "other").mkdir()
    expected = run(*settings, root=tmp_path / "other")
    crash_at(3, monkeypatch)
    with pytest.raises(Crash):
        run(*settings)
    found = run(*settings)
    for name, values in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], values, rtol=1e-3, atol=1e-4)
    scoring = Scoring(split="train", documents=3, max_document=100, lanes=2)
    for memory in ("on", "foreign"):
        score = evaluate(
            found, found.settings, Request(scoring, memory=memory, device=device), root, command="memexp eval"
        )
        assert 0 < score.summary["nats_per_token"] < 10
        assert score.summary["memory_fill"] == 1


def test_what_a_killed_process_left_half_written_is_removed(
    run: Train, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at(3, monkeypatch)
    with pytest.raises(Crash):
        run("checkpoint_every=1")
    (found,) = all_runs(root)
    left = [
        found.path / "checkpoints" / ".step-0000003.pt.abc.partial",
        found.path / ".weights.pt.abc.partial",
    ]
    for path in left:
        path.write_bytes(b"half")
    run("checkpoint_every=1")
    assert not any(path.exists() for path in left)
