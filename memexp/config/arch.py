"""Group `arch`: the options of every architecture, and what its memory is like."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from memexp.config.field import MOST_LAYERS, UNSET, default_of, setting
from memexp.config.groups import PLACES, POSITIONS, Optim, Size
from memexp.errors import UserError


def class_name(*names: str) -> Any:
    """The field for the class of an architecture. Settings may come from another person's run folder, so no other class is allowed."""
    targets = tuple(f"memexp.model.{name}" for name in names)
    return setting(targets[0], "the model's class", choices=targets)


class Beside(Protocol):
    """The other settings that an architecture's checks read; `memexp.config.train.TrainConfig` has all of them."""

    mem: int
    segment: int
    lanes: int
    bptt_segments: int
    recompute: bool
    size: Size
    optim: Optim


@dataclass
class Arch:
    """Group `arch`: what every architecture has.

    A schema declares the options of an architecture and describes its memory. Code outside `memexp.model` never compares
    the name or type of an architecture: it reads these attributes and calls these methods.
    """

    mem_unit: ClassVar[str] = ""
    """What `mem` counts, shown to users; empty: there is no memory, and `mem` must be 0."""
    most_mem: ClassVar[int | None] = None
    """The largest `mem`, such as 1 where `mem` only switches a memory of fixed size on; None: any."""
    resizable: ClassVar[bool] = False
    """Whether a trained model can be used with another `mem`, because no parameter depends on `mem`."""
    gradient_through_memory: ClassVar[bool] = False
    """Whether gradients cross segment borders through the memory, within the limit of `bptt_segments`."""
    gradient_through_cache: ClassVar[bool] = False
    """Whether gradients cross segment borders through the cache; then `bptt_segments` is allowed with `mem=0` too."""

    _target_: str = setting(UNSET, "the model's class")
    name: str = setting(UNSET, "name of the architecture, as in arch=NAME")
    dropout: float = setting(
        0.0, "dropout rate of the embeddings and of each layer's additions to the residual stream", low=0.0, high=0.99
    )

    def tokens_to_fill(self, mem: int) -> int:
        """Tokens of a document after which the memory is full; 0 without a memory, or if the memory is never empty."""
        return 0

    def through_memory(self) -> bool:
        """Whether gradients cross segment borders through the memory with these options."""
        return self.gradient_through_memory

    def beside_a_checkpoint(self) -> str | None:
        """What keeps the layers of a published checkpoint from taking the place of ours, as "arch.x is y"; None: nothing does."""
        return f"arch is {self.name}"

    def check(self, beside: Beside) -> None:
        """Refuse options that make no sense together or with the other settings; a schema adds its own checks.

        Raises:
            UserError: names the option, what was seen and what was expected.
        """
        names = [name for name, schema in ARCHS.items() if schema is type(self)]
        if self.name not in names:
            raise UserError(
                f"arch.name is {self.name!r}; expected {' or '.join(names)}, the architectures with these options. Likely cause: a "
                "file of your own in arch/, which keeps the name of the architecture that it configures"
            )
        if beside.size.checkpoint is not None and (why := self.beside_a_checkpoint()) is not None:
            raise UserError(
                f"{why}, which has no place for the layers of a published checkpoint; expected vanilla, xl, knn, rmt, armt or infini with "
                "their defaults at size=checkpoint"
            )
        if beside.mem > 0 and not self.mem_unit:
            raise UserError(
                f"mem is {beside.mem} but this architecture has no memory; expected mem=0, or an architecture that has one, such as "
                "arch=knn"
            )
        if self.most_mem is not None and beside.mem > self.most_mem:
            raise UserError(
                f"mem is {beside.mem}, but the memory of arch={self.name} has a fixed size; expected mem={self.most_mem} at most"
            )
        through_memory = self.through_memory()
        if beside.bptt_segments and not (through_memory or self.gradient_through_cache):
            raise UserError(
                f"bptt_segments is {beside.bptt_segments}, but in arch={self.name} no gradient crosses a segment border; "
                "expected bptt_segments=0 (the paper stops gradients at the cache and the memory)"
            )
        if beside.bptt_segments and not beside.mem and not self.gradient_through_cache:
            raise UserError(
                f"bptt_segments is {beside.bptt_segments} but mem is 0, so there is no memory through which a gradient could "
                "cross a segment border; expected bptt_segments=0, or a larger mem"
            )
        for item in fields(self) if not beside.mem else ():
            value = getattr(self, item.name)
            if item.metadata.get("of_memory") and value != default_of(item):
                raise UserError(
                    f"arch.{item.name} is {str(value).lower()} but mem is 0, so it has no effect; expected "
                    f"arch.{item.name}={str(default_of(item)).lower()}, or a larger mem"
                )


