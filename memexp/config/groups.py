"""The groups `data`, `size`, `optim` and `tracker`, and what is scored."""

from dataclasses import asdict, dataclass
from typing import Any

from memexp.config.field import UNSET, group, setting
from memexp.config.sources import SourceOptions


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
    """Group `data`: a corpus, and how training reads it.

    What makes the corpus has no effect by itself: the corpus counts in a run's identity by its content.
    """

    name: str = setting(UNSET, "folder name of the prepared corpus, under the root's data/", effect="nothing")
    source: SourceOptions = group(SourceOptions, effect="nothing")
    tokenizer: Tokenizer = group(Tokenizer, effect="nothing")
    min_document: int = setting(0, "shorter documents are left out", unit="bytes", low=0, effect="nothing")
    valid_documents: int = setting(
        8, "documents of the validation split, at least", unit="documents", low=1, effect="nothing"
    )
    test_documents: int = setting(8, "documents of the test split, at least", unit="documents", low=1, effect="nothing")
    max_document: int = setting(
        0,
        "training reads one random crop of this length a visit; 0 reads whole documents, as the papers do. With "
        "task=classify only a document's first tokens are read, when it is scored too",
        unit="tokens",
        low=0,
        departure=True,
    )
    task: str = setting(
        "predict",
        "as in task=NAME: say what comes next, or a document's class",
        choices=("predict", "classify"),
        later=True,
    )
    cut: str = setting(
        "crop",
        "what a visit to a document longer than max_document reads: a random crop, or one of the consecutive chunks it is "
        "cut into, all of which make an epoch",
        choices=("crop", "chunks"),
        later=True,
    )
    drop_tails: bool = setting(
        False,
        "training leaves out what does not fill a segment at a document's end: no padding",
        departure=True,
        later=True,
    )
    answer: int = setting(
        0, "length of an answer that must lie in one segment; 0: none", unit="tokens", low=0, effect="nothing"
    )
    path: str | None = setting(None, "files to read, for the sources that take some", unit="path", effect="nothing")


@dataclass
class AttentionAtSize:
    """What an architecture's attention starts with at a size, where the architecture has such an option and it is not given."""

    position: str = setting("t5", "arch.position at this size")
    scale: float = setting(1.0, "arch.scale at this size", low=0.0)
    key_smear: bool = setting(False, "arch.key_smear at this size")
    keys_as_queries: bool = setting(False, "arch.keys_as_queries at this size")


@dataclass
class Size:
    """Group `size`: the shape of the network, apart from its memory."""

    name: str = setting(UNSET, "name of the preset", effect="nothing")
    layers: int = setting(12, "decoder layers", unit="layers", low=1)
    width: int = setting(1024, "model width", low=1)
    heads: int = setting(8, "attention heads", unit="heads", low=1)
    head_size: int = setting(128, "width of a head", low=1)
    feedforward: int = setting(4096, "hidden width of a feed-forward layer", low=1)
    rate: float = setting(3e-4, "AdamW's peak learning rate at this size", low=0.0, effect="nothing")
    memory: int = setting(
        8192, "pairs that the kNN memory holds by default at this size", unit="pairs", low=0, effect="nothing"
    )
    routed: int = setting(
        512, "pairs of them that routed search keeps by default at this size", unit="pairs", low=1, effect="nothing"
    )
    attention: AttentionAtSize = group(AttentionAtSize, effect="nothing")
    cutoffs: list[int] = setting(
        [],
        "words before each cluster of adaptive softmax, with data.tokenizer.kind=lines; empty: one softmax over all",
        unit="entries",
        effect="nothing",  # where they are in force they count; see `memexp.runs.identity`
    )
    narrowing: int = setting(
        1, "how many times narrower a further cluster's vectors are (div_val)", low=1, effect="nothing"
    )


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


def cutoffs_in_force(cutoffs: list[int], *, tokenizer: str) -> list[int]:
    """Those of a size, where the tokenizer's vocabulary is in the order that adaptive softmax needs."""
    return cutoffs if tokenizer == "lines" else []
