"""A profile says what each part of a step takes, its gradient included, and leaves runs alone."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from memexp.cli.main import main
from memexp.files import read_json
from memexp.regions import MARK, marked, part
from memexp.store.folder import Run, all_runs
from memexp.train.profiling import STEPS, shares

from ..tiny import TINY
from .conftest import Train
from .test_resume import Crash, crash_at, snapshot

WORK = "aten::sinh"
"""The operation that stands for work; nothing else calls it."""


def work(times: int) -> None:
    for _ in range(times):
        torch.ones(1).sinh()


class Working(torch.autograd.Function):
    """Does as much work as it is told, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: int, back: int) -> Tensor:
        ctx.back = back
        work(there)
        ctx.save_for_backward(x)  # what is saved has to be computed again
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        assert len(ctx.saved_tensors) == 1
        work(ctx.back)
        return gradient, None, None


class Counted:
    """A profiler's event in which a second is one operation of work, so that no clock counts."""

    def __init__(self, event: Any) -> None:
        self._event = event
        self.self_cpu_time_total = 1e6 if event.name == WORK else 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._event, name)


def through_parts(x: Tensor) -> Tensor:
    """Work of 2 there and 6 back in attention; search inside of it and the layer around it have their own."""
    with part("layers"):
        y = Working.apply(x, 1, 3)
        with part("attention"):
            y = Working.apply(y, 2, 6)
            with part("search"):
                y = Working.apply(y, 4, 0)
    with part("a part of no list"):
        return Working.apply(y, 7, 8)


def counted(*, again: bool) -> dict[str, tuple[float, float]]:
    """Operations of a step by part, forward and backward."""
    x = torch.zeros(3, requires_grad=True)
    with marked(), torch.profiler.profile() as profiler:
        for _ in range(STEPS):
            with part("step"):
                if again:
                    y = torch.utils.checkpoint.checkpoint(through_parts, x, use_reentrant=False)
                else:
                    y = through_parts(x)
                with part("backward"):
                    y.sum().backward()
                work(5)
    events = [Counted(event) for event in profiler.events()]
    whole = sum(event.self_cpu_time_total for event in events) / 1e6
    found = shares(events, whole, on_device=False)
    assert sum(each.forward + each.backward for each in found) == pytest.approx(whole / STEPS)
    return {each.part: (each.forward, each.backward) for each in found}


def test_work_is_that_of_the_part_and_of_its_gradient() -> None:
    assert counted(again=False) == {
        "other layers": (1, 3), "attention": (2, 6), "search": (4, 0), "a part of no list": (7, 8), "rest": (5, 0),
    }  # fmt: skip


def test_what_is_computed_again_is_part_of_the_backward_pass() -> None:
    found = counted(again=True)
    assert found["search"] == (4, 4)
    assert found["attention"] == (2, 8)


def mark(name: str, seconds: float) -> Any:
    """A profiler's event of a part that took so long itself."""
    return SimpleNamespace(
        name=MARK + name, device_type=torch.autograd.DeviceType.CPU, self_cpu_time_total=seconds * 1e6, cpu_parent=None,
        sequence_nr=-1, fwd_thread=0, thread=1,
    )  # fmt: skip


def test_the_parts_together_are_the_whole_whatever_their_names() -> None:
    """In the order of the list, what is not on it behind, the rest at the end."""
    events = [mark("zz", 2.0), mark("head", 0.25), mark("aa", 0.25), mark("search", 0.25)]
    found = shares(events, 3.0, on_device=False)
    assert [each.part for each in found] == ["search", "head and loss", "aa", "zz", "rest"]
    assert [each.forward * STEPS for each in found] == pytest.approx([0.25, 0.25, 0.25, 2.0, 0.25])
    assert sum(each.forward + each.backward for each in found) * STEPS == pytest.approx(3.0)


def test_without_a_profile_of_ours_there_are_no_marks() -> None:
    with torch.profiler.profile() as profiler, part("attention"):
        torch.ones(1)
    assert not [event for event in profiler.events() if event.name.startswith(MARK)]


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((), id="plain"),
        pytest.param(("recompute=true", "accumulate=2"), id="again", marks=pytest.mark.hard),
    ],
)
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
    rows = [line for line in (folder / "profile.md").read_text().splitlines() if line.endswith("% |")]
    assert len(rows) == len(document["parts"])
    assert sum(float(row.split("|")[-2].strip(" %")) for row in rows) == pytest.approx(100, abs=0.05 * len(rows))
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