@dataclass
class AttentionArch(Arch):
    """Options of every architecture whose layers have self-attention.

    The defaults are those of the Memorizing Transformers code. On a command line, `size.attention` gives the defaults of
    `position`, `scale`, `key_smear` and `keys_as_queries`.
    """

    position: str = setting(
        "t5",
        "position encoding of local attention",
        choices=POSITIONS,
    )
    normalise: bool = setting(
        True, "queries and keys have unit norm; scores are multiplied by a learned scale per head"
    )
    scale: float = setting(1.0, "initial value of the learned scale of arch.normalise", low=0.0, departure=True)
    key_smear: bool = setting(
        False,
        "not in the papers: keys are computed from a learned mix of a token and its predecessor, so that one layer can match "
        "sequences of tokens",
        departure=True,
    )
    keys_as_queries: bool = setting(
        False,
        "not in the papers: key projections are initialised as copies of the query projections, so that attention prefers "
        "similar tokens from the start",
        departure=True,
    )

    def _not_of_a_checkpoint(self) -> str | None:
        """The option of attention that a checkpoint, whose attention is its own, does not have; None: there is none."""
        own = {
            "position": "none",
            "normalise": False,
            "scale": 1.0,
            "key_smear": False,
            "keys_as_queries": False,
            "dropout": 0.0,
        }
        return next(
            (
                f"arch.{name} is {str(getattr(self, name)).lower()}"
                for name, value in own.items()
                if getattr(self, name) != value
            ),
            None,
        )

    def check(self, beside: Beside) -> None:
        """Refuse a scale without normalisation too, and sizes that do not fit the position encoding."""
        super().check(beside)
        if not self.normalise and self.scale != 1:
            raise UserError(
                f"arch.scale is {self.scale:g} but arch.normalise is false, so there is nothing to scale; expected "
                "arch.scale=1 with it"
            )
        if self.position in ("rotary", "xpos") and beside.size.head_size % 2:
            raise UserError(
                f"size.head_size is {beside.size.head_size}; expected an even number with arch.position={self.position}"
            )
        if self.position == "xl" and beside.size.width % 2:
            raise UserError(
                f"size.width is {beside.size.width}; expected an even number with arch.position=xl, which pairs sines with "
                "cosines"
            )


REACH = (
    "what a token sees before itself: all: the whole cache and its segment; window: exactly the {cache} tokens before it, as "
    "in the code of Memorizing Transformers"
)


SINKS = (
    "first tokens of a document that stay in the cache, in addition to its length, just before the others (StreamingLLM); a published "
    "checkpoint needs them"
)


@dataclass
class VanillaArch(AttentionArch):
    """Group `arch`, a decoder without memory."""

    _target_: str = class_name("vanilla.Vanilla")

    def beside_a_checkpoint(self) -> str | None:
        """Only options of attention, which a checkpoint has itself."""
        return self._not_of_a_checkpoint()


@dataclass
class CacheArch(AttentionArch):
    """Options of every architecture whose memory is a cache."""

    mem_unit: ClassVar[str] = "tokens of cache in every layer"
    resizable: ClassVar[bool] = True

    reach: str = setting(
        "all",
        REACH.format(cache="mem"),
        choices=("all", "window"),
        of_memory=True,
        later=True,
    )

    def tokens_to_fill(self, mem: int) -> int:
        """The cache holds `mem` tokens."""
        return mem


