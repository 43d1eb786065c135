"""Every setting of every command: its type, default, help, unit and range, in one place and without torch.

The dataclasses are Hydra's schemas, so Hydra refuses unknown keys and wrong types when it composes a configuration.
`conf/` adds values to them, never keys. `memexp.config.checks` refuses what types cannot express. Lengths are in tokens
unless the unit says otherwise.
"""

from dataclasses import dataclass, field

from memexp.config.field import AS_TYPED, AUTO, MOST_DEVICES, MOST_JOBS, MOST_THREADS, UNSET, setting
from memexp.config.groups import LAUNCHERS, Data, Rescoring, Scored, Slurm
from memexp.config.train import Command, TrainConfig


@dataclass
class PrepareConfig(Command):
    """memexp prepare: turn a corpus into tokens."""

    data: Data = field(default_factory=Data)
    force: bool = setting(False, "prepare the corpus again even if it is prepared already")


@dataclass
class DataConfig(Command):
    """memexp data: list all corpora, or inspect one corpus."""

    what: str = setting("list", "list all corpora, or inspect one corpus", choices=("list", "inspect"))
    data: Data = field(default_factory=Data)
    page: bool = setting(
        False,
        "list: update the table in data/README.md with the corpora that are prepared here with the settings in conf/data",
    )
    split: str = setting("train", "inspect: split to read", choices=("train", "valid", "test"))
    ngram: int = setting(
        8,
        "inspect: length of the n-grams that are searched for earlier in the document",
        unit="tokens",
        low=1,
        high=1024,
    )
    sample: int = setting(
        8 << 20, "inspect: how much of the split is searched, in whole documents; 0: all", unit="tokens", low=0
    )
    out: str | None = setting(
        None, "inspect: write the plot and the numbers into this folder; default: write nothing", unit="path"
    )


@dataclass
class EvalConfig(Command):
    """memexp eval RUN: score documents with a trained model, with its memory changed if asked."""

    run: str = setting(UNSET, "a run's folder, or the start of its name", unit="run")
    eval: Rescoring = field(default_factory=Rescoring)
    mem: int | None = setting(None, "size of the memory, if it differs from the run's", unit="slots", low=0)
    memory: str = setting(
        "on",
        "off: every segment reads the memory of a document's start (empty, or its learned initial value); foreign: the memory "
        "of another document, filled to the same degree",
        choices=("on", "off", "foreign"),
    )
    retrieved: int = setting(
        0,
        "for every token, keep the positions with the largest attention weights among those it retrieved, this many; the page "
        "of `memexp diff` shows them",
        unit="positions",
        low=0,
        high=64,
    )
    device: str = setting("auto", "auto: CUDA if there is a GPU", choices=("auto", "cpu", "cuda"))
    devices: int = setting(
        0,
        "devices of each machine that share the documents, a process each; 0: one, or as many as torchrun or srun has started processes",
        unit="devices",
        low=0,
        high=MOST_DEVICES,
    )
    nodes: int = setting(1, "machines with so many devices each", unit="nodes", low=1)
    threads: int = setting(0, "CPU threads of each process; 0: torch decides", unit="threads", low=0, high=MOST_THREADS)
    launcher: str = setting("local", "what scores: local: this machine; slurm: a cluster, as a job", choices=LAUNCHERS)
    slurm: Slurm = field(default_factory=Slurm)
    force: bool = setting(False, "score again even if this score exists already")


