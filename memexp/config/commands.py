"""Every setting of every command: its type, default, help, unit and range, in one place and without torch.

The dataclasses are Hydra's schemas, so an unknown key or a wrong type is refused when a configuration is composed;
`conf/` adds values to them, never keys. What types cannot say is refused by `memexp.config.checks`. Lengths are in tokens unless
a unit says otherwise.
"""

from dataclasses import dataclass, field

from memexp.config.field import AS_TYPED, UNSET, setting
from memexp.config.groups import Data, Rescoring, Scored
from memexp.config.train import Command, TrainConfig

# ---------------------------------------------------------------------------------------------- groups


# -------------------------------------------------------------------------------------------- commands


@dataclass
class PrepareConfig(Command):
    """memexp prepare: turn a corpus into tokens."""

    data: Data = field(default_factory=Data)
    force: bool = setting(False, "prepare again even if it is there")


@dataclass
class DataConfig(Command):
    """memexp data: list corpora, or look into one."""

    what: str = setting("list", "list: all corpora; inspect: one of them", choices=("list", "inspect"))
    data: Data = field(default_factory=Data)
    page: bool = setting(
        False, "list: bring the table in data/README.md up to date with what is prepared here as it is configured"
    )
    split: str = setting("train", "documents to look into", choices=("train", "valid", "test"))
    ngram: int = setting(8, "length of the n-grams that are looked for in a document's past", unit="tokens", low=1)
    sample: int = setting(
        8 << 20, "how much of a split is searched for them, in whole documents; 0: all", unit="tokens", low=0
    )
    out: str | None = setting(
        None, "folder for the plot and the numbers; default: results/data/ and the corpus's folder", unit="path"
    )


@dataclass
class EvalConfig(Command):
    """memexp eval RUN: score documents with a trained model, with its memory changed if asked."""

    run: str = setting(UNSET, "run folder, or the start of its name", unit="run")
    eval: Rescoring = field(default_factory=Rescoring)
    mem: int | None = setting(None, "another size of the memory than the run's", unit="slots", low=0)
    memory: str = setting(
        "on",
        "off: always as at a document's start (empty, or if it is learned its initial value); foreign: that of another "
        "document, as full as one's own",
        choices=("on", "off", "foreign"),
    )
    retrieved: int = setting(
        0,
        "places to keep for every token, those of its memory that it read most, for the page of `memexp diff`",
        unit="places",
        low=0,
        high=64,
    )
    device: str = setting("auto", "auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads; 0 leaves the choice to torch", unit="threads", low=0)
    force: bool = setting(False, "score again even if it was done")


@dataclass
class GenerateConfig(Command):
    """memexp generate RUN: continue a prompt with a trained model, its memory carried on."""

    run: str = setting(UNSET, "run folder, or the start of its name", unit="run")
    prompt: str = setting("", "text to continue; taken as it is typed", unit=AS_TYPED)
    prompt_file: str | None = setting(None, "file whose text to continue instead, UTF-8", unit="path")
    tokens: int = setting(200, "length of the continuation", unit="tokens", low=1)
    samples: int = setting(1, "continuations of the same prompt, drawn side by side", unit="lanes", low=1)
    temperature: float = setting(1.0, "below 1 likely tokens become likelier; 0 takes the likeliest", low=0.0)
    top_k: int = setting(0, "draw from that many of the likeliest tokens; 0: from all", unit="entries", low=0)
    top_p: float = setting(
        1.0, "draw from the likeliest that together have this probability, one at least", low=0.0, high=1.0
    )
    seed: int = setting(0, "of what is drawn", low=0)
    mem: int | None = setting(None, "another size of the memory than the run's", unit="slots", low=0)
    memory: str = setting(
        "on",
        "off: always as at a document's start (empty, or if it is learned its initial value)",
        choices=("on", "off"),
    )
    device: str = setting("auto", "auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads; 0 leaves the choice to torch", unit="threads", low=0)


SCALES = ("paper", "small")