@dataclass
class XlArch(CacheArch):
    """Group `arch`, Transformer-XL."""

    _target_: str = class_name("xl.Xl")

    sinks: int = setting(0, SINKS, unit="tokens", low=0, later=True)

    def beside_a_checkpoint(self) -> str | None:
        """Only options of attention, which a checkpoint has itself."""
        return self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Refuse too sinks that no token would see."""
        super().check(beside)
        check_sinks(self.sinks, self.reach)


@dataclass
class XlEnhancedArch(CacheArch):
    """Group `arch`, Transformer-XL with enhanced recurrence."""

    _target_: str = class_name("xl_enhanced.XlEnhanced")


@dataclass
class PairArch(AttentionArch):
    """Options of a memory of key-value pairs, for every architecture that has one."""

    knn_layers: list[int] = setting(
        [], "layers that read the memory, counted from 1; empty: the layer at three quarters of the depth (9th of 12)"
    )
    neighbours: int = setting(
        32,
        "pairs that each token retrieves; with arch.search=routed, pairs that all tokens of a segment share",
        unit="pairs",
        low=1,
    )
    search: str = setting(
        "exact",
        "search engine that finds the nearest pairs of each token (auto chooses one by memory size and device); routed: one "
        "choice per head for all tokens of a segment, by coordinate descent",
        choices=("auto", "exact", "bucketed", "faiss_flat", "faiss_ivf", "faiss_hnsw", "routed"),
    )
    stored: str = setting("fp32", "precision of the stored keys and values", choices=("fp32", "bf16"))
    stored_on: str = setting(
        "device",
        "where keys and values are stored: on the model's device, or in the host's memory, which is larger; exact search carries "
        "the keys to the device, other engines run on the CPU",
        choices=("device", "host"),
        effect="speed",
    )
    combine: str = setting(
        "gate",
        "how retrieved and local values are combined: by a learned gate per head, or in one joint softmax",
        choices=("gate", "joint"),
    )
    gate: float = setting(
        0.0, "initial value of the gates before the sigmoid; 0 weighs memory and local attention equally"
    )
    write: str = setting(
        "all",
        "which pairs are stored: all pairs of a segment once it was read, or only those that leave the cache",
        choices=("all", "leaving"),
    )

    def check_pairs(self, beside: Beside, *, name: str, pairs: int) -> None:
        """Refuse options that make no sense for a memory of `pairs` pairs.

        Args:
            name: the setting that gives this number.

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
                "arch.stored_on is host but arch.search is routed, which scores every pair on the model's device; "
                "expected arch.stored_on=device, or arch.search=exact"
            )
        if beside.recompute and self.search == "faiss_hnsw":
            raise UserError(
                "recompute is true but arch.search is faiss_hnsw, which can find other neighbours when a segment is computed "
                "again; expected recompute=false, or arch.search=faiss_ivf"
            )
        if 0 < pairs < self.neighbours:
            raise UserError(
                f"{name} is {pairs} but arch.neighbours is {self.neighbours}; expected a memory that holds at least "
                "arch.neighbours pairs"
            )


