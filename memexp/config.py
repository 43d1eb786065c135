"""Every setting of every command: its type, default, help, unit and range, in one place and without torch.

The dataclasses are Hydra's schemas, so an unknown key or a wrong type is refused when a configuration is composed;
`conf/` adds values to them, never keys. What types cannot say is refused by `memexp.checks`. Lengths are in tokens unless
a unit says otherwise.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any

UNSET = "???"
"""OmegaConf's mark of a value that must be given."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    departure: bool = False,
    of_memory: bool = False,
) -> Any:
    """A dataclass field that carries what `--help` prints and `memexp.checks` enforces.

    Args:
        default: the value, or a list or dict that is copied for every instance.
        unit: what one of it is. Values with a unit that counts tokens or slots may be written 64k (65,536).
        low, high: the closed range allowed.
        choices: the words allowed.
        departure: any value but the default departs from the papers; `departures` lists those in force.
        of_memory: without a memory there is nothing for it to change, so any value but the default is refused there.
    """
    metadata = {
        "help": help, "unit": unit, "low": low, "high": high, "choices": choices, "departure": departure,
        "of_memory": of_memory,
    }  # fmt: skip
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


SIZE_UNITS = ("tokens", "pairs", "slots", "bytes")
"""Units whose values may be written with a binary suffix: 64k = 65,536, 1m = 1,048,576."""

AS_TYPED = "text"
"""Unit of text that means nothing but its letters, whatever signs are in it."""


# ---------------------------------------------------------------------------------------------- groups


@dataclass
class Arch:
    """Group `arch`: options that every architecture has. Defaults are those of the Memorizing Transformers code."""

    _target_: str = setting(UNSET, "the model's class")
    name: str = setting(UNSET, "name of the architecture, as in arch=NAME")
    mem_unit: str = setting("", "what one unit of `mem` is, for people")
    mem_is: str = setting(
        "none",
        "what `mem` changes: nothing, the size of the state, or the number of parameters",
        choices=("none", "state", "parameters"),
    )
    position: str = setting(
        "t5",
        "positions in local attention",
        choices=("t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"),
    )
    normalise: bool = setting(True, "unit-norm queries and keys, times a learned scale a head")
    scale: float = setting(1.0, "initial value of that scale", low=0.0, departure=True)
    dropout: float = setting(0.0, "dropout on embeddings and on what each layer adds", low=0.0, high=0.99)
    key_smear: bool = setting(
        False,
        "departure: keys see a learned mix of this token and the one before, so one layer can match sequences",
        departure=True,
    )
    keys_as_queries: bool = setting(
        False,
        "departure: key projections start as copies of the query projections, so reading starts as similarity",
        departure=True,
    )


@dataclass
class XlArch(Arch):
    """Group `arch`, Transformer-XL, plain and enhanced."""


@dataclass
class PairArch(Arch):
    """Options of a memory of key-value pairs, for every architecture that has one."""

    knn_layers: list[int] = setting(
        [], "layers that read the memory, counted from 1; empty: the one three quarters up (9th of 12)"
    )
    neighbours: int = setting(
        32, "pairs that each token retrieves: its own, or with search=routed the segment's", unit="pairs", low=1
    )
    search: str = setting(
        "exact",
        "who finds them: an engine for every token by itself (auto: by size and device), or routed: one choice a head for all "
        "of a segment by coordinate descent",
        choices=("auto", "exact", "bucketed", "faiss_flat", "faiss_ivf", "faiss_hnsw", "routed"),
    )
    stored: str = setting("fp32", "precision of the stored keys and values", choices=("fp32", "bf16"))
    stored_on: str = setting(
        "device",
        "where they are: with the model, or in the host's memory, which is larger and is searched by the CPU",
        choices=("device", "host"),
    )
    combine: str = setting(
        "gate",
        "how retrieved and local values mix: a learned gate a head, or one joint softmax",
        choices=("gate", "joint"),
    )
    gate: float = setting(0.0, "initial gate before the sigmoid; 0 weighs both sides alike")
    write: str = setting(
        "all", "which pairs are stored: all that were read, or those that leave the cache", choices=("all", "leaving")
    )


@dataclass
class KnnArch(PairArch):
    """Group `arch`, kNN memory."""

    cache: int = setting(
        512, "exact keys and values of the recent past that every layer attends to", unit="tokens", low=0
    )
    knn_position: bool = setting(True, "position bias in the local attention of the layers that read the memory")


