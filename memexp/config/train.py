"""The settings of `memexp train`."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from memexp.config.arch.base import Arch
from memexp.config.field import AUTO, MOST_DEVICES, MOST_JOBS, MOST_THREADS, changed, group, setting
from memexp.config.groups import LAUNCHERS, Data, Optim, Scoring, Size, Slurm, Tracker, cutoffs_in_force


@dataclass
class Command:
    """The settings of every command."""

    root: str | None = setting(
        None,
        "folder that contains data/ and results/; default: the checkout, or without one the working directory",
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
    mem: int = setting(
        0, "size of the memory; its unit and default depend on the architecture (table below)", unit="slots", low=0
    )
    largest_mem: int = setting(
        0,
        "memory for which size=small chooses the number of steps and the lengths of crops and scored documents; default: mem, and in "
        "a sweep the largest mem of its jobs, so that all of them read and score the same",
        unit="slots",
        low=0,
        effect="nothing",
    )
    segment: int = setting(512, "tokens of each lane in one forward pass", unit="tokens", low=1)
    lanes: int = setting(
        8, "rows of a batch: documents that are read in parallel, each with a state of its own", unit="lanes", low=1
    )
    accumulate: int = setting(1, "consecutive segments per optimizer step", unit="segments", low=1)
    bptt_segments: int = setting(
        0, "largest number of segment borders that a gradient crosses (truncated BPTT)", unit="segments", low=0
    )
    steps: int = setting(
        1000,
        "optimizer steps; 0 with optim.train=none, or with init_from=RUN to score its weights as they are",
        unit="steps",
        low=0,
    )
    seed: int = setting(0, "random seed of the weights, the order of documents, crops and dropout", low=0)
    recompute: bool = setting(
        False,
        "gradient checkpointing: compute segments again in the backward pass instead of keeping their activations; less "
        "memory, same gradients",
        effect="speed",
    )
    precision: str = setting(
        "auto",
        "precision of the forward and backward pass; weights stay in fp32. auto: that of the run, if it was begun; else bf16 on a "
        "GPU that has instructions for it, and fp32 elsewhere",
        choices=(AUTO, "fp32", "bf16"),
    )
    tf32: bool = setting(
        False,
        "what the layers multiply in fp32 may be rounded to TF32, on a GPU that has it; a search is never rounded. precision=bf16 "
        "is faster still, so that fp32 is what its name says unless this is asked for",
        later=True,
    )
    compile: str = setting(
        "auto",
        "compile the layers with torch.compile; results are equal up to rounding. auto: on a GPU, if shapes do not change from "
        "step to step. It does not pay on a CPU in fp32",
        choices=(AUTO, "true", "false"),
        effect="speed",
    )
    device: str = setting("auto", "auto: CUDA if there is a GPU", choices=("auto", "cpu", "cuda"), effect="speed")
    devices: int = setting(
        0,
        "devices of each machine that share the lanes, a process each; 0: one, or as many as torchrun or srun has started processes",
        unit="devices",
        low=0,
        high=MOST_DEVICES,
        effect="speed",
    )
    nodes: int = setting(1, "machines with so many devices each", unit="nodes", low=1, effect="speed")
    shard_weights: bool = setting(
        False,
        "share out weights, gradients and the optimizer's averages over the devices as well (FSDP2), for models that one device "
        "does not hold",
        effect="speed",
    )
    threads: int = setting(
        0,
        "CPU threads of each process; 0: torch decides, or in a sweep each job gets an equal share of the cores",
        unit="threads",
        low=0,
        high=MOST_THREADS,
        effect="speed",
    )
    init_from: str | None = setting(None, "run whose final weights training starts from", unit="run")
    tag: str = setting("", "a label to find runs by; not part of a run's identity", effect="nothing")
    log_every: int = setting(10, "steps between lines of metrics.jsonl", unit="steps", low=1, effect="nothing")
    checkpoint_every: int = setting(500, "steps between checkpoints", unit="steps", low=1, effect="nothing")
    checkpoint_memory: bool = setting(
        True,
        "checkpoints hold the memory. false: they are smaller by it, which may be most of them; but a run that is resumed begins with "
        "an empty memory, so its result is not that of a run that was never stopped. Its summary says how often (memory_restarts)",
        later=True,
    )
    validate_every: int = setting(
        0, "steps between scores on the validation split; 0: never", unit="steps", low=0, effect="nothing"
    )
    profile: bool = setting(
        False,
        "run only a few steps under the profiler, write the profile to results/profiles/RUN, and keep no weights",
        effect="nothing",
    )
    dry_run: bool = setting(False, "print the plan and train nothing; also --dry-run", effect="nothing")
    jobs: int = setting(
        1, "jobs of a sweep that train at the same time", unit="jobs", low=1, high=MOST_JOBS, effect="nothing"
    )
    launcher: str = setting(
        "local",
        "what starts the jobs of a sweep: local: this machine; slurm: a cluster, each run a job, all in the queue at once",
        choices=LAUNCHERS,
        effect="nothing",
    )
    slurm: Slurm = group(Slurm, effect="nothing")
    skip_refused: bool = setting(
        False, "leave out the jobs of a sweep whose settings are refused, instead of stopping", effect="nothing"
    )

    def __post_init__(self) -> None:
        self.compile = str(self.compile).lower()  # YAML and Hydra read true as a truth value, also in older runs

    @property
    def tokens(self) -> int:
        """Tokens that training reads, padding included."""
        return self.steps * self.accumulate * self.segment * self.lanes

    @property
    def cutoffs(self) -> list[int]:
        """The cutoffs of adaptive softmax that are in force."""
        return cutoffs_in_force(self.size.cutoffs, tokenizer=self.data.tokenizer.kind)


NOT_OF_THE_RESULT = tuple(item.name for item in fields(TrainConfig) if item.metadata["effect"] != "result")
"""Settings and groups of `train` that do not change the weights."""


def departures(config: Any, where: str = "") -> list[str]:
    """The settings that depart from the papers, written as `arch.key_smear=true`."""
    departing = []
    for item in fields(config):
        name, value = f"{where}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            departing += departures(value, f"{name}.")
        elif item.metadata.get("departure") and changed(config, item.name):
            departing.append(f"{name}={str(value).lower()}")
    return departing
