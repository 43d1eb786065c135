"""The settings, corpus and folders of a run: looked up once by a command and passed on."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from memexp.config.field import AUTO
from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus
from memexp.device import describe, pick_device
from memexp.errors import UserError
from memexp.store.folder import CONFIG_FILE, Run, find_run
from memexp.store.identity import identify, run_folder, with_precision
from memexp.terminal import Remark
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
    notes: list[Remark] = field(default_factory=list)
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
    settings, note, refusal = _settled(known, pick_device(config.device))
    if refusal:
        raise UserError(refusal)
    identity = identify(settings, corpus, root)
    run = run_folder(settings, identity, root)
    if config.precision == AUTO and not _begun(run):
        other = replace(settings, precision="fp32" if settings.precision == "bf16" else "bf16")
        its_identity = with_precision(identity, other.precision)
        if _begun(its_run := run_folder(other, its_identity, root)):
            note = _said(other, "this run was begun with it")
            settings, identity, run = other, its_identity, its_run
    chosen = config if config.precision == settings.precision else replace(config, precision=settings.precision)
    return RunSpec(run, chosen, corpus, identity, root, start, [note])


def _begun(run: Run) -> bool:
    return (run.path / CONFIG_FILE).exists()


class Settled(NamedTuple):
    """Settings with the precision that they have on a device.

    Attributes:
        note: the precision, and why.
        refusal: why the device cannot train so; empty if it can.
    """

    config: TrainConfig
    note: Remark
    refusal: str = ""


def settled_here(config: TrainConfig) -> Settled:
    """The settings as this machine would train them if no run was begun; with device=cuda as if it had a GPU."""
    return _settled(config, as_asked(config))


def as_asked(config: TrainConfig) -> torch.device:
    """The device that the settings ask for, which this machine may lack: the run may be for another one."""
    return torch.device("cuda") if config.device == "cuda" else pick_device(config.device)


def _settled(config: TrainConfig, device: torch.device) -> Settled:
    chosen, reason = config, ""
    if config.precision == AUTO:
        precision, reason = pays_here(device)
        chosen = replace(config, precision=precision)
    refusal = ""
    if config.tf32 and not has_tf32(device):  # the run would be said to be what it is not
        refusal = (
            f"tf32 is true, but {describe(device, asked='cpu').name} has no TF32; expected an NVIDIA GPU of compute capability "
            "8.0 (A100) or newer, or tf32=false"
        )
    return Settled(chosen, _said(chosen, reason), refusal)


def _said(config: TrainConfig, reason: str) -> Remark:
    rounded = ", and TF32 for products left in fp32" if config.precision == "bf16" else ", rounded to TF32 in layers"
    because = f", because {reason}" if reason else ""
    return Remark(f"precision: {config.precision}{rounded * config.tf32}{because}", warns=False)
