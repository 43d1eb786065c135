"""Group `arch`: the options of every architecture, and what each says of its memory."""

from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

from memexp.config.field import UNSET, default_of, setting
from memexp.config.groups import Size
from memexp.errors import UserError


class Beside(Protocol):
    """What an architecture's checks see of the settings beside it; `memexp.config.train.TrainConfig` has it all."""

    mem: int
    segment: int
    bptt_segments: int
    recompute: bool
    size: Size


@dataclass
class Arch:
    """Group `arch`: what every architecture has.

    A schema declares an architecture's options and says what its memory is like. Nothing outside `memexp.model` asks for an
    architecture by its name or type: it asks these attributes and methods.
    """

    mem_unit: ClassVar[str] = ""
    """What `mem` counts, for people; empty: there is no memory, and `mem` must be 0."""
    resizable: ClassVar[bool] = False
    """Whether a trained model can be given another `mem`, because no parameter depends on it."""
    gradient_through_memory: ClassVar[bool] = False
    """Whether gradient crosses a segment border through the memory, as far as `bptt_segments` lets it."""
    gradient_through_cache: ClassVar[bool] = False
    """Whether gradient crosses a segment border through the cache, also with `mem=0`."""

    _target_: str = setting(UNSET, "the model's class")
    name: str = setting(UNSET, "name of the architecture, as in arch=NAME")
    dropout: float = setting(0.0, "dropout on embeddings and on what each layer adds", low=0.0, high=0.99)

    def tokens_to_fill(self, mem: int) -> int:
        """Tokens of a document after which the memory is full; 0 for a memory that is never empty, and for none."""
        return 0

    def check(self, beside: Beside) -> None:
        """Refuse options that make no sense together or beside the other settings; a schema adds its own.

        Raises:
            UserError: names the option, what was seen and what was expected.
        """
        if beside.mem > 0 and not self.mem_unit:
            raise UserError(
                f"mem is {beside.mem} but this architecture has no memory; expected mem=0, or an architecture that has one, such as "
                "arch=knn"
            )
        if beside.bptt_segments and not (self.gradient_through_memory or self.gradient_through_cache):
            raise UserError(
                f"bptt_segments is {beside.bptt_segments}, but in arch={self.name} no gradient crosses a segment border; "
                "expected 0 (its paper stops gradients at the cache and the memory)"
            )
        if beside.bptt_segments and not beside.mem and not self.gradient_through_cache:
            raise UserError(
                f"bptt_segments is {beside.bptt_segments} but mem is 0, so there is no memory for a gradient to cross a segment "
                "border through; expected bptt_segments=0, or a larger mem"
            )
        for item in fields(self) if not beside.mem else ():
            value = getattr(self, item.name)
            if item.metadata.get("of_memory") and value != default_of(item):
                raise UserError(
                    f"arch.{item.name} is {str(value).lower()} but mem is 0, so there is no memory for it to change; expected "
                    f"arch.{item.name}={str(default_of(item)).lower()}, or a larger mem"
                )


@dataclass
class AttentionArch(Arch):
    """Options of every architecture whose layers have self-attention. Defaults are those of the Memorizing Transformers code.

    `size.attention` says what `position`, `scale`, `key_smear` and `keys_as_queries` are where they are not given.
    """

    position: str = setting(
        "t5",
        "positions in local attention",
        choices=("t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"),
    )
    normalise: bool = setting(True, "unit-norm queries and keys, times a learned scale a head")
    scale: float = setting(1.0, "initial value of that scale", low=0.0, departure=True)
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

    def check(self, beside: Beside) -> None:
        """Also what positions ask of the heads."""
        super().check(beside)
        if not self.normalise and self.scale != 1:
            raise UserError(
                f"arch.scale is {self.scale:g} but arch.normalise is false, so there is nothing to scale; expected "
                "arch.scale=1 beside it"
            )
        heads, head_size = beside.size.heads, beside.size.head_size
        if self.position in ("rotary", "xpos") and head_size % 2:
            raise UserError(
                f"size.head_size is {head_size}; expected an even number with arch.position={self.position}"
            )
        if self.position == "xl" and heads * head_size % 2:
            raise UserError(
                f"size.heads is {heads} and size.head_size {head_size}; expected an even product with arch.position=xl, "
                "whose waves are pairs"
            )


@dataclass
class VanillaArch(AttentionArch):
    """Group `arch`, a decoder without memory."""


@dataclass
class XlArch(AttentionArch):
    """Group `arch`, Transformer-XL, plain and enhanced."""

    mem_unit: ClassVar[str] = "tokens of cache in every layer"
    resizable: ClassVar[bool] = True

    def tokens_to_fill(self, mem: int) -> int:
        """A token each."""
        return mem


@dataclass
class PairArch(AttentionArch):
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
        effect="speed",
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

    def check_pairs(self, beside: Beside, *, name: str, pairs: int) -> None:
        """Refuse what makes no sense for a memory of that many pairs.

        Args:
            name: the setting that says how many.

        Raises:
            UserError: as `check` does.
        """
        check_layers("knn_layers", self.knn_layers, beside)
        if self.combine == "joint" and self.gate:
            raise UserError(
                f"arch.gate is {self.gate:g} but arch.combine is joint, which has no gate; expected arch.combine=gate"
            )
        if self.search == "routed" and self.stored_on == "host":
            raise UserError(
                "arch.stored_on is host but arch.search is routed, which weighs every pair of the memory where the model is; "
                "expected arch.stored_on=device, or arch.search=exact"
            )
        if beside.recompute and self.search == "faiss_hnsw":
            raise UserError(
                "recompute is true but arch.search is faiss_hnsw, whose graph finds other neighbours when a segment is computed "
                "again; expected recompute=false, or arch.search=faiss_ivf"
            )
        if 0 < pairs < self.neighbours:
            raise UserError(
                f"{name} is {pairs} but arch.neighbours {self.neighbours}; expected a memory of at least as many pairs as each "
                "token retrieves"
            )