@dataclass
class GenerateConfig(Command):
    """memexp generate RUN: continue a prompt with a trained model, which keeps its memory of the text."""

    run: str = setting(UNSET, "a run's folder, or the start of its name", unit="run")
    prompt: str = setting("", "text to continue, taken literally", unit=AS_TYPED, empty=True)
    prompt_file: str | None = setting(None, "file with the text to continue, in UTF-8; instead of prompt", unit="path")
    tokens: int = setting(200, "length of the continuation", unit="tokens", low=1)
    samples: int = setting(1, "continuations of the same prompt, sampled in parallel", unit="lanes", low=1, high=10_000)
    temperature: float = setting(
        1.0, "sampling temperature; below 1 likely tokens become more likely, 0 takes the most likely token", low=0.0
    )
    top_k: int = setting(
        0, "sample only from the most likely tokens, this many; 0: from all tokens", unit="entries", low=0
    )
    top_p: float = setting(
        1.0,
        "nucleus sampling: sample only from the most likely tokens whose probabilities sum to this value",
        low=0.0,
        high=1.0,
    )
    seed: int = setting(0, "random seed of sampling", low=0)
    mem: int | None = setting(None, "size of the memory, if it differs from the run's", unit="slots", low=0)
    memory: str = setting(
        "on",
        "off: every segment reads the memory of a document's start (empty, or its learned initial value)",
        choices=("on", "off"),
    )
    device: str = setting("auto", "auto: CUDA if there is a GPU", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads; 0: torch decides", unit="threads", low=0, high=MOST_THREADS)


SCALES = ("paper", "small")

OTHER_CHECKPOINT = (
    "of an experiment with a published checkpoint: a folder, or a name on the hub, in the place of the experiment's own"
)


@dataclass
class TableConfig(Command):
    """memexp table [RUN ...]: compare runs, or compare a paper's table with ours."""

    runs: list[str] = setting(
        [],
        "starts of run names, or the name of an experiment such as memorizing/table4; all: how far every paper's table is; empty: all runs",
        unit="runs",
    )
    scale: str = setting("small", "scale of the experiment: the paper's, or one for two CPU cores", choices=SCALES)
    corpora: list[str] = setting(
        [],
        "only the runs, or the columns of an experiment, of these corpora, NAME,NAME; of an experiment also columns by their names; empty: all",
    )
    checkpoint: str | None = setting(None, OTHER_CHECKPOINT, unit="path")
    tag: str | None = setting(None, "only runs with this tag")
    baseline: str | None = setting(
        None,
        "the row to which all differences are shown, given by the start of its label; default: of each text that was scored, size and "
        "amount of training the row without a memory",
    )
    metric: str = setting(
        AUTO,
        "metric in the cells; auto: exact_match with by=PROPERTY of answers, else perplexity; accuracy and exact_match rate answers, f1 "
        "and f1_macro rate classes. An experiment defines its own metric",
        choices=(
            AUTO,
            "perplexity",
            "nats",
            "bits_per_token",
            "bits_per_byte",
            "bits_per_character",
            "accuracy",
            "exact_match",
            "f1",
            "f1_macro",
        ),
    )
    by: str = setting(
        "",
        "a property of the answers, such as length; the table has a column for each of its values. position: how far a token is from its "
        "document's start, with metric=nats, perplexity or bits_per_token; with out=DIR also a plot",
    )
    gauges: list[str] = setting([], "gauges to show, each a mean over segments")
    eval: Scored = field(default_factory=Scored)
    out: str | None = setting(
        None,
        "write the table into this folder, as runs.md, runs.csv and runs.tex (with a tag, its name instead of runs; an experiment as "
        "SCALE.md and so on, also .html, with another checkpoint as SCALE-CHECKPOINT.md); default: write nothing",
        unit="path",
    )


@dataclass
class OfAnExperiment(Command):
    """Settings that the commands about an experiment share."""

    table: str = setting(UNSET, "the name of an experiment, such as memorizing/table4", unit="experiment")
    scale: str = setting("small", "scale of the experiment: the paper's, or one for two CPU cores", choices=SCALES)
    corpora: list[str] = setting([], "only the columns of these corpora or of these names, NAME,NAME; empty: all")
    checkpoint: str | None = setting(None, OTHER_CHECKPOINT, unit="path")


@dataclass
class ReproduceConfig(OfAnExperiment):
    """memexp reproduce NAME: train and score the missing cells of a paper's table, then show the table."""

    table: str = setting(
        UNSET,
        "the name of an experiment, such as memorizing/table4; or all: first the tables in which training decides the most pairs of rows "
        "for each token",
        unit="experiment",
    )
    seeds: list[int] = setting([], "random seeds to train with; empty: the experiment's", low=0)
    budget: str | None = setting(
        None,
        "time after which runs save a checkpoint and stop, such as 90m or 2h; the same command continues them",
        unit=AS_TYPED,
    )
    close: bool = setting(
        False, "then add a seed to the rows that differ in the paper but not significantly in our runs"
    )
    jobs: int = setting(2, "runs that train at the same time", unit="jobs", low=1, high=MOST_JOBS)
    launcher: str = setting(
        "local",
        "what starts the runs: local: this machine; slurm: a cluster, each run a job, all that are ready in the queue at once; or a "
        "launcher of Hydra",
    )
    slurm: Slurm = field(default_factory=Slurm)
    devices: int = setting(
        0, "devices of each machine that share a run, a process each; 0: one", unit="devices", low=0, high=MOST_DEVICES
    )
    nodes: int = setting(1, "machines with so many devices each, with launcher=slurm", unit="nodes", low=1)
    dry_run: bool = setting(False, "print the cells and their commands, and train nothing; also --dry-run")


@dataclass
class PlanConfig(OfAnExperiment):
    """memexp plan NAME: estimate what the runs of a paper's table cost on given hardware."""

    scale: str = setting("paper", "scale of the experiment: the paper's, or one for two CPU cores", choices=SCALES)
    hardware: str = setting(
        "h100",
        "type of each device",
        choices=("h100", "h200", "b200", "a100", "rtx-3090", "rtx-4090", "rtx-5090", "tpu-v3-core", "tpu-v4"),
    )
    devices: int = setting(
        1,
        "devices that share the lanes of a run, as train devices=N does",
        unit="devices",
        low=1,
    )
    shard_weights: bool = setting(
        False,
        "the devices share out the weights as well, as train shard_weights=true does",
    )
    jobs: int = setting(
        1,
        "runs at the same time, each on devices of its own, as train -m jobs=N does",
        unit="runs",
        low=1,
        high=MOST_JOBS,
    )
    utilisation: float = setting(0.4, "fraction of the hardware's peak FLOP/s that is reached", low=0.01, high=1.0)


@dataclass
class DiffConfig(Command):
    """memexp diff RUN_A RUN_B: show which tokens have a lower loss in B than in A, and which a higher loss."""

    a: str = setting(UNSET, "a run; RUN@mem or RUN@mem-memory names one of its scores", unit="run")
    b: str = setting(UNSET, "another run or score, of the same tokens", unit="run")
    tag: str | None = setting(None, "search only the runs with this tag")
    eval: Scored = field(default_factory=Scored)
    top: int = setting(
        10, "tokens to show with the largest gains, and as many with the largest losses", unit="tokens", low=1
    )
    out: str | None = setting(
        None, "write the page, the CSV, the plot and the summary into this folder; default: write nothing", unit="path"
    )


@dataclass
class ReportConfig(Command):
    """memexp report: write all tables, differences, figures and records as pages that link to each other."""

    local: bool = setting(
        True, "include files that are not in git; links of the pages to them do not work in another checkout"
    )
    out: str | None = setting(
        None, "the start page; the others go into a folder beside it; default: results/index.html", unit="path"
    )


@dataclass
class RunsConfig(Command):
    """memexp runs: list runs with state, progress and final numbers."""

    tag: str | None = setting(None, "only runs with this tag")


BENCHES = (
    "search", "curve", "write", "step", "evaluation", "archs", "memory", "startup", "peers", "checkpoint", "gpu", "devices",
)  # fmt: skip
GPU_CHECKS = (
    "rates", "archs", "search", "step", "checkpoint", "bias", "waits", "generation", "evaluation", "jobs",
)  # fmt: skip


@dataclass
class BenchConfig(Command):
    """memexp bench: measure search, step and memory against their floors."""

    what: list[str] = setting(
        [],
        "benchmarks to run; empty: all except peers, checkpoint, gpu and devices, about half an hour",
        choices=BENCHES,
    )
    repeats: int = setting(5, "rounds; each round measures every variant once, in turn", unit="rounds", low=1)
    slots: int = setting(
        65536,
        "size of the larger memory; the smaller memory has an eighth of it, the largest four times as many pairs",
        unit="pairs",
        low=256,
    )
    threads: int = setting(1, "CPU threads; 0: torch decides", unit="threads", low=0, high=MOST_THREADS)
    checkpoint: str | None = setting(
        None, "checkpoint: a folder, or a name on the hub, of which memories are compared", unit="path"
    )
    only: list[str] = setting([], "gpu: checks to run, [NAME,NAME]; empty: all", choices=GPU_CHECKS)
    minutes: float = setting(
        11.0, "gpu: time after which no check goes on; those that are left out are named", unit="minutes", low=0.1
    )
    plan: bool = setting(
        False,
        "measure nothing; print an estimate of what the largest memory needs on an accelerator; also --plan",
    )
    lanes: int = setting(32, "plan: lanes of the run", unit="lanes", low=1)
    card: float = setting(80.0, "plan: memory of the accelerator, in GB", low=1)

    @property
    def smaller(self) -> int:
        """Pairs of the smaller memory."""
        return self.slots // 8

    @property
    def largest(self) -> int:
        """Pairs of the largest memory."""
        return self.slots * 4


COMMANDS: dict[str, type[Command]] = {
    "prepare": PrepareConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "reproduce": ReproduceConfig,
    "plan": PlanConfig,
    "generate": GenerateConfig,
    "table": TableConfig,
    "diff": DiffConfig,
    "report": ReportConfig,
    "runs": RunsConfig,
    "bench": BenchConfig,
}
