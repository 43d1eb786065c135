"""The neural memory of Titans in one layer: its networks, what they learn from, and what is made of what was read.

Shapes: B lanes, T tokens, D width, H heads, E size of the memory's keys and values, R rates.
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from memexp.config.arch.matrix_memory import TitansArch
from memexp.model.markers import as_gate
from memexp.model.matrix_memory.learner import NEVER, Form, Learned, Lesson, Rates, Taught, ask, teach
from memexp.model.matrix_memory.recurrent import ConvolvedHeads, GatedOutput, Mixed, Mixer
from memexp.model.state import Tree
from memexp.model.transformer.attention import join_heads, linear, split_heads
from memexp.model.transformer.kept import FULL, Kept
from memexp.model.transformer.numerics import at_least_fp32, unit_norm
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched, mean_of_layers

START = {"step": -3.0, "momentum": 0.0, "forget": -5.0}
"""What each rate is before its sigmoid if the token says nothing: theta = 0.05, eta = 0.5, alpha = 0.007."""


class Begun(NamedTuple):
    """A state within a segment."""

    memory: Learned
    """The networks at the start of a chunk."""
    lesson: Lesson
    """The tokens of the chunk so far."""
    start: Learned
    """The networks at the start of the segment."""
    given: tuple[Tensor, ...] = ()
    """Keys and values of what these gave for the segment so far, with `role=context`."""


class GateOfHeads(nn.Module):
    """What was read of the memory, as a gate for each channel of attention's heads."""

    def __init__(self, shape: Shape, mem: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(mem, eps=1e-6)
        self.projection = linear(shape.heads * mem, shape.heads * shape.head_size)

    products: ClassVar[int] = 0
    """Of the layer's input."""

    def forward(self, x_BTD: Tensor, read_BHTE: Tensor) -> Tensor:
        gate: Tensor = self.projection(join_heads(self.norm(read_BHTE))).sigmoid()
        return gate

    def keeps(self, kept: Kept, length: int) -> float:
        """What was read, before and after its norm, the gate, and what it gates."""
        read, gated = self.projection.in_features, self.projection.out_features
        normed = length * FULL * (read + read // self.norm.normalized_shape[0])
        return normed + kept.of_heads(length, read) + 2 * kept.of_heads(length, gated)


class Given(nn.Module):
    """What the networks give for each token of a segment, as vectors that attention sees beside the tokens."""

    def __init__(self, shape: Shape, mem: int) -> None:
        super().__init__()
        self.size = mem
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.queries = linear(shape.width, shape.heads * mem)
        self.read_norm = nn.RMSNorm(mem, eps=1e-6)
        self.projection = linear(shape.heads * mem, shape.width)

    def forward(self, x_BTD: Tensor, memory: Learned) -> Tensor:
        """RMSNorm(M(q)) W_h, B T D, with q = SiLU(x W_q) of unit norm; the networks do not change."""
        asked = F.silu(at_least_fp32(self.queries(self.norm(x_BTD))))
        read_BHTE = ask(memory, unit_norm(split_heads(asked, self.size)))
        given_BTD: Tensor = self.projection(join_heads(self.read_norm(read_BHTE)))
        return given_BTD

    def keeps(self, kept: Kept, length: int, form: Form) -> float:
        """Norms, queries before SiLU and of unit norm, what the networks compute from them, and what they give."""
        size = self.queries.out_features
        of_head = (7 if form.hidden else 3) * size + 2 * form.hidden * size // form.size
        factors = 4 * size // form.size
        given = kept.normed(length, products=1) + kept.of_heads(length, size + 2 * self.norm.normalized_shape[0])
        return given + length * FULL * (of_head + factors)


class NeuralMemory(Mixer):
    """The networks of one layer, their projections and rates."""

    def __init__(self, shape: Shape, mem: int, arch: TitansArch, output: GatedOutput | GateOfHeads) -> None:
        """
        Args:
            output: makes of the layer's input, B T D, and of what was read, B H T E, the output of the mixer.
        """
        super().__init__()
        self.number, self.chunk, self.to_start = shape.heads, arch.chunk, arch.forget == "start"
        self.clip = arch.clip
        self.heads = ConvolvedHeads(shape, key_size=mem, value_size=mem)
        self.kinds = ["step"] + ["momentum"] * arch.momentum + ["forget"] * (arch.forget != "none")
        self.rates = linear(shape.width, shape.heads * len(self.kinds))
        self.rates_RH = as_gate(torch.tensor([START[kind] for kind in self.kinds])[:, None].repeat(1, shape.heads))
        sizes = [(mem, mem)] if arch.memory == "linear" else [(mem, arch.expansion * mem), (arch.expansion * mem, mem)]
        self.start = nn.ParameterList(torch.randn(shape.heads, *size) * size[0] ** -0.5 for size in sizes)
        self.output = output

    def initial(self, lanes: int) -> Learned:
        """The learned networks, and no momentum."""
        weights = tuple(weight.expand(lanes, -1, -1, -1) for weight in self.start)
        return Learned(weights, tuple(torch.zeros_like(weight) for weight in weights) if self._has("momentum") else ())

    def clear(self, memory: Tree, reset_B: Tensor) -> Learned:
        """The learned networks in the lanes where `reset_B` is true."""
        fresh, reset_B111 = self.initial(len(reset_B)), reset_B[:, None, None, None]
        cleared: Learned = pytree.tree_map(lambda old, new: torch.where(reset_B111, new, old), memory, fresh)
        return cleared

    def begin(self, memory: Tree) -> Begun:
        """The networks at the start of a chunk without tokens."""
        like = memory.weights[0]
        none = like.new_zeros(len(like), self.number, 0, self.heads.key_size)
        rate = none[..., 0]
        rates = Rates(rate, *(rate if self._has(kind) else None for kind in ("momentum", "forget")))
        return Begun(memory, Lesson(none, none, none, rates), start=memory)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor, tail_BWP: Tensor, memory: Tree) -> Mixed:
        """Read and learn, token by token; the networks change after each chunk."""
        queries, keys, values, tail_BWP = self.heads(x_BTD, tail_BWP, unit=True)
        lesson = Lesson(queries, keys, values, self._rates(x_BTD, valid_BT))
        after: Tree
        if isinstance(memory, Begun):
            taught, after = self._go_on(memory, lesson)
        else:
            taught = self._teach(memory, lesson)
            after = taught.memory
        reads_BHTE = taught.reads_BHTE[:, :, -x_BTD.shape[1] :]
        return Mixed(self.output(x_BTD, reads_BHTE), tail_BWP, after, self._gauges(taught, lesson.rates))

    def _has(self, kind: str) -> bool:
        return kind in self.kinds

    def _rates(self, x_BTD: Tensor, valid_BT: Tensor) -> Rates:
        """theta, log eta and log (1 - alpha); tokens that are not valid leave the networks as they are."""
        given_RBHT = at_least_fp32(self.rates(x_BTD)).mT.unflatten(1, (len(self.kinds), -1)).transpose(0, 1)
        given = dict(zip(self.kinds, given_RBHT + self.rates_RH[:, None, :, None], strict=True))
        there_B1T = valid_BT[:, None]
        return Rates(
            given["step"].sigmoid() * there_B1T,
            F.logsigmoid(given["momentum"]).where(there_B1T, NEVER) if self._has("momentum") else None,
            F.logsigmoid(-given["forget"]) * there_B1T if self._has("forget") else None,
        )

    def _teach(self, memory: Learned, lesson: Lesson) -> Taught:
        start = tuple(weight[None] for weight in self.start) if self.to_start else None
        return teach(memory, lesson, chunk=self.chunk, start=start, clip=self.clip)

    def _go_on(self, begun: Begun, lesson: Lesson) -> tuple[Taught, Begun]:
        """Read a piece of a segment; its last tokens are read again with the next piece, until their chunk is full."""
        lesson = begun.lesson.followed_by(lesson)
        whole = lesson.keys.shape[2] // self.chunk * self.chunk
        memory, parts = begun.memory, []
        for part in (slice(0, whole), slice(whole, None)):
            piece = lesson.part(part)
            if piece.keys.shape[2]:
                parts.append(self._teach(memory, piece))
                memory = parts[-1].memory if part.stop else memory
        reads_BHTE = torch.cat([part.reads_BHTE for part in parts], dim=2)
        return parts[-1]._replace(reads_BHTE=reads_BHTE), begun._replace(memory=memory, lesson=piece)

    @if_watched
    def _gauges(self, taught: Taught, rates: Rates) -> Gauges:
        """Gauges of one layer, means over its lanes.

        - memory_error: the squared error of the networks before each chunk.
        - memory_norm: the root mean square of the networks' weights.
        - memory_clipped: the share of tokens whose gradient was longer than `arch.clip`.
        - memory_step, memory_momentum, memory_kept: theta, eta, 1 - alpha.
        """
        norms = [weight.flatten(1).square().mean(-1).sqrt().mean() for weight in taught.memory.weights]
        gauges = {"memory_norm": torch.stack(norms).mean(), "memory_step": rates.step.mean()}
        gauges |= mean_of_layers(memory_error=taught.errors, memory_clipped=taught.clipped)
        if rates.log_momentum is not None:
            gauges["memory_momentum"] = rates.log_momentum.exp().mean()
        return gauges if rates.log_kept is None else gauges | {"memory_kept": rates.log_kept.exp().mean()}

    @property
    def form(self) -> Form:
        """The sizes of a head."""
        hidden = self.start[0].shape[-1] if len(self.start) > 1 else 0
        return Form(self.heads.key_size, hidden, self._has("momentum"), self.to_start, self.chunk, self.clip > 0)

    def multiplications(self, length: int) -> float:
        """With the networks, of each token of a segment."""
        return self.number * self.form.multiplications()

    def keeps(self, kept: Kept, length: int) -> tuple[float, float]:
        """With the rates before and after their sigmoids."""
        own = kept.normed(length, products=2 + self.output.products) + self.heads.keeps(kept, length, unit=True)
        own += self.output.keeps(kept, length) + length * FULL * 2 * self.rates.out_features
        return own, FULL * self.number * self.form.kept(length)

    def holds(self, length: int) -> float:
        """Queries, keys and values, what was read, and the networks and momenta between two chunks."""
        state = sum(weight.numel() for weight in self.start) * (1 + self._has("momentum"))
        read = length * self.number * self.heads.value_size
        return self.heads.holds(length) + FULL * (read + state)