@dataclass
class KnnArch(PairArch):
    """Group `arch`, kNN memory."""

    mem_unit: ClassVar[str] = "pairs a lane and head"
    resizable: ClassVar[bool] = True

    cache: int = setting(
        512, "exact keys and values of the recent past that every layer attends to", unit="tokens", low=0
    )
    knn_position: bool = setting(True, "position bias in the local attention of the layers that read the memory")

    def tokens_to_fill(self, mem: int) -> int:
        """A pair for each token."""
        return mem

    def check(self, beside: Beside) -> None:
        """Also what the memory of pairs asks."""
        super().check(beside)
        self.check_pairs(beside, name="mem", pairs=beside.mem)


@dataclass
class CompressiveArch(AttentionArch):
    """Group `arch`, Compressive Transformer."""

    mem_unit: ClassVar[str] = "compressed pairs in every layer"
    resizable: ClassVar[bool] = True

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

    def tokens_to_fill(self, mem: int) -> int:
        """Those that were compressed, behind a full cache."""
        return mem * self.factor + self.cache if mem else 0

    def check(self, beside: Beside) -> None:
        """Also that whole groups of tokens leave the cache."""
        super().check(beside)
        for name, tokens in (("segment", beside.segment), ("arch.cache", self.cache)):
            if tokens % self.factor:
                raise UserError(
                    f"{name} is {tokens} and arch.factor {self.factor}; expected a multiple of it, so that whole groups leave "
                    "the cache"
                )


@dataclass
class RmtArch(AttentionArch):
    """Group `arch`, Recurrent Memory Transformer."""

    mem_unit: ClassVar[str] = "memory tokens"
    gradient_through_memory: ClassVar[bool] = True

    cache: int = setting(0, "exact keys and values of the recent past that tokens also attend to", unit="tokens", low=0)
    aux_weight: float = setting(
        0.0,
        "weight of the loss by which memory tokens predict a word of their own; the paper's is 0.01 with a cache",
        low=0.0,
        of_memory=True,
    )


@dataclass
class BlockArch(AttentionArch):
    """Group `arch`, Block-Recurrent Transformer."""

    mem_unit: ClassVar[str] = "state vectors a recurrent layer"
    gradient_through_memory: ClassVar[bool] = True
    gradient_through_cache: ClassVar[bool] = True

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

    def check(self, beside: Beside) -> None:
        """Also that windows divide the segment."""
        super().check(beside)
        if beside.segment % self.window:
            raise UserError(
                f"segment is {beside.segment} and arch.window {self.window}; expected whole windows in a segment, so that it "
                "does not matter how a text is cut"
            )
        check_layers("recurrent_layers", self.recurrent_layers, beside)


@dataclass
class BlockKnnArch(BlockArch, PairArch):
    """Group `arch`, Block-Recurrent Transformer with kNN memory."""

    pairs: int = setting(8192, "pairs that the kNN memory holds a lane and head", unit="pairs", low=0)

    def tokens_to_fill(self, mem: int) -> int:
        """A pair for each token; state vectors are never empty."""
        return self.pairs

    def check(self, beside: Beside) -> None:
        """Also what the memory of pairs asks, alone and beside the state vectors."""
        super().check(beside)
        self.check_pairs(beside, name="arch.pairs", pairs=self.pairs)
        if self.cache_dropout and self.write == "leaving":
            raise UserError(
                f"arch.cache_dropout is {self.cache_dropout:g} but arch.write is leaving, and a cache that was dropped leaves "
                "nothing to store; expected arch.write=all, or no dropout"
            )


@dataclass
class ThoughtArch(AttentionArch):
    """Group `arch`, thought-and-memory."""

    mem_unit: ClassVar[str] = "memory slots"
    gradient_through_memory: ClassVar[bool] = True

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

    def check(self, beside: Beside) -> None:
        """Also what the published formulas and the updater's rotary positions ask."""
        super().check(beside)
        if self.faithful and self.recall_target == "tokens":
            raise UserError(
                "arch.recall_target is tokens but arch.faithful is true, and the published code recalls activations; expected "
                "arch.recall_target=embeddings beside it"
            )
        if beside.mem and not self.faithful and beside.size.head_size % 2:
            raise UserError(
                f"size.head_size is {beside.size.head_size}; expected an even number, for what rewrites the memory has rotary "
                "positions"
            )


def check_layers(name: str, layers: list[int], beside: Beside) -> None:
    """Refuse layers that are not there or are named twice.

    Raises:
        UserError: names the option `arch.NAME`.
    """
    if len(set(layers)) != len(layers) or not all(1 <= layer <= beside.size.layers for layer in layers):
        raise UserError(f"arch.{name} is {layers}; expected different layers from 1 to {beside.size.layers}")


ARCHS: dict[str, type[Arch]] = {
    "vanilla": VanillaArch, "xl": XlArch, "xl_enhanced": XlArch, "compressive": CompressiveArch,
    "knn": KnnArch, "knn_routed": KnnArch, "rmt": RmtArch, "rmt_xl": RmtArch, "block": BlockArch,
    "block_knn": BlockKnnArch, "thought": ThoughtArch,
}  # fmt: skip
"""Schema of each `conf/arch` file, by the file's name."""

RETIRED = ("mem_unit", "mem_is")
"""Options that config.yaml of older runs has under `arch`, and that say nothing any more."""