@dataclass
class KnnArch(PairArch):
    """Group `arch`, kNN memory."""

    mem_unit: ClassVar[str] = "pairs per lane and head"
    resizable: ClassVar[bool] = True

    _target_: str = class_name("knn.Knn")

    cache: int = setting(
        512, "length of the cache of exact recent keys and values that every layer attends to", unit="tokens", low=0
    )
    knn_position: bool = setting(True, "layers that read the memory have positions in their local attention")
    reach: str = setting("all", REACH.format(cache="arch.cache"), choices=("all", "window"), later=True)
    sinks: int = setting(0, SINKS, unit="tokens", low=0, later=True)
    place: str = setting(
        "none",
        "where the memory stands for a query whose position turns it (rotary, xpos, most checkpoints): none: at the query's own place, "
        "without positions; edge: where its cache begins",
        choices=PLACES,
        later=True,
    )
    negatives: int = setting(
        0,
        "other lanes whose last segment each token of training sees besides that of its own document, so that keys of other documents "
        "become different (Focused Transformer); evaluation reads the memory. 0: training reads the memory too",
        unit="lanes",
        low=0,
        of_memory=True,
        later=True,
    )

    def tokens_to_fill(self, mem: int) -> int:
        """Each token writes one pair."""
        return mem

    def through_memory(self) -> bool:
        """Through the last segments, if training sees those of other lanes."""
        return self.negatives > 0

    def beside_a_checkpoint(self) -> str | None:
        """Routed search and negatives too, which compare heads one by one."""
        if self.search == "routed":
            return "arch.search is routed"
        return f"arch.negatives is {self.negatives}" if self.negatives else self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Check the memory of pairs too, that a window is not empty, and that there are as many lanes as negatives need."""
        super().check(beside)
        if self.negatives:
            self._check_negatives(beside)
        self.check_pairs(beside, name="mem", pairs=beside.mem)
        check_sinks(self.sinks, self.reach)
        if self.place == "edge" and self.position not in ("rotary", "xpos") and beside.size.checkpoint is None:
            raise UserError(
                f"arch.place is edge but arch.position is {self.position}, which turns no query; expected arch.place=none, or "
                "arch.position=rotary"
            )
        if self.reach == "window" and not self.cache:
            raise UserError(
                "arch.reach is window but arch.cache is 0, so a token would see only itself; expected arch.reach=all, or a larger "
                "arch.cache"
            )

    def _check_negatives(self, beside: Beside) -> None:
        if self.negatives >= beside.lanes:
            raise UserError(
                f"arch.negatives is {self.negatives} but lanes is {beside.lanes}, so there are {beside.lanes - 1} other lanes; expected "
                "fewer arch.negatives, or more lanes"
            )
        if self.combine != "joint" or self.search == "routed":
            seen = f"arch.combine is {self.combine}" if self.combine != "joint" else "arch.search is routed"
            raise UserError(
                f"arch.negatives is {self.negatives} but {seen}; expected arch.combine=joint and a search for each token, because "
                "training reads the memory in one softmax with local attention"
            )
        if not beside.bptt_segments:
            raise UserError(
                f"arch.negatives is {self.negatives} but bptt_segments is 0, so no gradient would reach the keys of the last segments; "
                "expected bptt_segments=1 and accumulate=2, or more"
            )


@dataclass
class CompressiveArch(AttentionArch):
    """Group `arch`, Compressive Transformer."""

    mem_unit: ClassVar[str] = "compressed pairs in every layer"
    resizable: ClassVar[bool] = True

    _target_: str = class_name("compressive.Compressive")

    cache: int = setting(
        512, "length of the cache of exact recent keys and values that every layer attends to", unit="tokens", low=1
    )
    factor: int = setting(
        2, "compression rate: so many tokens that leave the cache become one compressed slot", unit="tokens", low=1
    )
    compress: str = setting(
        "convolution",
        "how tokens are compressed: by a convolution trained to keep what attention reads, by their mean, or by the maximum "
        "of each channel",
        choices=("convolution", "mean", "max"),
        of_memory=True,
    )

    def tokens_to_fill(self, mem: int) -> int:
        """A full cache, and `factor` tokens for each slot."""
        return mem * self.factor + self.cache if mem else 0

    def check(self, beside: Beside) -> None:
        """Check too that tokens leave the cache in whole groups."""
        super().check(beside)
        for name, tokens in (("segment", beside.segment), ("arch.cache", self.cache)):
            if tokens % self.factor:
                raise UserError(
                    f"{name} is {tokens} and arch.factor {self.factor}; expected {name} to be a multiple of arch.factor, "
                    "because tokens leave the cache in whole groups"
                )


@dataclass
class RmtArch(AttentionArch):
    """Group `arch`, Recurrent Memory Transformer."""

    mem_unit: ClassVar[str] = "memory tokens"
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("rmt.Rmt")

    cache: int = setting(
        0, "length of the cache of exact recent keys and values that tokens also attend to", unit="tokens", low=0
    )
    aux_weight: float = setting(
        0.0,
        "weight of an auxiliary loss: memory tokens predict an extra word; the paper uses 0.01 with a cache",
        low=0.0,
        of_memory=True,
    )
    memory_sees_cache: str = setting(
        "write",
        "which memory tokens attend to the cache: none of them, as in the published runs; only the write tokens; or both read "
        "and write tokens, as with read_mem_from_cache in the published code",
        choices=("none", "write", "both"),
        of_memory=True,
        later=True,
    )
    past_memories: int = setting(
        0,
        "memories of the last segments that are kept, and from which the memory tokens also retrieve (RMT-R); 1: only the present "
        "one; 0: nothing is retrieved, as in RMT",
        unit="segments",
        low=0,
        of_memory=True,
        later=True,
    )

    def beside_a_checkpoint(self) -> str | None:
        """The auxiliary loss too, whose extra word the output layer of a checkpoint does not have."""
        return f"arch.aux_weight is {self.aux_weight:g}" if self.aux_weight else self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Refuse too to choose who sees a cache that is not there."""
        super().check(beside)
        if self.memory_sees_cache != "write" and not self.cache:
            raise UserError(
                f"arch.memory_sees_cache is {self.memory_sees_cache} but arch.cache is 0, so it has no effect; expected "
                "arch.memory_sees_cache=write, or a larger arch.cache"
            )


