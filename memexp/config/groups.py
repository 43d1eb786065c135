"""The groups `data`, `size`, `optim` and `tracker`, and the settings of scoring."""

import re
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from memexp.config.field import AS_TYPED, MOST_LAYERS, MOST_THREADS, UNSET, group, setting
from memexp.config.sources import SourceOptions
from memexp.errors import UserError


@dataclass
class Tokenizer:
    """How text becomes tokens."""

    kind: str = setting(
        "bpe",
        "what a token is; bpe and unigram: SentencePiece's; words: words between single spaces, for algorithmic tasks; lines: "
        "words and line ends, numbered from the most frequent, as in WikiText-103",
        choices=("bytes", "bpe", "unigram", "words", "lines"),
    )
    vocabulary: int = setting(
        1024,
        "size of the vocabulary, which is trained on the training split, with byte fallback",
        unit="entries",
        low=2,
    )
    path: str | None = setting(
        None,
        "a SentencePiece model, or the tokenizer.json of a published checkpoint, to load instead of training a tokenizer",
        unit="path",
    )
    lossless: bool = setting(
        True,
        "decoding gives the original text exactly: the normaliser of a loaded model is not used; false: it is used, unknown "
        "words may become <unk>, and bytes are counted in the decoded text",
    )


@dataclass
class Data:
    """Group `data`: a corpus, and how training reads it.

    The settings that make the corpus have the effect `nothing`: a run's identity contains the corpus by its content.
    """

    name: str = setting(UNSET, "the name of the prepared corpus's folder, under the root's data/", effect="nothing")
    source: SourceOptions = group(SourceOptions, effect="nothing")
    tokenizer: Tokenizer = group(Tokenizer, effect="nothing")
    min_document: int = setting(0, "shorter documents are left out", unit="bytes", low=0, effect="nothing")
    valid_documents: int | None = setting(
        8,
        "smallest number of documents in the validation split; null, here and below: 5 % of the text for each, in whole documents if there "
        "are 40, otherwise cut from each",
        unit="documents",
        low=1,
        effect="nothing",
    )
    test_documents: int | None = setting(
        8, "smallest number of documents in the test split, or null", unit="documents", low=1, effect="nothing"
    )
    max_document: int = setting(
        0,
        "training reads only a part of this length of a longer document, chosen by data.cut; 0 reads whole documents, as the "
        "papers do. With task=classify, training and scoring read only a document's first tokens",
        unit="tokens",
        low=0,
        departure=True,
    )
    task: str = setting(
        "predict",
        "what the model predicts (as in task=NAME): the next token, or the class of a document",
        choices=("predict", "classify"),
        later=True,
    )
    cut: str = setting(
        "crop",
        "which part of a document longer than data.max_document is read: crop: a random part each time; chunks: consecutive "
        "parts, all of which are read in an epoch",
        choices=("crop", "chunks"),
        later=True,
    )
    grow_from: int = setting(
        0,
        "crops have this length at first, then twice, four times and so on, up to data.max_document; each length reads the same share "
        "of the training's tokens. 0: all crops have the last length",
        unit="tokens",
        low=0,
        departure=True,
        later=True,
    )
    drop_tails: bool = setting(
        False,
        "training leaves out the last tokens of a document that do not fill a segment, so there is no padding",
        departure=True,
        later=True,
    )
    answer: int = setting(
        0, "length of an answer that must lie in one segment; 0: no answers", unit="tokens", low=0, effect="nothing"
    )
    path: str | None = setting(None, "files to read, for a corpus that reads files", unit="path", effect="nothing")


POSITIONS = ("t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none")
"""Schemes of positions in local attention."""

PLACES = ("none", "edge")
"""Where what a memory of pairs holds stands for a query."""


@dataclass
class AttentionAtSize:
    """Defaults of attention options at a size: used where the architecture has the option and the user does not give it."""

    position: str = setting("t5", "default of arch.position at this size", choices=POSITIONS)
    scale: float = setting(1.0, "default of arch.scale at this size", low=0.0)
    key_smear: bool = setting(False, "default of arch.key_smear at this size")
    keys_as_queries: bool = setting(False, "default of arch.keys_as_queries at this size")
    normalise: bool = setting(True, "default of arch.normalise at this size")


@dataclass
class MemoryAtSize:
    """Defaults of options of caches and memories of pairs at a size, used as those of attention are."""

    sinks: int = setting(0, "default of arch.sinks at this size", unit="tokens", low=0)
    place: str = setting("none", "default of arch.place at this size", choices=PLACES)
    combine: str = setting("gate", "default of arch.combine at this size", choices=("gate", "joint"))
    gate: float = setting(0.0, "default of arch.gate at this size")
    write: str = setting("all", "default of arch.write at this size", choices=("all", "leaving"))