@dataclass
class CompressiveArch(Arch):
    """Group `arch`, Compressive Transformer."""

    cache: int = setting(
        512, "exact keys and values of the recent past that every layer attends to", unit="tokens", low=1
    )
    factor: int = setting(2, "tokens that leave the cache and become one compressed slot", unit="tokens", low=1)
    compress: str = setting(
        "convolution",
        "how: a convolution that learns to keep what attention reads, their mean, or the maximum of each channel",
        choices=("convolution", "mean", "max"),
        of_memory=True,
    )


@dataclass
class RmtArch(Arch):
    """Group `arch`, Recurrent Memory Transformer."""

    cache: int = setting(0, "exact keys and values of the recent past that tokens also attend to", unit="tokens", low=0)
    aux_weight: float = setting(
        0.0,
        "weight of the loss by which memory tokens predict a word of their own; the paper's is 0.01 with a cache",
        low=0.0,
        of_memory=True,
    )


@dataclass
class BlockArch(Arch):
    """Group `arch`, Block-Recurrent Transformer."""

    window: int = setting(
        512,
        "tokens that are read at once and that a token sees before itself; divides the segment",
        unit="tokens",
        low=1,
    )
    recurrent_layers: list[int] = setting(
        [], "layers with state vectors, counted from 1; empty: the one at five sixths (10th of 12)", of_memory=True
    )
    gate_kind: str = setting(
        "fixed",
        "what a gate depends on: nothing (learned, one a channel), or what was read",
        choices=("fixed", "lstm"),
        of_memory=True,
    )
    gates: str = setting(
        "skip",
        "gates of the state vectors: behind attention and behind a feed-forward layer, only behind that, or without one",
        choices=("dual", "single", "skip"),
        of_memory=True,
    )
    feedback: bool = setting(False, "every layer reads the state vectors, not the recurrent one alone", of_memory=True)
    state_dropout: float = setting(
        0.0,
        "departure: chance that a lane starts a training segment with initial state vectors",
        low=0.0,
        high=1.0,
        departure=True,
        of_memory=True,
    )
    cache_dropout: float = setting(
        0.0,
        "departure: chance that a lane starts a training segment without a cache",
        low=0.0,
        high=1.0,
        departure=True,
    )
    shared_values: bool = setting(
        False, "departure: all heads share one head of keys and values (Shazeer 2019)", departure=True
    )


@dataclass
class BlockKnnArch(BlockArch, PairArch):
    """Group `arch`, Block-Recurrent Transformer with kNN memory."""

    pairs: int = setting(8192, "pairs that the kNN memory holds a lane and head", unit="pairs", low=0)


@dataclass
class ThoughtArch(Arch):
    """Group `arch`, thought-and-memory."""

    updater_layers: int = setting(
        0,
        "layers of the network that rewrites the memory; 0: half the predictor's, as published (4 of 8)",
        unit="layers",
        low=0,
        of_memory=True,
    )
    recall: float = setting(
        0.5, "weight of the loss of recalling a segment from the memory alone; 0: none", low=0.0, of_memory=True
    )
    recall_target: str = setting(
        "tokens",
        "what is recalled: the tokens, by cross-entropy, or the predictor's own activations, by square error",
        choices=("tokens", "embeddings"),
        of_memory=True,
    )
    composition: float = setting(
        0.125,
        "weight of the square error between memories that read a segment in pieces and at once; 0: none",
        low=0.0,
        of_memory=True,
    )
    variance: float = setting(
        1.0, "weight of the loss that keeps the slots' numbers spread out; 0: none", low=0.0, of_memory=True
    )
    covariance: float = setting(
        0.04, "weight of the loss that keeps them uncorrelated; 0: none", low=0.0, of_memory=True
    )
    faithful: bool = setting(
        False, "the published code's formulas for the updater and all of its losses", of_memory=True
    )


@dataclass
class Tokenizer:
    """How text becomes tokens."""

    kind: str = setting(
        "bpe",
        "units of text; words are those between single spaces, as the algorithmic tasks write them; lines are the words of lines "
        "and their ends, the most frequent first, as of WikiText-103",
        choices=("bytes", "bpe", "unigram", "words", "lines"),
    )
    vocabulary: int = setting(1024, "entries, trained on the training split with byte fallback", unit="entries", low=2)
    path: str | None = setting(None, "a SentencePiece model to load instead of training one", unit="path")
    lossless: bool = setting(
        True,
        "every text comes back as it was, without the normaliser of a loaded model; false: with it, unknown words may become "
        "<unk>, and bytes are counted in the text that comes back",
    )


