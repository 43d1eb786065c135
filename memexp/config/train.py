"""The settings of `memexp train`."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from memexp.config.arch import Arch
from memexp.config.field import default_of, group, setting
from memexp.config.groups import Data, Optim, Scoring, Size, Tracker, cutoffs_in_force


@dataclass
class Command:
    """What every command has."""

    root: str | None = setting(
        None,
        "folder that holds data/ and results/; default: the checkout, else the working directory",
        unit="path",
        effect="nothing",
    )


@dataclass
class TrainConfig(Command):
    """memexp train: train a model, then score held-out documents."""

    arch: Arch = group(Arch)
    data: Data = group(Data)
    size: Size = group(Size)
    optim: Optim = group(Optim)
    tracker: Tracker = group(Tracker, effect="nothing")
    eval: Scoring = group(Scoring, effect="nothing")
    mem: int = setting(0, "size of the memory; its unit and default are the architecture's", unit="slots", low=0)
    segment: int = setting(512, "tokens that one forward pass sees a lane", unit="tokens", low=1)
    lanes: int = setting(8, "documents read side by side, each carrying its own state", unit="lanes", low=1)
    accumulate: int = setting(1, "consecutive segments a step", unit="segments", low=1)
    bptt_segments: int = setting(0, "segment borders that a gradient crosses at most", unit="segments", low=0)
    steps: int = setting(1000, "optimizer updates", unit="steps", low=1)
    seed: int = setting(0, "of weights, order of documents, crops and dropout", low=0)
    recompute: bool = setting(
        False,
        "compute segments again in the backward pass instead of keeping their activations: less memory, same gradients",
        effect="speed",
    )
    precision: str = setting("fp32", "of the forward and backward pass; weights stay fp32", choices=("fp32", "bf16"))
    compile: bool = setting(
        False,
        "compile the layers (torch.compile): the same results to rounding; for GPUs, on a CPU in fp32 it does not pay",
        effect="speed",
    )
    device: str = setting("auto", "auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"), effect="speed")
    threads: int = setting(
        0,
        "CPU threads; 0: torch's choice, or a job's share of the cores in a sweep",
        unit="threads",
        low=0,
        effect="speed",
    )
    init_from: str | None = setting(None, "run whose last weights to start from", unit="run")
    tag: str = setting("", "a word to find runs by; part of a run's identity in no way", effect="nothing")
    log_every: int = setting(10, "steps between lines of metrics.jsonl", unit="steps", low=1, effect="nothing")
    checkpoint_every: int = setting(500, "steps between checkpoints", unit="steps", low=1, effect="nothing")
    validate_every: int = setting(
        0, "steps between scores on the validation split; 0: never", unit="steps", low=0, effect="nothing"
    )
    profile: bool = setting(
        False,
        "train nothing that is kept: a few steps under the profiler, to results/profiles/RUN",
        effect="nothing",
    )
    dry_run: bool = setting(False, "print the plan and train nothing; also --dry-run", effect="nothing")
    jobs: int = setting(1, "jobs of a sweep that train at a time", unit="jobs", low=1, effect="nothing")
    skip_refused: bool = setting(
        False, "drop the jobs of a sweep that make no sense instead of stopping", effect="nothing"
    )

    @property
    def cutoffs(self) -> list[int]:
        """Those of the size that are in force."""
        return cutoffs_in_force(self.size.cutoffs, tokenizer=self.data.tokenizer.kind)


NOT_OF_THE_RESULT = tuple(item.name for item in fields(TrainConfig) if item.metadata["effect"] != "result")
"""Settings and groups of `train` that change no weight."""


def departures(config: Any, where: str = "") -> list[str]:
    """The settings in force that depart from the papers, as `arch.key_smear=true`."""
    found = []
    for item in fields(config):
        name, value = f"{where}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            found += departures(value, f"{name}.")
        elif item.metadata.get("departure") and value != default_of(item):
            found.append(f"{name}={str(value).lower()}")
    return found
