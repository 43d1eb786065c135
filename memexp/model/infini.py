"""Infini-attention: each head also reads a matrix in which all earlier segments were written.

Shapes: B lanes, T tokens, D width, H heads, K head size.
"""

from typing import final

import torch
from torch import Tensor, nn

from memexp.config.arch.matrix_memory import InfiniArch
from memexp.model.markers import as_gate
from memexp.model.matrix_memory.associations import (
    Associations,
    associate,
    clear,
    elu_plus_one,
    nothing_written,
    recall,
    share_of,
    size_of,
)
from memexp.model.matrix_memory.of_layers import OfLayers
from memexp.model.segment import Activations, Extension, Held, MemoryCost, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import Attention, Heads, Mask, Sight, attend
from memexp.model.transformer.decoder import DecoderModel, Read
from memexp.model.transformer.kept import FULL
from memexp.model.transformer.numerics import unit_norm
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched, mean_of_layers

CLOSED = -5.0
"""Start of the gates b of a published checkpoint, whose attention keeps 99 % of its weight."""

GATE_RATE = 30.0
"""Factor on the learning rate of the gates, which at the rate of the other weights stay near one half (see `Infini`)."""


class CompressiveMemory(nn.Module):
    """The memory of one layer: features of queries and keys, and the gate of each head."""

    def __init__(self, shape: Shape, arch: InfiniArch) -> None:
        super().__init__()
        self.delta, self.normalise, self.enlarge = arch.write == "delta", arch.normalise, shape.head_size**0.5
        start = 0.0 if shape.pretrained is None else CLOSED
        self.gate_H = as_gate(torch.full((shape.heads,), start), rate=GATE_RATE)

    def read(self, heads: Heads, memory: Associations) -> Tensor:
        """A_mem = phi(q) M / (phi(q) z), B H T K; heads that share keys and values read one matrix."""
        queries_BHTK = unit_norm(heads.queries_BHTK) if self.normalise else heads.queries_BHTK
        features_BHTK = elu_plus_one(queries_BHTK * self.enlarge)
        groups, (count, length) = memory.matrix_BFV.shape[1], features_BHTK.shape[1:3]
        if groups == count:
            return recall(memory, features_BHTK)
        read_BGNK = recall(memory, features_BHTK.unflatten(1, (groups, -1)).flatten(2, 3))
        return read_BGNK.unflatten(2, (-1, length)).flatten(1, 2)

    def mix(self, memory_BHTK: Tensor, local_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the output: sigmoid(b) A_mem, and (1 - sigmoid(b)) A_loc."""
        gate_H11 = self.gate_H.sigmoid()[:, None, None]
        return gate_H11 * memory_BHTK, (1 - gate_H11) * local_BHTK

    def write(self, heads: Heads, memory: Associations, valid_BT: Tensor) -> Associations:
        """M + phi(K)^T (V - phi(K) M / (phi(K) z)) with the delta rule, else M + phi(K)^T V; z + sum of phi(k)."""
        keys_BHTK = elu_plus_one(heads.keys_BGTK * self.enlarge if self.normalise else heads.keys_BGTK)
        return associate(memory, keys_BHTK * valid_BT[:, None, :, None], heads.values_BGTK, delta=self.delta)


class _Pass:
    """One pass of tokens through the layers, which read the memories of the segment's start."""

    def __init__(self, model: "Infini", memories: tuple[Associations, ...], valid_BT: Tensor | None) -> None:
        """
        Args:
            valid_BT: which tokens are written to the memories, in each layer before the next is read; None: nothing is.
        """
        self.model, self.memories, self.valid_BT = model, memories, valid_BT
        self.written: list[Associations] = []
        self.shares: list[Tensor] = []

    def attend(self, index: int, attention: Attention, heads: Heads, sight: Sight, mask: Mask) -> Tensor:
        """The output of the heads of layer `index`, counted from 0, B H T K."""
        local_BHTK = attend(sight, mask)
        if not self.memories:
            return local_BHTK
        memory, old = self.model.memories[index], self.memories[index]
        if self.valid_BT is not None:
            self.written.append(memory.write(heads, old, self.valid_BT))
        from_memory, from_segment = memory.mix(memory.read(heads, old), local_BHTK)
        self.shares += share_of(from_memory, from_segment)
        return (from_memory + from_segment).to(local_BHTK.dtype)


@final
class Infini(DecoderModel):
    """Infini-attention (Munkhdalai, Faruqui, Gopal 2024, section 2.1) in every layer, without a cache.

    Each head has a matrix M (K x K) and a vector z (K), both zero at a document's start. With q, k, v of the local attention,
    before positions, phi(u) = ELU(u) + 1 and one learned b for each head:

        A_mem = phi(q) M / (phi(q) z)                                      (read, before the segment is written)
        output = sigmoid(b) A_mem + (1 - sigmoid(b)) A_loc                 (A_loc: causal attention in the segment)
        M <- M + phi(K)^T V                                                (`write=linear`)
        M <- M + phi(K)^T (V - phi(K) M / (phi(K) z))                      (`write=delta`)
        z <- z + sum of phi(k)

    Gradients cross segment borders through M and z, within a gradient window. A memory that is empty gives A_mem = 0, so the
    output of the first segment is (1 - sigmoid(b)) A_loc. With `mem=0` this is the plain decoder, with unused gates.

    z never shrinks, with `write=delta` neither: after many segments A_mem tends to a mean of all values, and what is new counts
    little. `arch=armt` corrects this.

    *Differs from the paper:*

    - Scores are divided by sqrt(K) or, by default, are those of unit-norm queries and keys with a learned scale. In this case phi
      takes unit-norm vectors times sqrt(K), without the scale, so that their elements are as large as those of plain ones.
    - b starts at 0, without weight decay, with `GATE_RATE` times the learning rate. The paper does not say how; with the rate of
      the other weights, those who repeated it (Hugging Face, 2024) found the gates still at one half after training.
    - A divisor is at least 1e-5, and nothing is added to the numerator.
    - Of a published checkpoint, b starts at `CLOSED`, and heads that share keys and values share M and z.
    """

    def __init__(self, shape: Shape, mem: int, arch: InfiniArch) -> None:
        super().__init__(shape, cache=0, memory=mem)
        self.delta = arch.write == "delta"
        self.add_layers(arch)
        self.memories: OfLayers[CompressiveMemory] = OfLayers(
            CompressiveMemory(shape, arch) for _ in range(shape.layers)
        )

    def activations(self, *, half: bool) -> Activations:
        """Of the memory, beside M and z: of queries the unit vectors, these before ELU and features, of keys the last two, and of a
        read the sum and the mean; of a write a copy of the values, or with the delta rule the sum that is recalled and the difference."""
        found, shape, size = super().activations(half=half), self.shape, self.shape.head_size
        of_queries, of_keys = size * shape.segment * 5, size * (shape.segment * (3 + self.delta) + size + 1)
        a_layer = shape.heads * of_queries + shape.stored_heads * of_keys
        return found._replace(memory=FULL * shape.layers * a_layer * bool(self.memory_slots))

    def held(self, *, half: bool) -> Held:
        """Of a read of the memory, beside what heads hold: unit vectors, features, the same in one piece, the sum and the mean, in fp32."""
        found, kept, length = super().held(half=half), self.kept(half=half), self.shape.segment
        inner = FULL * length * kept.inner * (4 + kept.normalise)
        return found._replace(memory=(found.attention + inner) * bool(self.memory_slots))

    @property
    def memory_cost(self) -> MemoryCost:
        """A read and a write of M and z for each head and token, and a second read for the delta rule."""
        shape, size = self.shape, self.shape.head_size
        a_read = (size + 1) * size
        a_layer = shape.heads * a_read + shape.stored_heads * (self.delta * a_read + size * size)
        return MemoryCost(what="matrices", recurrence=shape.layers * a_layer * bool(self.memory_slots))

    def init_state(self, lanes: int) -> State:
        """For each layer a matrix and a vector of zeros for each head."""
        shape, size = self.shape, self.shape.head_size
        empty = nothing_written(lanes, shape.stored_heads, features=size, values=size, like=self.head.embedding_VD)
        return State(cache=(), memory=(empty,) * shape.layers * self.memory_slots)

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the memories of the lanes in which a document begins."""
        return State(cache=(), memory=tuple(clear(memory, reset_B) for memory in state.memory))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment, which attends to itself and reads the memories; then write it to the memories."""
        reading, read = self._read(tokens_BT, state, None, valid_BT=valid_BT)
        if not self.memory_slots:
            return SegmentOutput(read.hidden_BTD, state, aux={}, gauges={})
        written = tuple(reading.written)
        return SegmentOutput(read.hidden_BTD, State((), written), aux={}, gauges=self._gauges(reading, written))

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece, which also attends to the segment so far; the memories are those of the segment's start."""
        _, read = self._read(tokens_BT, state, self.growing(self.empty_cache(len(tokens_BT))) if kept is None else kept)
        return Extension(read.hidden_BTD, read.cache)

    def _read(
        self, tokens_BT: Tensor, state: State, kept: Tree | None, *, valid_BT: Tensor | None = None
    ) -> tuple[_Pass, Read]:
        """Pass tokens through all layers; the next cache keeps all in sight, or nothing if there is no `kept`.

        Args:
            valid_BT: as `_Pass` takes it.
        """
        reading = _Pass(self, state.memory, valid_BT)
        cache, size = (self.empty_cache(len(tokens_BT)), 0) if kept is None else (kept, None)
        return reading, self.layers.read(self.embed(tokens_BT), cache, size=size, attend=reading.attend)

    @if_watched
    def _gauges(self, reading: _Pass, written: tuple[Associations, ...]) -> Gauges:
        """Gauges that show whether the memory is used.

        - gate, gate_least, gate_most: sigmoid(b), over all heads of all layers; all at one half if the gates do not learn.
        - memory_share: `share_of` what was read, mean over layers.
        - memory_norm: `size_of` the memories, mean over layers.
        """
        gates = torch.stack([self.memories[index].gate_H.sigmoid() for index in range(len(written))])
        return {
            "gate": gates.mean(),
            "gate_least": gates.min(),
            "gate_most": gates.max(),
            **mean_of_layers(
                memory_share=reading.shares, memory_norm=[size for memory in written for size in size_of(memory)]
            ),
        }