@dataclass
class Data:
    """Group `data`: a corpus."""

    name: str = setting(UNSET, "folder name of the prepared corpus, under the root's data/")
    source: dict[str, Any] = setting({}, "where documents come from: a class of memexp.data.sources and its options")
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    min_document: int = setting(0, "shorter documents are left out", unit="bytes", low=0)
    valid_documents: int = setting(8, "documents of the validation split, at least", unit="documents", low=1)
    test_documents: int = setting(8, "documents of the test split, at least", unit="documents", low=1)
    max_document: int = setting(
        0,
        "training reads one random crop of this length a visit; 0 reads whole documents, as the papers do. With "
        "task=classify only a document's first tokens are read, when it is scored too",
        unit="tokens",
        low=0,
        departure=True,
    )
    task: str = setting(
        "predict", "as in task=NAME: say what comes next, or a document's class", choices=("predict", "classify")
    )
    cut: str = setting(
        "crop",
        "what a visit to a document longer than max_document reads: a random crop, or one of the consecutive chunks it is "
        "cut into, all of which make an epoch",
        choices=("crop", "chunks"),
    )
    drop_tails: bool = setting(
        False, "training leaves out what does not fill a segment at a document's end: no padding", departure=True
    )
    answer: int = setting(0, "length of an answer that must lie in one segment; 0: none", unit="tokens", low=0)
    path: str | None = setting(None, "files to read, for the sources that take some", unit="path")


@dataclass
class Size:
    """Group `size`: the shape of the network, apart from its memory."""

    name: str = setting(UNSET, "name of the preset")
    layers: int = setting(12, "decoder layers", unit="layers", low=1)
    width: int = setting(1024, "model width", low=1)
    heads: int = setting(8, "attention heads", unit="heads", low=1)
    head_size: int = setting(128, "width of a head", low=1)
    feedforward: int = setting(4096, "hidden width of a feed-forward layer", low=1)
    rate: float = setting(3e-4, "AdamW's peak learning rate at this size", low=0.0)
    memory: int = setting(8192, "pairs that the kNN memory holds by default at this size", unit="pairs", low=0)
    routed: int = setting(512, "pairs of them that routed search keeps by default at this size", unit="pairs", low=1)
    cutoffs: list[int] = setting(
        [],
        "words before each cluster of adaptive softmax, with data.tokenizer.kind=lines; empty: one softmax over all",
        unit="entries",
    )
    narrowing: int = setting(1, "how many times narrower a further cluster's vectors are (div_val)", low=1)


@dataclass
class Optim:
    """Group `optim`: optimizer and schedule."""

    name: str = setting("adamw", "optimizer", choices=("adamw", "adafactor"))
    rate: float = setting(
        3e-4,
        "learning rate: the peak, or for rsqrt what is divided by the root of the step; Adafactor caps it at one over that root",
        low=0.0,
    )
    schedule: str = setting(
        "cosine", "how the rate falls after warm-up", choices=("cosine", "linear", "rsqrt", "constant")
    )
    warmup: int = setting(100, "steps of linear warm-up", unit="steps", low=0)
    floor: float = setting(0.05, "last rate of cosine and linear, as a share of the peak", low=0.0, high=1.0)
    betas: list[float] = setting([0.9, 0.98], "AdamW's running-average coefficients")
    weight_decay: float = setting(0.01, "decoupled weight decay of matrices; never of gates, scales and gains", low=0.0)
    gate_rate: float = setting(1.0, "learning rate of gates and scales over that of the rest", low=0.0)
    clip: float = setting(1.0, "gradients are scaled down to this norm; 0 never", low=0.0)


@dataclass
class Tracker:
    """Group `tracker`: where metrics go besides the run folder."""

    name: str = setting("none", "which one", choices=("none", "wandb", "tensorboard"))
    project: str = setting("memexp", "Weights & Biases project")