@dataclass
class TableConfig(Command):
    """memexp table [RUN ...]: compare runs, or a paper's table with ours."""

    runs: list[str] = setting(
        [], "starts of run names, or one experiment, as in memorizing/table4; empty: all runs", unit="runs"
    )
    scale: str = setting("small", "of an experiment", choices=SCALES)
    corpora: list[str] = setting([], "of an experiment only the columns of this data, NAME,NAME; empty: all")
    tag: str | None = setting(None, "only runs of this tag")
    baseline: str | None = setting(None, "start of a row's label that differences are taken to; default: the first row")
    metric: str = setting(
        "perplexity",
        "what the cells show, but for an experiment, which has its own; accuracy and exact_match are of answers, f1 and "
        "f1_macro of classes",
        choices=(
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
    by: str = setting("", "a slice of the answers, such as length: a column for each of its values")
    gauges: list[str] = setting([], "gauges to show, averaged over the segments that were read")
    eval: Scored = field(default_factory=Scored)
    out: str | None = setting(
        None,
        "folder for runs.md, runs.csv and runs.tex (named by the tag if one is given); default: results/tables",
        unit="path",
    )


@dataclass
class OfAnExperiment(Command):
    """What the commands about an experiment share."""

    table: str = setting(UNSET, "an experiment, as in memorizing/table4", unit="experiment")
    scale: str = setting("small", "the paper's, or one for two cores", choices=SCALES)
    corpora: list[str] = setting([], "only the columns of this data, NAME,NAME; empty: all")


@dataclass
class ReproduceConfig(OfAnExperiment):
    """memexp reproduce NAME: train and score what a paper's table lacks, then show it."""

    seeds: list[int] = setting([], "empty: as the experiment says", low=0)
    budget: str | None = setting(
        None, "time after which runs save and end, as in 90m or 2h; the same command goes on", unit=AS_TYPED
    )
    close: bool = setting(False, "and then one more seed of the rows that the paper tells apart and these seeds do not")
    jobs: int = setting(2, "runs that train at a time", unit="jobs", low=1)
    launcher: str = setting(
        "local",
        "who runs them: this machine, or a launcher of Hydra's, such as submitit_slurm, with a job each, `jobs` at a time; those go on "
        "when this command is stopped",
    )
    dry_run: bool = setting(False, "print the cells and their commands, and train nothing; also --dry-run")


@dataclass
class PlanConfig(OfAnExperiment):
    """memexp plan NAME: what the runs of a paper's table cost on named hardware, by arithmetic."""

    scale: str = setting("paper", "the paper's, or one for two cores", choices=SCALES)
    hardware: str = setting("h100", "of each device", choices=("h100", "a100", "tpu-v3-core", "tpu-v4"))
    devices: int = setting(8, "that share the lanes of a run", unit="devices", low=1)
    utilisation: float = setting(0.4, "share of the hardware's peak that is reached", low=0.01, high=1.0)


@dataclass
class DiffConfig(Command):
    """memexp diff RUN_A RUN_B: which tokens gain when going from A to B."""

    a: str = setting(UNSET, "run, or RUN@mem or RUN@mem-memory for one of its scores", unit="run")
    b: str = setting(UNSET, "the other one; both must have scored the same tokens", unit="run")
    tag: str | None = setting(None, "look for them among the runs of this tag only")
    eval: Scored = field(default_factory=Scored)
    top: int = setting(10, "tokens to show at each end", unit="tokens", low=1)
    out: str | None = setting(
        None, "folder for the page, the CSV, the plot and the summary; default: results/diffs/A~B", unit="path"
    )


@dataclass
class ReportConfig(Command):
    """memexp report: write all tables, differences, figures and records as one page."""

    local: bool = setting(
        True, "also what stays out of git, for which the page's links lead nowhere in another checkout"
    )
    out: str | None = setting(None, "the page; default: results/index.html", unit="path")


@dataclass
class RunsConfig(Command):
    """memexp runs: list runs with state, progress and final numbers."""

    tag: str | None = setting(None, "only runs of this tag")


BENCHES = ("search", "curve", "write", "step", "evaluation", "archs", "memory", "startup", "peers")


@dataclass
class BenchConfig(Command):
    """memexp bench: measure search, step and memory against their floors."""

    what: list[str] = setting([], "which benches; empty: all but peers, half an hour", choices=BENCHES)
    repeats: int = setting(5, "rounds; every round times each side once, in turn", unit="rounds", low=1)
    slots: int = setting(
        65536, "size of the larger memory; the smaller one is an eighth, the largest four times", unit="pairs", low=256
    )
    threads: int = setting(1, "CPU threads; 0 leaves the choice to torch", unit="threads", low=0)
    plan: bool = setting(
        False, "measure nothing: what a memory of the largest size takes on one accelerator, by arithmetic; also --plan"
    )
    lanes: int = setting(32, "of that plan", unit="lanes", low=1)
    card: float = setting(80.0, "memory of the accelerator of that plan, in GB", low=1)

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
