"""Where metrics go besides the run folder."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memexp.config.checks import check
from memexp.config.groups import Tracker
from memexp.errors import UserError
from memexp.train import trackers

from ..messages import says
from ..tiny import TINY, configure
from .conftest import CHECKOUT, Train

SCRIPT = """
import os, sys
from pathlib import Path
from memexp.cli.main import main
from memexp.config.groups import Tracker

assert main(["train", "steps=1", *sys.argv[1:]]) == 0
found = [name for name in sys.modules if name.partition(".")[0] in ("wandb", "tensorboard", "tensorboardX")]
assert not found, found
print("NONE IMPORTS NOTHING")

assert main(["train", "steps=2", "tracker=wandb", *sys.argv[1:]]) == 0
print("WITHOUT A KEY")

from memexp.train import trackers
os.environ["WANDB_API_KEY"] = "0" * 40
trackers.LOGIN_TIMEOUT = 2
folder = Path("keyed")
folder.mkdir()

import wandb
init, asked = wandb.init, []
def noted(**options):
    asked.append((options["mode"], options["settings"].init_timeout, options["settings"].login_timeout))
    return init(**options)
wandb.init = noted
sink = trackers.open_tracker(Tracker(name="wandb"), run="same-name", config={}, folder=folder.absolute(), step=0)
sink.log(1, {"loss": 1.0})
sink.close()
assert asked[0] == ("online", 2, 2), asked  # it waits so many seconds, and not the package's minutes
assert [mode for mode, *_ in asked] == ["online", "offline"], asked
print("WITHOUT A NETWORK")
"""


@pytest.mark.hard
def test_none_imports_nothing_and_wandb_falls_back_offline(root: Path, tmp_path: Path) -> None:
    """In one process, for wandb is slow to import and to start."""
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    # a port that nobody listens on: no test may depend on a network, nor reach anybody
    environment |= {"HOME": str(home), "PYTHONPATH": str(CHECKOUT), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, "arch=vanilla", *TINY, f"root={root}"],
        cwd=work, env=environment, text=True, capture_output=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for stage in ("NONE IMPORTS NOTHING", "WITHOUT A KEY", "WITHOUT A NETWORK"):
        assert stage in done.stdout
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: tracker=wandb: ")]
    assert ["no API key" in line for line in warned] == [True, False, False, False]
    assert ["cannot be reached" in line for line in warned] == [False, False, True, False]
    for where, began, ended in ((root / "results" / "runs", *warned[:2]), (work / "keyed", *warned[2:])):
        (kept,) = where.glob("**/wandb/offline-run-*")
        command = f"`{shlex.join(['wandb', 'sync', str(kept)])}`"
        assert command in ended
        assert command not in began  # it is told once, when all is there
    assert not [line for line in done.stderr.splitlines() if "Warning" in line]
    assert list(root.glob("results/runs/*/wandb/offline-run-*/*.wandb"))
    assert list(work.glob("keyed/wandb/offline-run-*/*.wandb"))
    assert [path.name for path in work.iterdir()] == ["keyed"]


def test_tensorboard_writes_events(run: Train) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run("arch=knn", "tracker=tensorboard", "validate_every=2", validate=lambda model: 5.5)
    events = EventAccumulator(str(done.path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("valid_nats_per_token")] == [(2, 5.5), (4, 5.5)]
    expected = [line["loss"] for line in done.metrics if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(expected)
    assert len(events.Scalars("gauges/gate")) == 4


def test_tensorboard_that_is_not_installed_is_one_line(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, check=says("tracker=tensorboard", "pip install memexp[tensorboard]", "tracker=none")):
        run("tracker=tensorboard")


@pytest.mark.parametrize("fails", ["log", "close"])
def test_a_tracker_that_fails_ends_no_run(
    fails: str, run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, {"log": "add_scalar", "close": "close"}[fails], refuse)
    done = run("tracker=tensorboard")
    assert done.summary is not None
    assert (done.path / "weights.pt").exists()
    told = [line for line in capsys.readouterr().err.splitlines() if "tensorboard failed" in line]
    assert len(told) == 1
    assert "No space left on device" in told[0]


def test_a_run_is_whole_before_its_tracker_takes_leave(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may wait for a network."""
    from torch.utils.tensorboard import SummaryWriter

    found: list[bool] = []
    monkeypatch.setattr(SummaryWriter, "close", lambda writer: found.append(whole(Path(writer.log_dir).parent)))
    run("tracker=tensorboard")
    assert found == [True]


def whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("weights.pt", "summary.json"))


class Broken:
    """A package of a tracker in which one call fails: the `at`-th of the method `fails`."""

    def __init__(self, fails: str, at: int, error: BaseException) -> None:
        self.fails, self.at, self.error, self.calls = fails, at, error, 0
        self.errors = SimpleNamespace(CommError=OSError, AuthenticationError=PermissionError, UsageError=LookupError)

    def _call(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if name == self.fails:
                self.calls += 1
                if self.calls >= self.at:
                    raise self.error
            return self

        return call

    def __getattr__(self, name: str) -> Any:
        return self._call(name)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


ERRORS = [
    OSError(28, "No space left"),
    ValueError("two\nlines"),
    SystemExit(1),
    Unprintable(),
    RuntimeError(),
    AttributeError("x"),
]
METHODS = [("wandb", name) for name in ("Settings", "init", "teardown", "log", "finish")] + [
    ("tensorboard", name) for name in ("SummaryWriter", "add_scalar", "close")
]


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(("name", "fails"), METHODS)
def test_no_failure_of_a_tracker_ends_a_run(
    name: str, fails: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every method of every tracker, at its first, second or third call, with each kind of error."""
    for error in ERRORS:
        broken = Broken(fails, at, error)
        monkeypatch.setitem(sys.modules, "wandb", broken)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=broken.SummaryWriter))  # type: ignore[arg-type]
        sink = trackers.open_tracker(Tracker(name=name), run="run", config={}, folder=tmp_path, step=0)
        for step in range(1, 5):
            sink.log(step, {"loss": 1.0})
        sink.close()
        sink.close()
        printed = capsys.readouterr()
        told = printed.err.splitlines()
        assert printed.out == ""
        assert all(line.startswith("warning: ") for line in told)
        offline = [line for line in told if "kept offline" in line]
        reached = [line for line in offline if "cannot be reached" in line]
        expected = 1 if broken.calls >= at and not (fails == "init" and reached and broken.calls == at) else 0
        assert len(told) - len(offline) == expected, (told, error)


def test_the_second_try_of_wandb_may_fail_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken("init", 1, OSError("no network")))  # type: ignore[arg-type]
    trackers.open_tracker(Tracker(name="wandb"), run="run", config={}, folder=tmp_path, step=0).log(1, {})
    (line,) = capsys.readouterr().err.splitlines()
    assert says("warning: ", "tracker=wandb cannot be opened", "no network", "metrics.jsonl")(line)


def test_a_run_goes_on_without_its_tracker(
    run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken("init", 1, ValueError("Invalid project name 'a/b'")))  # type: ignore[arg-type]
    assert run("tracker=wandb").summary is not None
    assert "warning: tracker=wandb cannot be opened (ValueError: Invalid project name 'a/b')" in capsys.readouterr().err


@pytest.mark.parametrize("project", ["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "", " ", "a\nb", "x" * 129])
def test_a_project_that_wandb_refuses_is_refused_before_training(project: str) -> None:
    config = replace(configure("arch=vanilla"), tracker=Tracker(name="wandb", project=project))
    with pytest.raises(UserError, check=says("tracker.project is ", "expected")):
        check(config)
    if project.strip() and project.isprintable():  # other text is refused in every setting
        check(replace(config, tracker=Tracker(name="none", project=project)))
    check(replace(config, tracker=Tracker(name="wandb", project="A name-of_mine.2")))
