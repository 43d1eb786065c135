"""Where metrics go besides the run folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memexp.errors import UserError

from ..messages import says
from ..tiny import TINY
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
    said = [line for line in done.stdout.splitlines() if line.startswith("wandb cannot be reached")]
    assert len(said) == 1
    assert str(work / "keyed" / "wandb") in said[0]
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
    told = [line for line in capsys.readouterr().out.splitlines() if "tensorboard failed" in line]
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
