"""Group `arch`: the options of every architecture, and what each says of its memory."""

from dataclasses import dataclass

from memexp.config.field import UNSET, setting


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


ARCHS: dict[str, type[Arch]] = {
    "vanilla": Arch, "xl": XlArch, "xl_enhanced": XlArch, "compressive": CompressiveArch,
    "knn": KnnArch, "knn_routed": KnnArch, "rmt": RmtArch, "rmt_xl": RmtArch, "block": BlockArch,
    "block_knn": BlockKnnArch, "thought": ThoughtArch,
}  # fmt: skip
"""Schema of each `conf/arch` file, by the name that its defaults list gives."""
