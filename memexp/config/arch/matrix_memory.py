"""Options of architectures whose memory is a matrix, or a small network, that associates values with keys."""

from dataclasses import dataclass
from typing import ClassVar

from memexp.config.arch.base import AttentionArch, Beside, check_layers, class_name
from memexp.config.field import setting
from memexp.errors import UserError


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
    random_memory: ClassVar[bool] = True
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
        if beside.mem and self.write == "delta" and not self.unit_keys:
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

    clip: float = setting(
        0.0,
        "largest norm of the gradient that a token teaches a head's network; longer ones are shortened to it, so that a token that is "
        "repeated many times cannot make the network grow without limit. 0: no limit, as in the paper",
        low=0,
        of_memory=True,
        later=True,
    )

    def unstable(self) -> str | None:
        """The steps of equal keys in a chunk add up."""
        if self.memory != "linear" or self.clip or self.chunk == 1:
            return None
        return (
            "arch.memory=linear, which a token that is repeated many times makes grow without limit, unless arch.clip=1"
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
            alone = ", or arch.role=layer" if beside.mem else ""  # a memory takes the place of attention
            raise UserError(
                "arch.window is 0 but arch.role is gate, so tokens would see only themselves in attention; expected a larger "
                f"arch.window{alone}"
            )
        if beside.mem == 1 and self.memory == "mlp":
            raise UserError(
                "mem is 1 but arch.memory is mlp, whose layer norm of a single number is always 0, so that it never learns; expected mem=2 "
                "or more, or arch.memory=linear"
            )
        if self.memory == "linear" and self.expansion != 4:
            raise UserError(
                f"arch.expansion is {self.expansion} but arch.memory is linear, which has no hidden units; expected arch.expansion=4, or "
                "arch.memory=mlp"
            )
