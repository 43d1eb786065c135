"""Models in which some layers carry a state from token to token, and the others have attention in a window.

Shapes: B lanes, T tokens, W tokens before a convolution, D width, H heads, K size of a key, V size of a value, P channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.base import AttentionArch
from memexp.model.matrix_memory.of_layers import OfLayers
from memexp.model.segment import Activations, Extension, Held, MemoryCost, SegmentOutput
from memexp.model.state import State, Tree, zero_lanes
from memexp.model.transformer.attention import Cache, clear_cache, join_heads, linear, split_heads
from memexp.model.transformer.decoder import Attend, DecoderModel, PreNormLayer, Read
from memexp.model.transformer.kept import FULL, Kept
from memexp.model.transformer.numerics import at_least_fp32, unit_norm
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, mean_of_layers

TAPS = 4
"""Tokens that a short convolution sees: a token and the three before it."""


class Mixed(NamedTuple):
    """The result of mixing the tokens of a segment."""

    output_BTD: Tensor
    tail_BWP: Tensor
    """The last inputs of the short convolution."""
    memory: Tree
    gauges: Gauges


class Mixer(nn.Module, ABC):
    """Mixes tokens by a state that every token changes; takes the place of attention in a layer."""

    heads: "ConvolvedHeads"

    @abstractmethod
    def initial(self, lanes: int) -> Tree:
        """The state at a document's start."""

    @abstractmethod
    def clear(self, memory: Tree, reset_B: Tensor) -> Tree:
        """The state, with that of a document's start in the lanes where `reset_B` is true."""

    def begin(self, memory: Tree) -> Tree:
        """What `forward` takes instead of the state to read a segment in pieces, and then gives for the next piece."""
        return memory

    @abstractmethod
    def forward(self, x_BTD: Tensor, valid_BT: Tensor, tail_BWP: Tensor, memory: Tree) -> Mixed:
        """Mix the tokens; those that are not valid write nothing."""

    @abstractmethod
    def multiplications(self, length: int) -> float:
        """With the state, for each of the `length` tokens of a segment, in the forward pass."""

    @abstractmethod
    def keeps(self, kept: Kept, length: int) -> tuple[float, float]:
        """Bytes that the backward pass needs of `length` tokens, with the norm before the mixer: of its own, and of the state."""

    @abstractmethod
    def holds(self, length: int) -> float:
        """Bytes that it holds at most while it reads `length` tokens of a lane and no backward pass follows, beside a state before and
        after."""


