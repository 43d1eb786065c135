"""The settings, corpus and folders of a run: looked up once by a command and passed on."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memexp.config.field import AUTO
from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus
from memexp.device import describe, pick_device
from memexp.errors import UserError
from memexp.store.folder import Run, find_run
from memexp.store.identity import identify, run_folder, with_precision
from memexp.train.precision import has_tf32, pays_here


@dataclass(frozen=True)
class RunSpec:
    """A run and everything that it depends on."""

    run: Run
    config: TrainConfig
    corpus: Corpus
    """With classes, if the task needs them."""
    identity: dict[str, Any]
    """Everything that determines the result, with its hash under "hash"."""
    root: Path
    """The folder that holds data/ and results/."""
    start: Run | None = None
    """The run whose final weights are the initial weights; set only for training."""
    notes: list[str] = field(default_factory=list)
    """What was chosen for settings that the device decides, and why."""

    @property
    def hash(self) -> str:
        """The hash of the identity."""
        return str(self.identity["hash"])


def specify(config: TrainConfig, corpus: Corpus, root: Path) -> RunSpec:
    """The spec of the run that these settings train on this corpus.

    With `precision=auto`, a run that was begun with either precision is continued, so that another device does not begin
    another run. Only if there is none does the device decide.

    Raises:
        UserError: `init_from` names no run, or one whose identity is damaged; or the device has no TF32, which is asked for.
    """
    start, known = None, config
    if config.init_from is not None:
        start = find_run(root, config.init_from)
        known = replace(config, init_from=str(start.path))  # by its folder, so that it is not searched for again
    settings, note = settled(known)
    identity = identify(settings, corpus, root)
    run = run_folder(settings, identity, root)
    if config.precision == AUTO and not _begun(run):
        other = replace(settings, precision="fp32" if settings.precision == "bf16" else "bf16")
        its_identity = with_precision(identity, other.precision)
        if _begun(its_run := run_folder(other, its_identity, root)):
            note = _said(other, "this run was begun with it")
            settings, identity, run = other, its_identity, its_run
    chosen = replace(config, precision=settings.precision)
    return RunSpec(run, chosen, corpus, identity, root, start, [note])


def _begun(run: Run) -> bool:
    return (run.path / "config.yaml").exists()


def settled(config: TrainConfig) -> tuple[TrainConfig, str]:
    """The settings with the precision that they have on this device, and a line that says why.

    Raises:
        UserError: the device has no TF32, which is asked for.
    """
    _refuse_without_tf32(config)
    if config.precision != AUTO:
        return config, _said(config, "")
    precision, reason = pays_here(pick_device(config.device))
    chosen = replace(config, precision=precision)
    return chosen, _said(chosen, reason)


def _refuse_without_tf32(config: TrainConfig) -> None:
    """Refuse to train in TF32 on a device that cannot: the run would be said to be what it is not.

    Raises:
        UserError: says what the device is.
    """
    if config.tf32 and not has_tf32(device := pick_device(config.device)):
        raise UserError(
            f"tf32 is true, but {describe(device, asked='cpu').name} has no TF32; expected an NVIDIA GPU of compute capability "
            "8.0 (A100) or newer, or tf32=false"
        )


def _said(config: TrainConfig, reason: str) -> str:
    with_tf32 = (
        ", and TF32 for products that are left in fp32" if config.precision == "bf16" else ", in layers rounded to TF32"
    )
    return f"precision: {config.precision}{with_tf32 * config.tf32}{f', because {reason}' if reason else ''}"