@dataclass
class InfiniArch(AttentionArch):
    """Group `arch`, Infini-attention."""

    mem_unit: ClassVar[str] = "matrices per layer and head: 1 or none"
    most_mem: ClassVar[int | None] = 1
    resizable: ClassVar[bool] = True
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("infini.Infini")

    write: str = setting(
        "delta",
        "how a segment is written to the matrices: linear: its values are added to what is there; delta: only what the memory does "
        "not yet recall of them",
        choices=("linear", "delta"),
        of_memory=True,
    )

    def beside_a_checkpoint(self) -> str | None:
        """Only options of attention, which a checkpoint has itself."""
        return self._not_of_a_checkpoint()


@dataclass
class ArmtArch(AttentionArch):
    """Group `arch`, Associative Recurrent Memory Transformer."""

    mem_unit: ClassVar[str] = "memory tokens"
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("armt.Armt")

    memory: str = setting(
        "associative",
        "what carries a segment's memory tokens on: associative: a matrix in each layer, to which they are written; parallel: they "
        "are themselves the memory tokens that the same layer reads in the next segment (the paper's PRMT)",
        choices=("associative", "parallel"),
        of_memory=True,
    )
    key_size: int = setting(
        64, "size of the keys of arch.memory=associative; a matrix has 6 rows for each", low=1, of_memory=True
    )

    def beside_a_checkpoint(self) -> str | None:
        """Only options of attention, which a checkpoint has itself."""
        return self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Refuse too a size of keys that are not there."""
        super().check(beside)
        if self.memory == "parallel" and self.key_size != 64:
            raise UserError(
                f"arch.key_size is {self.key_size} but arch.memory is parallel, which has no keys; expected arch.key_size=64, or "
                "arch.memory=associative"
            )


@dataclass
class DeltaArch(AttentionArch):
    """Group `arch`, Gated DeltaNet beside attention in a window."""

    mem_unit: ClassVar[str] = "rows of the matrix of each head of a recurrent layer, the size of its keys"
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("delta.Delta")

    window: int = setting(
        512,
        "tokens that each token of a layer with attention sees before itself; 0: all layers are recurrent, and the options of attention "
        "have no effect",
        unit="tokens",
        low=0,
    )
    recurrent_layers: list[int] = setting(
        [],
        "layers with a matrix instead of attention, counted from 1; empty: every second layer from the first on",
        of_memory=True,
    )
    write: str = setting(
        "delta",
        "what a token writes at its key: delta: its value in the place of what the matrix recalls there; add: its value is added",
        choices=("delta", "add"),
        of_memory=True,
    )
    decay: str = setting(
        "head",
        "what forgets by itself, by a share that depends on the token: head: all rows of a head's matrix alike; channel: each row with a "
        "share of its own, as in KDA; none: nothing, as in DeltaNet",
        choices=("none", "head", "channel"),
        of_memory=True,
    )
    unit_keys: bool = setting(
        True, "queries and keys of recurrent layers have unit norm; arch.write=delta needs it", of_memory=True
    )
    value_factor: int = setting(
        2, "values of recurrent layers are so many times as long as their keys", low=1, of_memory=True
    )

    def recurrent(self, layers: int) -> list[int]:
        """The recurrent layers of a network of so many layers with a memory, in order, counted from 1."""
        return sorted(self.recurrent_layers) or list(range(1, layers + 1, 2 if self.window else 1))

    def check(self, beside: Beside) -> None:
        """Check too that there is a window where there is attention, and that writes cannot grow without limit."""
        super().check(beside)
        check_layers("recurrent_layers", self.recurrent_layers, beside)
        others = beside.size.layers - len(self.recurrent(beside.size.layers)) if beside.mem else beside.size.layers
        if not self.window and others:
            raise UserError(
                f"arch.window is 0 but {others} of {beside.size.layers} layers have attention, so that their tokens would see only "
                "themselves; expected a larger arch.window, or only recurrent layers (mem above 0, arch.recurrent_layers=[])"
            )
        if self.window and not others:
            raise UserError(
                f"arch.window is {self.window} but all {beside.size.layers} layers are recurrent, so it has no effect; expected "
                "arch.window=0, or fewer arch.recurrent_layers"
            )
        if self.write == "delta" and not self.unit_keys:
            raise UserError(
                "arch.unit_keys is false but arch.write is delta, whose corrections grow without limit if keys are long; expected "
                "arch.unit_keys=true, or arch.write=add"
            )


@dataclass
class TitansArch(AttentionArch):
    """Group `arch`, Titans."""

    mem_unit: ClassVar[str] = "size of the keys and values of each head's memory, a network"
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("titans.Titans")

    role: str = setting(
        "gate",
        "what the memory is: gate: it is beside attention in a window, whose heads it gates (the paper's MAG); context: attention within "
        "the segment also sees what the memory gives (MAC), with arch.window=0; layer: it is in the place of attention (LMM), with "
        "arch.window=0",
        choices=("gate", "context", "layer"),
        of_memory=True,
    )
    window: int = setting(512, "tokens that each token's attention sees before itself", unit="tokens", low=0)
    persistent: int = setting(
        0,
        "learned keys and values of each layer that every token's attention sees; 128 in the paper",
        low=0,
        of_memory=True,
    )
    memory: str = setting(
        "mlp",
        "the network that learns while it reads: mlp: two layers; linear: a matrix",
        choices=("mlp", "linear"),
        of_memory=True,
    )
    expansion: int = setting(4, "hidden units of arch.memory=mlp, as a multiple of mem", low=1, of_memory=True)
    momentum: bool = setting(True, "a step also repeats a share of the steps before it", of_memory=True)
    forget: str = setting(
        "zero",
        "what weights of the memory decay to, by a share that depends on the token: zero, as in the paper; start: not in the paper: their "
        "learned start, so that an MLP cannot vanish; none: they do not decay",
        choices=("zero", "start", "none"),
        of_memory=True,
    )
    chunk: int = setting(
        16,
        "tokens whose gradients are taken at the same weights, those at their start; must divide the segment",
        unit="tokens",
        low=1,
        of_memory=True,
    )

    def check(self, beside: Beside) -> None:
        """Check too that a segment has whole chunks, and that there is a window where there is attention."""
        super().check(beside)
        if beside.mem and beside.segment % self.chunk:
            raise UserError(
                f"segment is {beside.segment} and arch.chunk {self.chunk}; expected segment to be a multiple of arch.chunk, so that "
                "results do not depend on how a text is cut into segments"
            )
        if self.role != "gate" and self.window:
            other = "without attention" if self.role == "layer" else "whose attention is within the segment"
            raise UserError(
                f"arch.window is {self.window} but arch.role is {self.role}, {other}; expected arch.window=0, or arch.role=gate"
            )
        if self.role == "layer" and self.persistent:
            raise UserError(
                f"arch.persistent is {self.persistent} but arch.role is layer, without attention to see them; expected arch.persistent=0, "
                "or another arch.role"
            )
        if self.role == "gate" and not self.window:
            raise UserError(
                "arch.window is 0 but arch.role is gate, so tokens would see only themselves in attention; expected a larger "
                "arch.window, or arch.role=layer"
            )
        if self.memory == "linear" and self.expansion != 4:
            raise UserError(
                f"arch.expansion is {self.expansion} but arch.memory is linear, which has no hidden units; expected arch.expansion=4, or "
                "arch.memory=mlp"
            )


@dataclass
class BlockArch(AttentionArch):
    """Group `arch`, Block-Recurrent Transformer."""

    mem_unit: ClassVar[str] = "state vectors per recurrent layer"
    gradient_through_memory: ClassVar[bool] = True
    gradient_through_cache: ClassVar[bool] = True

    _target_: str = class_name("block.Block")

    window: int = setting(
        512,
        "tokens that are read at once, and tokens that each token sees before itself; must divide the segment",
        unit="tokens",
        low=1,
    )
    recurrent_layers: list[int] = setting(
        [],
        "layers with state vectors, counted from 1; empty: the layer at five sixths of the depth (10th of 12)",
        of_memory=True,
    )
    gate_kind: str = setting(
        "fixed",
        "what the gates depend on: fixed: one learned value per channel; lstm: what the state vectors read",
        choices=("fixed", "lstm"),
        of_memory=True,
    )
    gates: str = setting(
        "skip",
        "where the state vectors have gates: dual: after attention and after the feed-forward layer; single: only after the "
        "feed-forward layer; skip: after attention, without a feed-forward layer",
        choices=("dual", "single", "skip"),
        of_memory=True,
    )
    feedback: bool = setting(
        False, "every layer reads the state vectors, not only the recurrent layers", of_memory=True
    )
    state_dropout: float = setting(
        0.0,
        "not in the papers: probability that a lane starts a training segment with the initial state vectors",
        low=0.0,
        high=1.0,
        departure=True,
        of_memory=True,
    )
    cache_dropout: float = setting(
        0.0,
        "not in the papers: probability that a lane starts a training segment with an empty cache",
        low=0.0,
        high=1.0,
        departure=True,
    )
    shared_values: bool = setting(
        False,
        "not in the papers: all heads share one head of keys and values (multi-query attention, Shazeer 2019)",
        departure=True,
    )
    borrow: bool = setting(
        False,
        "not in the papers: state vectors start from what their layer's attention has learned, also that of init_from: they are "
        "read as its tokens are, and hold means of its values over up to 32 windows; pays where init_from is a trained window model",
        departure=True,
        of_memory=True,
        later=True,
    )

    def check(self, beside: Beside) -> None:
        """Check too that a segment consists of whole windows."""
        super().check(beside)
        if beside.segment % self.window:
            raise UserError(
                f"segment is {beside.segment} and arch.window {self.window}; expected segment to be a multiple of arch.window, "
                "so that results do not depend on how a text is cut into segments"
            )
        check_layers("recurrent_layers", self.recurrent_layers, beside)
        if self.borrow and self.gates != "skip" and beside.size.feedforward < 2 * beside.size.width:
            raise UserError(
                f"arch.borrow is true and arch.gates {self.gates}, but size.feedforward is {beside.size.feedforward}; expected at least "
                f"{2 * beside.size.width}, twice size.width, so that the feed-forward layer can pass on what was read as it is"
            )


@dataclass
class BlockKnnArch(BlockArch, PairArch):
    """Group `arch`, Block-Recurrent Transformer with kNN memory."""

    _target_: str = class_name("block_knn.BlockKnn")

    pairs: int = setting(8192, "pairs that the kNN memory holds per lane and head", unit="pairs", low=0)

    def tokens_to_fill(self, mem: int) -> int:
        """Each token writes one pair; state vectors are never empty."""
        return self.pairs

    def check(self, beside: Beside) -> None:
        """Check the memory of pairs too, alone and together with the state vectors."""
        super().check(beside)
        self.check_pairs(beside, name="arch.pairs", pairs=self.pairs)
        if self.cache_dropout and self.write == "leaving":
            raise UserError(
                f"arch.cache_dropout is {self.cache_dropout:g} but arch.write is leaving, and from an emptied cache no pairs "
                "leave to be stored; expected arch.write=all, or arch.cache_dropout=0"
            )


@dataclass
class ThoughtArch(AttentionArch):
    """Group `arch`, thought-and-memory."""

    mem_unit: ClassVar[str] = "memory slots"
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("thought.Thought")

    updater_layers: int = setting(
        0,
        "layers of the network that rewrites the memory (the updater); 0: half the layers of the predictor, as published "
        "(4 of 8)",
        unit="layers",
        low=0,
        high=MOST_LAYERS,
        of_memory=True,
    )
    recall: float = setting(
        0.5,
        "weight of the recall loss: the tokens of a segment are recalled from the memory alone; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    recall_target: str = setting(
        "tokens",
        "target of the recall loss: tokens: the tokens, by cross-entropy; embeddings: the predictor's activations, by squared "
        "error",
        choices=("tokens", "embeddings"),
        of_memory=True,
    )
    composition: float = setting(
        0.125,
        "weight of the composition loss: the squared difference between a memory that read a segment in pieces and one that "
        "read it at once; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    variance: float = setting(
        1.0,
        "weight of the variance loss: each channel must vary from slot to slot; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    covariance: float = setting(
        0.04,
        "weight of the covariance loss: the channels of the slots must be uncorrelated; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    faithful: bool = setting(
        False, "use the formulas of the published code for the updater and its losses", of_memory=True
    )

    def check(self, beside: Beside) -> None:
        """Check too that the options fit the published formulas and the updater's rotary positions."""
        super().check(beside)
        if self.faithful and self.recall_target == "tokens":
            raise UserError(
                "arch.recall_target is tokens but arch.faithful is true, and the published code recalls activations; expected "
                "arch.recall_target=embeddings with it"
            )
        if beside.mem and not self.faithful and beside.size.head_size % 2:
            raise UserError(
                f"size.head_size is {beside.size.head_size}; expected an even number, because the network that rewrites the "
                "memory has rotary positions"
            )


