"""Associative Recurrent Memory Transformer: memory tokens write to a matrix in each layer, which later segments read.

Shapes: B lanes, T tokens, M memory tokens, D width, F features of a key, P positions: those of read tokens, tokens and memory
tokens.
"""

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.matrix_memory import ArmtArch
from memexp.model.matrix_memory.associations import (
    NU,
    Associations,
    associate,
    clear,
    dpfp,
    newness,
    nothing_written,
    recall,
    share_of,
    size_of,
)
from memexp.model.matrix_memory.of_layers import OfLayers
from memexp.model.segment import Activations, Extension, Held, MemoryCost, SegmentOutput
from memexp.model.slot_memory.gauges import memory_gauges
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import Attention, Cache, Heads, Mask, Sight, attend, linear, share
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.kept import FULL
from memexp.model.transformer.numerics import at_least_fp32
from memexp.model.transformer.shape import Shape
from memexp.model.watching import mean_of_layers, watched


class Written(NamedTuple):
    """The result of a write: the new memory, and means over the lanes of what was written."""

    memory: Associations
    newness: list[Tensor]
    """Gauge: mean gamma; empty if nobody watches."""


class AssociativeMemory(nn.Module):
    """The projections with which one layer reads and writes its matrix."""

    def __init__(self, shape: Shape, arch: ArmtArch) -> None:
        super().__init__()
        self.queries = linear(shape.width, arch.key_size)
        self.keys = linear(shape.width, arch.key_size)
        self.values = linear(shape.width, shape.width)
        self.strength = linear(shape.width, 1)
        self.strength_bias = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.values.weight)  # a new model is the plain decoder

    @property
    def writing(self) -> int:
        """Weights that only memory tokens use."""
        return sum(part.weight.numel() for part in (self.keys, self.values, self.strength))

    def read(self, x_BPD: Tensor, memory: Associations) -> Tensor:
        """q A / (q z) with q = phi(h W_Q), B P D, of the layer's input h."""
        return recall(memory, dpfp(self.queries(_normed(x_BPD))))

    def write(self, tokens_BMD: Tensor, memory: Associations, there_B: Tensor) -> Written:
        """Write the layer's outputs o at the memory tokens: k = phi(o W_K), v = o W_V, beta = sigmoid(o W_b + c).

        Args:
            there_B: which lanes read a token; the others write nothing.
        """
        tokens_BMD = _normed(tokens_BMD)
        keys_BMF = dpfp(self.keys(tokens_BMD)) * there_B[:, None, None]
        growth_BM = newness(memory, keys_BMF)
        strength_BM = (at_least_fp32(self.strength(tokens_BMD)) + self.strength_bias).sigmoid().squeeze(-1)
        values_BMD = self.values(tokens_BMD)
        written = associate(memory, keys_BMF, values_BMD, delta=True, strength_BN=strength_BM, growth_BN=growth_BM)
        return Written(written, [growth_BM.mean()] if watched() else [])


def _normed(x_BPD: Tensor) -> Tensor:
    return F.rms_norm(x_BPD, x_BPD.shape[-1:], eps=1e-6)


class _Pass:
    """One pass of positions through the layers, which read the memories of the segment's start."""

    def __init__(self, model: "Armt", state: State, *, read: int) -> None:
        """
        Args:
            read: read tokens at the start of the positions.
        """
        self.model, self.memories, self.read = model, state.memory, read
        self.shares: list[Tensor] = []

    def enter(self, index: int, x_BPD: Tensor) -> Tensor:
        """Add what layer `index` reads to its input, or put its memory tokens of the segment before in front."""
        if not self.memories:
            return x_BPD
        if self.model.read_tokens:
            return (
                torch.cat([self.memories[index].to(x_BPD.dtype), x_BPD[:, self.read :]], dim=1) if self.read else x_BPD
            )
        read_BPD = self.model.memories[index].read(x_BPD, self.memories[index]).to(x_BPD.dtype)
        self.shares += share_of(read_BPD, x_BPD)
        return x_BPD + read_BPD

    def attend(self, index: int, attention: Attention, heads: Heads, sight: Sight, mask: Mask) -> Tensor:
        """Local attention; the gauge is the attention weight on read tokens."""
        if self.read:
            self.shares += share(sight, mask, slice(0, self.read))
        return attend(sight, mask)


