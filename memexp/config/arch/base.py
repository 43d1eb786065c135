"""What every architecture with options is, has attention, or has a cache, and what its checks read."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from memexp.config.field import UNSET, changed, default_of, setting
from memexp.config.groups import POSITIONS, Optim, Size
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
    random_memory: ClassVar[bool] = False
    """Whether the memory adds random vectors before it is trained, so that an untrained model reads noise."""
    retrieves: ClassVar[bool] = False
    """Whether the model can say which tokens of a document each token retrieved."""
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

    def layers_at_edge(self) -> list[int]:
        """The layers, counted from 1, whose memory stands where their cache begins, as options name them."""
        return []

    def unstable(self) -> str | None:
        """Why losses may not be finite although training was as it should be, and what helps; None: no reason is known."""
        return None

    def beside_a_checkpoint(self) -> str | None:
        """What keeps the layers of a published checkpoint from taking the place of ours, as "arch.x is y"; None: nothing does."""
        return f"arch is {self.name}"

    def check(self, beside: Beside) -> None:
        """Refuse what no model can be built with; a schema adds its own checks.

        Raises:
            UserError: names the option, what was seen and what was expected.
        """
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

    def check_training(self, beside: Beside) -> None:
        """Refuse what makes no sense in training; a trained model may be scored so, such as with `mem=0`. A schema adds its own checks.

        Raises:
            UserError: names the option, what was seen and what was expected.
        """
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
            if item.metadata.get("of_memory") and changed(self, item.name):
                raise UserError(
                    f"arch.{item.name} is {str(getattr(self, item.name)).lower()} but mem is 0, so it has no effect; expected "
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