DEFAULTS_AT_SIZE: dict[str, type] = {"attention": AttentionAtSize, "memories": MemoryAtSize}
"""The groups within `size` that give defaults of options of `arch`."""


@dataclass
class Size:
    """Group `size`: the shape of the network, apart from its memory."""

    name: str = setting(UNSET, "name of the preset", effect="nothing")
    checkpoint: str | None = setting(
        None,
        "with size=checkpoint: a published decoder whose layers take the place of ours; a folder with config.json, tokenizer.json and "
        ".safetensors files, or a name on the hub, such as HuggingFaceTB/SmolLM2-135M",
        unit="path",
        effect="nothing",  # its content counts in a run's identity: `weights`
    )
    revision: str | None = setting(
        None, "commit or branch of a checkpoint on the hub; default: the newest", effect="nothing"
    )
    weights: str | None = setting(
        None, "filled in: SHA-256 of the config, tokenizer and weights of the checkpoint", later=True
    )
    licence: str | None = setting(None, "filled in: the licence that the checkpoint names", effect="nothing")
    layers: int = setting(12, "decoder layers", unit="layers", low=1, high=MOST_LAYERS)
    width: int = setting(1024, "hidden size of the model", low=1)
    heads: int = setting(8, "attention heads per layer", unit="heads", low=1)
    head_size: int = setting(128, "dimension of a head", low=1)
    feedforward: int = setting(4096, "inner size of a feed-forward layer", low=1)
    groups: int = setting(
        0,
        "heads of keys and values of a checkpoint, each shared by as many heads (grouped-query attention); 0: each head has its own",
        unit="heads",
        low=0,
        effect="nothing",  # it follows from the checkpoint
    )
    rate: float = setting(3e-4, "default peak learning rate of AdamW at this size", low=0.0, effect="nothing")
    scale_rate: float = setting(1.0, "default of AdamW's optim.scale_rate at this size", low=0.0, effect="nothing")
    memory: int = setting(8192, "default size of the kNN memory at this size", unit="pairs", low=0, effect="nothing")
    routed: int = setting(
        512,
        "default number of pairs that arch.search=routed chooses at this size",
        unit="pairs",
        low=1,
        effect="nothing",
    )
    attention: AttentionAtSize = group(AttentionAtSize, effect="nothing")
    memories: MemoryAtSize = group(MemoryAtSize, effect="nothing")
    cutoffs: list[int] = setting(
        [],
        "number of words before each cluster of adaptive softmax, used with data.tokenizer.kind=lines; empty: one softmax over "
        "all words",
        unit="entries",
        effect="nothing",  # cutoffs that are in force count in a run's identity; see `memexp.store.identity`
    )
    narrowing: int = setting(
        1,
        "each cluster of adaptive softmax has vectors this many times narrower than the cluster before it (Transformer-XL's "
        "div_val)",
        low=1,
        effect="nothing",
    )


@dataclass
class Optim:
    """Group `optim`: optimizer and learning-rate schedule."""

    name: str = setting("adamw", "optimizer", choices=("adamw", "adafactor"))
    rate: float = setting(
        3e-4,
        "peak learning rate; with schedule rsqrt it is divided by the square root of the step. Adafactor multiplies it by the "
        "root mean square of the weights",
        low=0.0,
    )
    schedule: str = setting(
        "cosine", "how the learning rate falls after warm-up", choices=("cosine", "linear", "rsqrt", "constant")
    )
    warmup: int = setting(100, "steps of linear warm-up", unit="steps", low=0)
    floor: float = setting(
        0.05, "final learning rate of cosine and linear, as a fraction of optim.rate", low=0.0, high=1.0
    )
    betas: list[float] = setting([0.9, 0.98], "AdamW's beta1 and beta2")
    momentum: float = setting(
        0.0,
        "Adafactor moves the weights by a running average of its updates, which keeps this share of itself at each step; 0: by "
        "the updates themselves",
        low=0.0,
        later=True,
    )
    factor_from: int = setting(
        1,
        "Adafactor keeps the squared gradients of a matrix as means of its rows and columns if both its sides are at least "
        "this long; of smaller ones it keeps all",
        low=1,
        later=True,
    )
    weight_decay: float = setting(
        0.01, "decoupled weight decay of matrices; gates, scales and gains have none", low=0.0
    )
    gate_rate: float = setting(1.0, "factor on the learning rate of gates and scales", low=0.0)
    scale_rate: float = setting(
        1.0,
        "further factor on the learning rate of the learned scales of attention (arch.normalise=true)",
        low=0.0,
        departure=True,
        later=True,
    )
    clip: float = setting(1.0, "gradients are clipped to this norm; 0: no clipping", low=0.0)
    train: str = setting(
        "all",
        "which weights of a published checkpoint training changes, besides those of its memory: all; memory: none; lora: low-rank "
        "additions to the projections of attention (Hu et al. 2021); none: no step is taken, and the checkpoint, or the run that "
        "init_from names, is scored as it is",
        choices=("all", "memory", "lora", "none"),
        later=True,
    )
    rank: int = setting(8, "rank of the additions of optim.train=lora", low=1, later=True)