@final
class Armt(DecoderModel):
    """Associative Recurrent Memory Transformer (Rodkin et al. 2024, section 2).

    `mem` learned memory tokens follow every segment. Attention is causal, so tokens do not see them. Each layer has a matrix A
    (F x D) and a vector z (F), both zero at a document's start, F = 6 `arch.key_size`. All positions read it before the layer, the
    memory tokens write to it after the layer, with phi = DPFP-3:

        h <- h + phi(h W_Q) A / (phi(h W_Q) z)                             (h: the layer's input)
        k = phi(o W_K), v = o W_V, beta = sigmoid(o W_b + c)               (o: its output at a memory token)
        v' = k A / (k z), gamma = clip(1 - k z / |k|^2, 0, 1)              (without gradient)
        A <- A + sum of beta k^T (v - v')
        z <- z + sum of gamma k

    With gamma, a key that is written again and again always reads its latest value exactly. All memory tokens of a segment write as
    if alone: two with the same key write twice. W_V starts at 0, so a new model is the plain decoder. Gradients cross segment
    borders through A and z, within a gradient window. With `mem=0` this is the plain decoder.

    What carries information is A alone: the memory tokens start anew in every segment. With `memory=parallel` (the paper's
    Parallel RMT) there is no A; the outputs of each layer at the memory tokens are the input of the same layer at `mem` read tokens
    before the next segment.

    *Differs from the paper's code:*

    - h and o are brought to a root mean square of 1 before the projections. Our residual stream has no norm of its own, and what is
      read is added to it: without this, values would grow from segment to segment.
    - A divisor is at least 1e-5; the code adds 1e-5 to it. The state is an argument; there it is kept by the modules.
    - Memory tokens have the positions after the segment, and read tokens those before it, in relative positions.
    - Features are not brought to unit norm, as in the paper's equations; later versions of the code do it.
    - Of a published checkpoint, the last layer's outputs are those after its last norm.
    """

    def __init__(self, shape: Shape, mem: int, arch: ArmtArch) -> None:
        super().__init__(shape, cache=0, memory=mem)
        self.read_tokens = mem if arch.memory == "parallel" else 0
        self.features = 2 * NU * arch.key_size
        self.add_layers(arch)
        unit = 1.0 if shape.pretrained is None else shape.pretrained.unit  # of vectors that the layers are used to
        if mem:
            self.write_MD = nn.Parameter(torch.randn(mem, shape.width) * unit)
        if self.read_tokens:
            self.initial_LMD = nn.Parameter(torch.randn(shape.layers, mem, shape.width) * unit)
        elif mem:
            self.memories: OfLayers[AssociativeMemory] = OfLayers(
                AssociativeMemory(shape, arch) for _ in range(shape.layers)
            )

    @property
    def positions(self) -> int:
        """Tokens, memory tokens and read tokens."""
        return self.shape.segment + self.memory_slots + self.read_tokens

    def held(self, *, half: bool) -> Held:
        """The embedding of tokens is there beside that of all positions."""
        return super().held(half=half).beside(FULL * self.shape.segment * self.shape.width * bool(self.memory_slots))

    def activations(self, *, half: bool) -> Activations:
        """Of the memory: the input of unit size, features and their factors; of a read the sum and the mean; A and z."""
        found, shape = super().activations(half=half), self.shape
        if not self.memory_slots or self.read_tokens:
            return found
        position = 3 * self.features + 3 * shape.width
        a_layer = position * (shape.segment + 2 * self.memory_slots) + self.features * (shape.width + 1)
        return found._replace(memory=FULL * shape.layers * a_layer)

    @property
    def memory_cost(self) -> MemoryCost:
        """A read of A and z for each position; a read and a write for each memory token, which alone uses the writing weights."""
        if not self.memory_slots or self.read_tokens:
            return MemoryCost()
        shape, size = self.shape, self.features * (self.shape.width + 1)
        a_token = self.memory_slots / shape.segment
        unused = shape.layers * self.memories[0].writing
        return MemoryCost(
            what="matrices",
            recurrence=shape.layers * size * ((1 + a_token) + 2 * a_token) - unused,
        )

    def init_state(self, lanes: int) -> State:
        """For each layer a matrix and a vector of zeros, or with `memory=parallel` the learned memory tokens."""
        if self.read_tokens:
            return State((), tuple(self.initial_LMD[:, None].expand(-1, lanes, -1, -1)))
        empty = nothing_written(lanes, features=self.features, values=self.shape.width, like=self.head.embedding_VD)
        return State((), (empty,) * self.shape.layers if self.memory_slots else ())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Restore the initial memory of the lanes in which a document begins."""
        if not self.read_tokens:
            return State((), tuple(clear(memory, reset_B) for memory in state.memory))
        pairs = zip(self.initial_LMD, state.memory, strict=True)
        return State((), tuple(torch.where(reset_B[:, None, None], initial, memory) for initial, memory in pairs))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment and the memory tokens behind it, all of which read the memories; then write the outputs."""
        slots, lanes = self.memory_slots, len(tokens_BT)
        parts = [self.head.embed(tokens_BT)]
        if slots:
            parts = [*self._read_tokens(state), *parts, self.write_MD.expand(lanes, -1, -1)]
        read, text = self.read_tokens, slice(self.read_tokens, self.read_tokens + tokens_BT.shape[1])
        reading, there_B = _Pass(self, state, read=read), valid_BT.any(-1)
        memory: list[Tree] = []
        sizes: list[Tensor] = []
        new: list[Tensor] = []

        def write(index: int, output_BPD: Tensor) -> None:
            tokens_BMD, old = output_BPD[:, text.stop :], state.memory[index]
            if self.read_tokens:
                # a copy, because a view would keep all positions of the segment
                memory.append(tokens_BMD.to(old.dtype, copy=True))
                return
            written = self.memories[index].write(tokens_BMD, old, there_B)
            memory.append(written.memory)
            sizes.extend(size_of(written.memory))
            new.extend(written.newness)

        x_BPD = self.dropout(torch.cat(parts, dim=1))
        passed = self.layers.read(
            x_BPD,
            self.empty_cache(lanes),
            size=0,
            attend=reading.attend,
            enter=reading.enter,
            leave=write if slots else None,
            text=text,
        )
        hidden_BTD = passed.hidden_BTD[:, text]
        if not slots:
            return SegmentOutput(hidden_BTD, state, aux={}, gauges={})
        gauges = mean_of_layers(memory_share=reading.shares, memory_norm=sizes, memory_new=new)
        if self.read_tokens:
            gauges |= memory_gauges(torch.cat(state.memory, dim=1), torch.cat(memory, dim=1))
        return SegmentOutput(hidden_BTD, State((), tuple(memory)), aux={}, gauges=gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece, which attends to the read tokens and the segment so far, without memory tokens behind it."""
        first = kept is None
        cache: Cache = self.growing(self.empty_cache(len(tokens_BT))) if kept is None else kept
        parts = [*(self._read_tokens(state) if first else []), self.head.embed(tokens_BT)]
        read = self.read_tokens if first else 0
        reading, text = _Pass(self, state, read=read), slice(read, None)
        x_BPD = self.dropout(torch.cat(parts, dim=1))
        passed = self.layers.read(x_BPD, cache, size=None, attend=reading.attend, enter=reading.enter, text=text)
        return Extension(passed.hidden_BTD[:, text], passed.cache)

    def _read_tokens(self, state: State) -> list[Tensor]:
        """What stands before the segment; each layer puts its own memory there."""
        return [state.memory[0]] if self.read_tokens else []