@dataclass
class Scored:
    """Which documents a score is about; what is None is as the run itself has it."""

    split: str = setting("test", "documents to score", choices=("train", "valid", "test"))
    documents: int | None = setting(
        None, "how many, the first of the split; 0: all; default: as after training", unit="documents", low=0
    )
    max_document: int | None = setting(
        None, "tokens read of each, from its start; 0: all; default: as after training", unit="tokens", low=0
    )

    def of(self, own: dict[str, Any]) -> "Scoring":
        """What this asks of a run whose settings of `eval` are `own`."""
        return Scoring(**own | {name: value for name, value in asdict(self).items() if value is not None})


@dataclass
class Scoring(Scored):
    """How documents are scored after training."""

    documents: int = setting(8, "how many, the first of the split; 0: all", unit="documents", low=0)
    max_document: int = setting(8192, "tokens read of each, from its start; 0: all", unit="tokens", low=0)
    lanes: int = setting(8, "documents read side by side; scores do not depend on it", unit="lanes", low=1)


@dataclass
class Rescoring(Scored):
    """How documents are scored by `memexp eval`."""

    lanes: int | None = setting(None, "documents read side by side; default: as after training", unit="lanes", low=1)


# -------------------------------------------------------------------------------------------- commands


@dataclass
class Command:
    """What every command has."""

    root: str | None = setting(
        None, "folder that holds data/ and results/; default: the checkout, else the working directory", unit="path"
    )


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
class TrainConfig(Command):
    """memexp train: train a model, then score held-out documents."""

    arch: Arch = field(default_factory=Arch)
    data: Data = field(default_factory=Data)
    size: Size = field(default_factory=Size)
    optim: Optim = field(default_factory=Optim)
    tracker: Tracker = field(default_factory=Tracker)
    eval: Scoring = field(default_factory=Scoring)
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
    )
    precision: str = setting("fp32", "of the forward and backward pass; weights stay fp32", choices=("fp32", "bf16"))
    compile: bool = setting(
        False,
        "compile the layers (torch.compile): the same results to rounding; for GPUs, on a CPU in fp32 it does not pay",
    )
    device: str = setting("auto", "auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"))
    threads: int = setting(
        0, "CPU threads; 0: torch's choice, or a job's share of the cores in a sweep", unit="threads", low=0
    )
    init_from: str | None = setting(None, "run whose last weights to start from", unit="run")
    tag: str = setting("", "a word to find runs by; part of a run's identity in no way")
    log_every: int = setting(10, "steps between lines of metrics.jsonl", unit="steps", low=1)
    checkpoint_every: int = setting(500, "steps between checkpoints", unit="steps", low=1)
    validate_every: int = setting(0, "steps between scores on the validation split; 0: never", unit="steps", low=0)
    profile: bool = setting(
        False, "train nothing that is kept: a few steps under the profiler, to results/profiles/RUN"
    )
    dry_run: bool = setting(False, "print the plan and train nothing; also --dry-run")
    jobs: int = setting(1, "jobs of a sweep that train at a time", unit="jobs", low=1)
    skip_refused: bool = setting(False, "drop the jobs of a sweep that make no sense instead of stopping")

    @property
    def cutoffs(self) -> list[int]:
        """Those of the size that are in force."""
        return cutoffs_in_force(self.size.cutoffs, tokenizer=self.data.tokenizer.kind)


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

ARCHS: dict[str, type[Arch]] = {
    "vanilla": Arch, "xl": XlArch, "xl_enhanced": XlArch, "compressive": CompressiveArch,
    "knn": KnnArch, "knn_routed": KnnArch, "rmt": RmtArch, "rmt_xl": RmtArch, "block": BlockArch,
    "block_knn": BlockKnnArch, "thought": ThoughtArch,
}  # fmt: skip
"""Schema of each `conf/arch` file, by the name that its defaults list gives."""

NOT_OF_THE_RESULT = (
    "root", "tracker", "device", "threads", "tag", "eval", "log_every", "checkpoint_every", "validate_every",
    "recompute", "compile", "profile", "dry_run", "jobs", "skip_refused",
)  # fmt: skip
"""Settings of `train` that change no weight, and so no run's identity."""


def cutoffs_in_force(cutoffs: list[int], *, tokenizer: str) -> list[int]:
    """Those of a size, where the tokenizer's vocabulary is in the order that adaptive softmax needs."""
    return cutoffs if tokenizer == "lines" else []


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


def default_of(item: Any) -> Any:
    """The default value of a dataclass field, `UNSET` when it has none."""
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else UNSET
