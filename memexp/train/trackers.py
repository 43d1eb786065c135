"""Trackers, which receive metrics besides the run folder. A tracker's package is imported only if the tracker is chosen."""

import os
import shlex
from pathlib import Path
from typing import Any, Protocol

from memexp.config.groups import Tracker
from memexp.errors import UserError
from memexp.terminal import warn

LOGIN_TIMEOUT = 15
"""Seconds to wait for Weights & Biases; if it then starts offline, the run begins within 20 seconds in all."""
FINISH_TIMEOUT = 60
"""Seconds to wait at the end of a run until all metrics are sent; `wandb sync` sends the rest later."""

OFFLINE = ("offline", "dryrun")
"""Modes of Weights & Biases that keep metrics in the run folder."""

FAILURES = (Exception, SystemExit)
"""What a tracker's package may raise. An interruption by the user is none."""


class Sink(Protocol):
    """Receives metrics while a run trains."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Receive the numbers of a step."""

    def close(self) -> None:
        """Send the remaining metrics and finish."""


class Nowhere:
    """Discards all metrics."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Forgiving:
    """Passes metrics to another sink until that fails, so that a broken tracker does not end the run."""

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink, self._name = sink, name

    def log(self, step: int, values: dict[str, float]) -> None:
        """Pass on the numbers of a step."""
        try:
            self._sink.log(step, values)
        except FAILURES as error:
            self._give_up(error)

    def close(self) -> None:
        """Send the remaining metrics and finish."""
        try:
            self._sink.close()
        except FAILURES as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._sink = Nowhere()
        warn(f"{self._name} failed ({_in_a_line(error)}) and gets no more metrics; metrics.jsonl has all of them")


class Wandb:
    """Weights & Biases: online with an API key; offline without a key or if the network fails."""

    def __init__(self, project: str, *, run: str, config: dict[str, Any], folder: Path) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        keyed = bool(os.environ.get("WANDB_API_KEY")) or _has_netrc_key()
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if keyed else "offline")
        options: dict[str, Any] = {
            "project": project, "name": run, "id": run, "resume": "allow", "config": config, "dir": str(folder),
        }  # fmt: skip
        settings = wandb.Settings(
            init_timeout=LOGIN_TIMEOUT, login_timeout=LOGIN_TIMEOUT, finish_timeout=FINISH_TIMEOUT
        )
        self._folder, why_offline = folder, "" if keyed or os.environ.get("WANDB_MODE") else "there is no API key"
        try:
            self._run = wandb.init(**options, mode=mode, settings=settings)
        except (
            wandb.errors.CommError,
            wandb.errors.AuthenticationError,
            wandb.errors.UsageError,
            TimeoutError,
        ) as error:
            mode, why_offline = "offline", f"it cannot be reached ({_in_a_line(error)})"
            wandb.teardown()  # its service still holds the run's id from the first attempt
            self._run = wandb.init(**options, mode="offline", settings=wandb.Settings(finish_timeout=FINISH_TIMEOUT))
        self._offline = mode in OFFLINE
        if why_offline:
            warn(f"tracker=wandb: {why_offline}, so this run is kept offline")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Receive the numbers of a step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Send the remaining metrics and finish."""
        self._run.finish()
        if self._offline:
            warn(f"tracker=wandb: this run was kept offline; {self._how_to_send()}")

    def _how_to_send(self) -> str:
        """The command that sends what is kept here: one folder for each time that the run was continued."""
        kept = sorted(self._folder.glob("wandb/offline-run-*")) or [self._folder / "wandb"]
        return f"`{shlex.join(['wandb', 'sync', *map(str, kept)])}` sends it"


class Tensorboard:
    """TensorBoard event files in the run folder."""

    def __init__(self, folder: Path, *, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "tracker=tensorboard needs the package tensorboard, which is not installed; "
                "expected `pip install memexp[tensorboard]`, or tracker=none"
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Receive the numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Send the remaining metrics and finish."""
        self._writer.close()


def open_tracker(tracker: Tracker, *, run: str, config: dict[str, Any], folder: Path, step: int) -> Sink:
    """The tracker in the settings, for a run that continues after `step`; if it fails to open, one that discards all metrics.

    Raises:
        UserError: its package is not installed.
    """
    try:
        if tracker.name == "wandb":
            return Forgiving(Wandb(tracker.project, run=run, config=config, folder=folder), tracker.name)
        if tracker.name == "tensorboard":
            return Forgiving(Tensorboard(folder, step=step), tracker.name)
    except UserError:
        raise
    except FAILURES as error:
        warn(
            f"tracker={tracker.name} cannot be opened ({_in_a_line(error)}) and gets no metrics; metrics.jsonl has all of them"
        )
    return Nowhere()


def _in_a_line(error: BaseException) -> str:
    """The kind of an error and the first line that it says."""
    try:
        said = " ".join(str(error).split("\n")[0].split())
    except Exception:  # an error that cannot even be printed
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _has_netrc_key() -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