def check_layers(name: str, layers: list[int], beside: Beside) -> None:
    """Refuse layers that the model does not have or that are named twice.

    Raises:
        UserError: names the option `arch.NAME`.
    """
    if len(set(layers)) != len(layers) or not all(1 <= layer <= beside.size.layers for layer in layers):
        raise UserError(f"arch.{name} is {layers}; expected different layers from 1 to {beside.size.layers}")


def check_sinks(sinks: int, reach: str) -> None:
    """Refuse sinks that a window hides.

    Raises:
        UserError: names both options.
    """
    if sinks and reach == "window":
        raise UserError(
            f"arch.sinks is {sinks} but arch.reach is window, which shows a token only those just before it; expected arch.sinks=0, or "
            "arch.reach=all"
        )


ARCHS: dict[str, type[Arch]] = {
    "vanilla": VanillaArch, "xl": XlArch, "xl_enhanced": XlEnhancedArch, "compressive": CompressiveArch,
    "knn": KnnArch, "knn_routed": KnnArch, "rmt": RmtArch, "rmt_xl": RmtArch, "armt": ArmtArch,
    "infini": InfiniArch, "delta": DeltaArch, "titans": TitansArch, "block": BlockArch, "block_knn": BlockKnnArch, "thought": ThoughtArch,
}  # fmt: skip
"""Schema of each `conf/arch` file, by the file's name."""

RETIRED = ("mem_unit", "mem_is")
"""Options under `arch` in the config.yaml of older runs that have no meaning any more."""