class ShortConvolution(nn.Module):
    """A causal convolution over the last `TAPS` tokens, for each channel by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(TAPS, channels).uniform_(-(TAPS**-0.5), TAPS**-0.5))

    def forward(self, x_BTP: Tensor, tail_BWP: Tensor) -> tuple[Tensor, Tensor]:
        """The convolved tokens, in at least fp32, and the last `TAPS` - 1 inputs, which the next segment needs."""
        # as sums of products: on a GPU, torch lets convolutions in fp32 round to TF32
        seen_BSP, length = torch.cat([tail_BWP, at_least_fp32(x_BTP)], dim=1), x_BTP.shape[1]
        output_BTP = seen_BSP[:, :length] * self.weight[0]
        for tap in range(1, TAPS):
            output_BTP = torch.addcmul(output_BTP, seen_BSP[:, tap : tap + length], self.weight[tap])
        # a copy, for the state would otherwise hold all inputs of the segment until the next one is read
        return output_BTP, seen_BSP[:, length:].clone()


class ConvolvedHeads(nn.Module):
    """Queries, keys and values of heads, after a short convolution and SiLU."""

    def __init__(self, shape: Shape, *, key_size: int, value_size: int) -> None:
        super().__init__()
        self.key_size, self.value_size = key_size, value_size
        keys, values = shape.heads * key_size, shape.heads * value_size
        self.sizes = [keys, keys, values]
        self.projection = linear(shape.width, sum(self.sizes))
        self.convolution = ShortConvolution(sum(self.sizes))

    def forward(self, x_BTD: Tensor, tail_BWP: Tensor, *, unit: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys B H T K, values B H T V, all in at least fp32, and the last inputs of the convolution.

        Args:
            unit: whether queries and keys get unit norm.
        """
        convolved_BTP, tail_BWP = self.convolution(self.projection(x_BTD), tail_BWP)
        queries, keys, values = F.silu(convolved_BTP).split(self.sizes, dim=-1)
        # in one piece, because they are kept as they are made
        queries, keys = (split_heads(part, self.key_size).contiguous() for part in (queries, keys))
        if unit:
            queries, keys = unit_norm(queries), unit_norm(keys)
        return queries, keys, split_heads(values, self.value_size), tail_BWP

    def holds(self, length: int) -> float:
        """Queries, keys and values together, and the first two in one piece each."""
        return length * FULL * (sum(self.sizes) + 2 * self.sizes[0])

    def keeps(self, kept: Kept, length: int, *, unit: bool) -> float:
        """Inputs of the convolution and of SiLU, and the factors of queries and keys; not these themselves, nor the input."""
        return length * FULL * (2 * sum(self.sizes) + 2 * unit * self.sizes[0] // self.key_size)


class GatedOutput(nn.Module):
    """What heads have read, normed and times SiLU of a gate for each channel, projected to the width."""

    products: ClassVar[int] = 1
    """Of the layer's input."""

    def __init__(self, shape: Shape, *, value_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        values = shape.heads * value_size
        self.gate = linear(shape.width, values)
        self.norm = nn.RMSNorm(value_size, eps=eps)
        self.projection = linear(values, shape.width)

    def forward(self, x_BTD: Tensor, read_BHTV: Tensor) -> Tensor:
        gate_BTP = F.silu(self.gate(x_BTD))
        read_BTP = join_heads(self.norm(read_BHTV)).to(gate_BTP.dtype)
        output: Tensor = self.projection(read_BTP * gate_BTP)
        return output

    def keeps(self, kept: Kept, length: int) -> float:
        """What was read, before and after its norm, gates before and after SiLU, and their product."""
        values = self.projection.in_features
        return length * FULL * (values + values // self.norm.normalized_shape[0]) + 4 * kept.of_heads(length, values)


class Recent(NamedTuple):
    """The exact recent past."""

    window: Cache
    """Of the layers with attention."""
    tails: tuple[Tensor, ...]
    """Of the recurrent layers: the last inputs of their short convolutions, B W P."""


class Pass:
    """One pass of tokens through all layers: the recurrent layers in front of each layer with attention, then that layer."""

    attend: Attend | None = None
    """What the layers with attention do, as `DecoderLayers.read` takes it."""

    def __init__(self, model: "RecurrentModel", valid_BT: Tensor, recent: Recent, memory: tuple[Tree, ...]) -> None:
        self.model, self.valid_BT = model, valid_BT
        self.tails, self.memory = list(recent.tails), list(memory)
        self.gauges: list[Gauges] = []

    def enter(self, index: int, x_BTD: Tensor) -> Tensor:
        """Pass the input of attention layer `index` through the recurrent layers before it; the last index: those at the end."""
        for number in self.model.before[index]:
            layer = self.model.recurrent[number]
            x_BTD = layer.add(x_BTD, self.mix(number, layer.attention_norm(x_BTD)))
        return x_BTD

    def mix(self, number: int, x_BTD: Tensor) -> Tensor:
        """The output of a mixer, which moves its state."""
        mixed = self.model.mixers[number](x_BTD, self.valid_BT, self.tails[number], self.memory[number])
        self.tails[number], self.memory[number] = mixed.tail_BWP, mixed.memory
        self.gauges.append(mixed.gauges)
        output_BTD: Tensor = mixed.output_BTD
        return output_BTD


class RecurrentModel(DecoderModel):
    """Base class of architectures with recurrent layers beside layers with attention in a window.

    A token of a layer with attention sees itself and the `window` tokens before it, as `arch=xl arch.reach=window`. Without
    recurrent layers this is that model. The state moves with every token, so it does not matter how a text is cut into segments.
    Gradients cross segment borders through the state and the short convolution, not through the window.
    """

    recurrent: OfLayers[PreNormLayer]
    """Those whose tokens are mixed by a `Mixer`."""
    passing: type[Pass] = Pass
    """How tokens pass through the layers."""
    before: list[list[int]]
    """For each layer with attention the recurrent layers in front of it, counted from 0, and at last those behind all of these."""

    def add_parts(self, arch: AttentionArch, mixers: Mapping[int, Mixer]) -> None:
        """Make the head and the layers.

        Args:
            mixers: of the recurrent layers, by their place among all layers, counted from 0.
        """
        layers = range(self.shape.layers)
        self.reach = self.cache_tokens
        self.add_layers(arch, each=[arch for index in layers if index not in mixers])
        self.recurrent = OfLayers(
            PreNormLayer(self.shape, mixers[index], dropout=arch.dropout) for index in sorted(mixers)
        )
        self.before = [[]]
        for index in layers:
            if index in mixers:
                self.before[-1].append(sum(other < index for other in mixers))
            else:
                self.before.append([])

    @property
    def mixers(self) -> list[Mixer]:
        """In the order of their layers."""
        return [layer.attention for layer in self.recurrent]  # type: ignore[misc]

    def activations(self, *, half: bool) -> Activations:
        """With what the recurrent layers keep."""
        found, kept, length = super().activations(half=half), self.kept(half=half), self.shape.segment
        own = [mixer.keeps(kept, length) for mixer in self.mixers]
        a_layer = kept.residual(length) + kept.feedforward(length)
        layers = found.layers + len(self.recurrent) * a_layer + sum(layer for layer, _ in own)
        return found._replace(layers=layers, memory=sum(memory for _, memory in own))

    def held(self, *, half: bool) -> Held:
        """With the mixer that holds most, beside the residual stream and its norm."""
        found, length = super().held(half=half), self.shape.segment
        most = max((mixer.holds(length) for mixer in self.mixers), default=0.0)
        embedded = FULL * self.positions * self.shape.width
        return found._replace(memory=embedded + 2 * FULL * length * self.shape.width + most)

    @property
    def memory_cost(self) -> MemoryCost:
        """What the recurrent layers multiply with their states."""
        each = [mixer.multiplications(self.shape.segment) for mixer in self.mixers]
        return MemoryCost(what="matrices", recurrence=sum(each))

    def init_state(self, lanes: int) -> State:
        """An empty window, no tokens before the first, and the initial state of each recurrent layer."""
        like, mixers = self.head.embedding_VD, self.mixers
        tails = (like.new_zeros(lanes, TAPS - 1, sum(mixer.heads.sizes)) for mixer in mixers)
        recent = Recent(self.empty_cache(lanes), tuple(tails))
        return State(recent, tuple(mixer.initial(lanes) for mixer in mixers))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Forget all of the lanes in which a document begins."""
        tails = tuple(zero_lanes(tail, reset_B) for tail in state.cache.tails)
        pairs = zip(self.mixers, state.memory, strict=True)
        memory = tuple(mixer.clear(own, reset_B) for mixer, own in pairs)
        return State(Recent(clear_cache(state.cache.window, reset_B), tails), memory)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment; every token changes the states."""
        passed, read = self._read(tokens_BT, valid_BT, state.cache, state.memory, size=self.cache_tokens)
        names = passed.gauges[0] if passed.gauges else {}
        gauges = mean_of_layers(**{name: [own[name] for own in passed.gauges] for name in names})
        after = State(Recent(read.cache, tuple(passed.tails)), tuple(passed.memory))
        return SegmentOutput(read.hidden_BTD, after, aux={}, gauges=read.gauges | gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece with the states as the piece before left them, and a window that includes the segment so far."""
        if kept is None:
            recent, memory = state.cache, tuple(m.begin(own) for m, own in zip(self.mixers, state.memory, strict=True))
        else:
            recent, memory = kept
        recent = recent._replace(window=self.growing(recent.window))
        passed, read = self._read(tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), recent, memory, size=None)
        return Extension(read.hidden_BTD, (Recent(read.cache, tuple(passed.tails)), tuple(passed.memory)))

    def _read(
        self, tokens_BT: Tensor, valid_BT: Tensor, recent: Recent, memory: tuple[Tree, ...], *, size: int | None
    ) -> tuple[Pass, Read]:
        """Pass tokens through all layers; the next window keeps `size` tokens, or with None all in sight."""
        x_BTD = self.embed(tokens_BT) * valid_BT[..., None]  # so that no gauge depends on what stands in the padding
        passing = self.passing(self, valid_BT, recent, memory)
        read = self.layers.read(
            x_BTD, recent.window, size=size, reach=self.reach, attend=passing.attend, enter=passing.enter
        )
        return passing, read._replace(hidden_BTD=passing.enter(len(self.layers), read.hidden_BTD))
