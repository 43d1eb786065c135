"""A profile says what each part of a step takes, its gradient included, and leaves runs alone."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from memexp.cli.main import main
from memexp.files import read_json
from memexp.regions import MARK, marked, part
from memexp.runs.folder import Run, all_runs
from memexp.train.profiling import STEPS, shares

from ..tiny import TINY
from .conftest import Train
from .test_resume import Crash, crash_at, snapshot


class Sleeping(torch.autograd.Function):
    """Takes as long as it is told, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: float, back: float) -> Tensor:
        ctx.back = back
        time.sleep(there)
        ctx.save_for_backward(x)  # what is saved has to be computed again
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        assert len(ctx.saved_tensors) == 1
        time.sleep(ctx.back)
        return gradient, None, None


def through_parts(x: Tensor) -> Tensor:
    """20 ms there and 60 ms back in attention, of which search and what is no part of it have their own."""
    with part("layers"):
        y = Sleeping.apply(x, 0.01, 0.03)
        with part("attention"):
            y = Sleeping.apply(y, 0.02, 0.06)
            with part("search"):
                y = Sleeping.apply(y, 0.04, 0.0)
    return y


def measured(*, again: bool) -> dict[str, tuple[float, float]]:
    """Milliseconds by part, forward and backward, of steps that sleep."""
    x = torch.zeros(3, requires_grad=True)
    with marked(), torch.profiler.profile() as profiler:
        began = time.perf_counter()
        for _ in range(STEPS):
            with part("step"):
                if again:
                    y = torch.utils.checkpoint.checkpoint(through_parts, x, use_reentrant=False)
                else:
                    y = through_parts(x)
                with part("backward"):
                    y.sum().backward()
                time.sleep(0.005)
        seconds = time.perf_counter() - began
    found = shares(profiler.events(), seconds, on_device=False)
    assert sum(each.forward + each.backward for each in found) == pytest.approx(seconds / STEPS)
    return {each.part: (each.forward * 1e3, each.backward * 1e3) for each in found}


def least(*, again: bool) -> dict[str, tuple[float, float]]:
    """The same, of each number the least of some measurements: a busy machine makes a sleep longer, never shorter."""
    rounds = [measured(again=again) for _ in range(4)]
    return {name: tuple(map(min, zip(*(each[name] for each in rounds), strict=True))) for name in rounds[0]}


def test_time_is_that_of_the_part_and_of_its_gradient() -> None:
    found = least(again=False)
    expected = {"other layers": (10, 30), "attention": (20, 60), "search": (40, 0), "rest": (5, 0)}
    for name, times in expected.items():
        assert found[name] == pytest.approx(times, abs=4), name
    assert found["other gradients"] == pytest.approx((0, 0), abs=4)


def test_what_is_computed_again_is_part_of_the_backward_pass() -> None:
    found = least(again=True)
    assert found["search"] == pytest.approx((40, 40), abs=4)
    assert found["attention"] == pytest.approx((20, 80), abs=4)


def test_without_a_profile_of_ours_there_are_no_marks() -> None:
    with torch.profiler.profile() as profiler, part("attention"):
        torch.ones(1)
    assert not [event for event in profiler.events() if event.name.startswith(MARK)]


@pytest.mark.parametrize("extra", [(), ("recompute=true", "accumulate=2")], ids=["plain", "again"])
def test_a_profile_is_written_and_no_run_is_made(
    extra: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = ["arch=knn", "mem=400", "data.max_document=0"]  # more than the steps of the profile would fill
    assert main(["train", *memory, *TINY, *extra, "profile=true", f"root={root}"]) == 0
    assert all_runs(root) == []
    assert not (root / "results" / "runs").exists()
    (folder,) = (root / "results" / "profiles").iterdir()
    document, printed = read_json(folder / "profile.json"), capsys.readouterr().out
    assert (folder / "profile.md").read_text() in printed
    assert len(printed.splitlines()) < 24
    total = sum(each["forward"] + each["backward"] for each in document["parts"])
    assert total == pytest.approx(document["seconds_a_step_profiled"])
    assert {"other layers", "head and loss", "optimizer", "data"} <= {each["part"] for each in document["parts"]}
    assert document["memory_fill"] > 0.9
    names = {event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]}
    assert {f"{MARK}{name}" for name in ("step", "layers", "head", "backward", "optimizer", "data")} <= names


def test_a_run_that_stopped_is_profiled_from_its_checkpoint_and_stays_as_it_is(
    run: Train, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at(3, monkeypatch)
    with pytest.raises(Crash):
        run("checkpoint_every=2")
    before = snapshot(root / "results" / "runs")
    assert main(["train", *TINY, "profile=true", f"root={root}"]) == 0
    assert snapshot(root / "results" / "runs") == before
    assert before
    (found,) = all_runs(root)
    assert isinstance(found, Run)
    assert found.state == "stopped"
    (folder,) = (root / "results" / "profiles").iterdir()
    assert folder.name == found.name
    assert read_json(folder / "profile.json")["after_step"] == 3  # two of the run, and one to warm up