@dataclass
class Tracker:
    """Group `tracker`: where metrics are written besides the run folder."""

    name: str = setting("none", "the tracker", choices=("none", "wandb", "tensorboard"))
    project: str = setting("memexp", "project in Weights & Biases")


LAUNCHERS = ("local", "slurm")
"""What can start the jobs of a sweep."""


@dataclass
class Slurm:
    """Settings `slurm`: what each job asks Slurm for, with launcher=slurm.

    sbatch also reads its own environment variables, such as SBATCH_QOS.
    """

    time: str = setting(
        "24h",
        "with launcher=slurm: how long a job may take at a time, such as 90m or 2d; five minutes before, it saves and goes into the queue "
        "again",
        unit=AS_TYPED,
    )
    partition: str | None = setting(None, "with launcher=slurm: the partition; default: Slurm's", unit=AS_TYPED)
    account: str | None = setting(None, "with launcher=slurm: who pays; default: Slurm's", unit=AS_TYPED)
    cpus: int = setting(
        4, "with launcher=slurm: processor cores of each process", unit="cores", low=1, high=MOST_THREADS
    )
    gpus: bool = setting(True, "with launcher=slurm: a GPU for each process, unless device=cpu")
    options: str = setting(
        "",
        "with launcher=slurm: other options of sbatch, such as '--constraint=a100 --mem=64G'",
        unit=AS_TYPED,
        empty=True,
    )
    setup: str = setting(
        "",
        "with launcher=slurm: a line of the shell before each job, such as 'module load cuda'",
        unit=AS_TYPED,
        empty=True,
    )

    @property
    def others(self) -> dict[str, str | bool]:
        """The other options of sbatch, by name without dashes; True for one without a value.

        Raises:
            UserError: one is not written --name or --name=value.
        """
        try:
            words = shlex.split(self.options)
        except ValueError as error:
            raise UserError(f"slurm.options is {self.options!r}; expected a quote after each quote") from error
        if wrong := [word for word in words if not re.match("--[a-z][a-z-]*(=|$)", word)]:
            raise UserError(f"slurm.options holds {wrong[0]!r}; expected options of sbatch as --name or --name=value")
        pairs = [word[2:].partition("=") for word in words]
        return {name: value if equals else True for name, equals, value in pairs}


@dataclass
class Scored:
    """The documents that a score is about; None stands for the value in the run's own settings."""

    split: str = setting("test", "split to score", choices=("train", "valid", "test"))
    documents: int | None = setting(
        None,
        "score only the first documents of the split, this many; 0: all; default: as after training",
        unit="documents",
        low=0,
    )
    max_document: int | None = setting(
        None,
        "read only the first tokens of each document, this many; 0: all; default: as after training",
        unit="tokens",
        low=0,
    )

    def of(self, own: dict[str, Any]) -> "Scoring":
        """The settings of scoring for a run whose settings of `eval` are `own`."""
        return Scoring(**own | {name: value for name, value in asdict(self).items() if value is not None})


@dataclass
class Scoring(Scored):
    """How documents are scored after training."""

    documents: int = setting(
        8, "score only the first documents of the split, this many; 0: all", unit="documents", low=0
    )
    max_document: int = setting(
        8192, "read only the first tokens of each document, this many; 0: all", unit="tokens", low=0
    )
    lanes: int = setting(8, "documents read in parallel (batch size); scores do not depend on it", unit="lanes", low=1)


@dataclass
class Rescoring(Scored):
    """How documents are scored by `memexp eval`."""

    lanes: int | None = setting(
        None, "documents read in parallel (batch size); default: as after training", unit="lanes", low=1
    )


def cutoffs_in_force(cutoffs: list[int], *, tokenizer: str) -> list[int]:
    """The cutoffs of a size if the vocabulary is sorted by frequency, as adaptive softmax needs it; else none."""
    return cutoffs if tokenizer == "lines" else []
