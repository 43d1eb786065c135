"""Memorizing Transformers: some layers also read the k nearest of the last `mem` keys and values of the document.

Shapes: B lanes, T tokens, D width.
"""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from memexp.config.arch.knn_memory import KnnArch
from memexp.model.knn_memory import cross_batch
from memexp.model.knn_memory.memories import PairPass, build_memories
from memexp.model.knn_memory.ring import Ring, clear_ring
from memexp.model.segment import Activations, Extension, Held, MemoryCost, Retrieval, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import Cache, clear_cache
from memexp.model.transformer.decoder import DecoderModel, Read
from memexp.model.transformer.shape import Shape
from memexp.terminal import Remark


@final
class Knn(DecoderModel):
    """Memorizing Transformer (Wu et al. 2022, section 3) with a cache in every layer.

    In a memory layer, each lane and head has a ring (circular buffer) of its last `mem` keys and values, without gradient.
    Each query retrieves the k stored keys with the largest inner products, by exact search. Queries and keys are
    normalised, so that old and new keys have the same scale. With `search="routed"`, k pairs are chosen for a whole segment
    instead (see `memexp.model.knn_memory.router`).

    A segment is written after it was read: either all of its pairs, or only the pairs that leave the cache. All of them
    is the paper's code, in which the last segment is both in the cache and in the memory. With `mem=0` this is
    Transformer-XL with unused gates.

    With `place="edge"`, where positions turn queries and keys, stored keys stand where the cache begins, so that no distance is larger
    than the network has seen; otherwise they stand at the query. `sinks` are those of Transformer-XL.

    With `negatives=n` it is trained as the Focused Transformer (Tworkowski et al. 2023): instead of the ring, queries see in one
    softmax the last segment of their document, those of n other lanes, and the keys of local attention, all with gradient, within
    a gradient window. So keys of other documents become different. Evaluation reads the ring, and no other lane.

    *Differs from the paper's code:*

    - The gate is off while the memory is empty, and slots that were never written are not found. Search is exact by default,
      not approximate.
    - A token sees the whole cache and its segment. The code shows exactly `cache` tokens before it: `reach="window"`.
    - A token also attends to itself, and nothing attends to the zeros that are the cache at a document's start.
    - The position bias is added after the learned scale, and starts at 0 (see `T5Bias`).
    - With `negatives`, keys outside local attention have no positions; there they are at position 0.
    """

    def __init__(self, shape: Shape, mem: int, arch: KnnArch) -> None:
        self.sinks = arch.sinks if arch.cache else 0
        super().__init__(shape, cache=arch.cache + self.sinks, memory=mem)
        self.reach = arch.cache if arch.reach == "window" else None
        self.negatives = arch.negatives
        self.memories = build_memories(shape, arch, slots=mem, cache=arch.cache, stride=shape.segment, sinks=self.sinks)
        without_positions = replace(arch, position="none")
        has_memory = [str(number) in self.memories for number in range(1, shape.layers + 1)]
        self.add_layers(
            arch, each=[without_positions if memory and not arch.knn_position else arch for memory in has_memory]
        )

    @property
    def memory_cost(self) -> MemoryCost:
        """The cost of search."""
        return self.memories.cost

    def activations(self, *, half: bool) -> Activations:
        """With what the memories keep."""
        length = self.shape.segment
        memory = self.memories.kept(self.kept(half=half), length, seen=length + self.cache_tokens)
        return super().activations(half=half)._replace(memory=memory)

    def held(self, *, half: bool) -> Held:
        """A search needs as much as attention; what the memories have read is there until they are written."""
        found, length = super().held(half=half), self.shape.segment
        read = self.memories.held(self.kept(half=half), length, seen=length + self.cache_tokens)
        return found._replace(
            feedforward=found.feedforward + read, attention=found.attention + read, memory=found.attention
        )

    def remarks(self, device: torch.device) -> list[Remark]:
        """What the user should know about the search, and about a checkpoint."""
        return super().remarks(device) + self.memories.remarks(device)

    def check_device(self, device: torch.device) -> None:
        """Refuse a search that cannot be done there."""
        self.memories.check_device(device)

    def init_state(self, lanes: int) -> State:
        """An empty cache and an empty ring for each memory layer."""
        like = self.head.embedding_VD
        rings = self.memories.empty(lanes, like)
        if not self.negatives:
            return State(self.empty_cache(lanes), rings)
        recent = [cross_batch.nothing_recent(ring, like, self.shape.segment) for ring in rings]
        return State(self.empty_cache(lanes), tuple(map(cross_batch.RingAndRecent, rings, recent)))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the caches and rings of the lanes in which a document begins."""
        forget = cross_batch.clear if self.negatives else clear_ring
        return State(clear_cache(state.cache, reset_B), tuple(forget(memory, reset_B) for memory in state.memory))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment, which attends to itself, the cache and, in memory layers, the rings; then write the rings."""
        recent = tuple(memory.recent for memory in state.memory) if self.negatives else ()
        seen = recent if self.training else ()
        pairs = PairPass(self.memories, self._rings(state), recent=seen, negatives=self.negatives)
        read = self._read(tokens_BT, state.cache, pairs, size=self.cache_tokens)
        # section 3.1: after reading, so that no token retrieves itself
        memory: Tree = pairs.write(state.cache, valid_BT)
        if self.negatives:
            memory = tuple(map(cross_batch.RingAndRecent, memory, pairs.newest(recent, valid_BT)))
        return SegmentOutput(read.hidden_BTD, State(read.cache, memory), aux={}, gauges=pairs.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece; its cache includes the segment so far, and the rings are those of the segment's start."""
        cache = self.growing(state.cache if kept is None else kept)
        read = self._read(tokens_BT, cache, PairPass(self.memories, self._rings(state)), size=None)
        return Extension(read.hidden_BTD, read.cache)

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves; nothing is written."""
        state = self.clear(state, reset_B)
        pairs = PairPass(self.memories, self._rings(state))
        self._read(tokens_BT, state.cache, pairs, size=self.cache_tokens)
        return pairs.retrieval() or super().inspect(tokens_BT, valid_BT, state, reset_B)

    def _rings(self, state: State) -> tuple[Ring, ...]:
        return tuple(memory.ring for memory in state.memory) if self.negatives else state.memory

    def _read(self, tokens_BT: Tensor, cache: Cache, pairs: PairPass, *, size: int | None) -> Read:
        """Pass tokens through all layers; the next cache keeps `size` tokens, or with None all in sight."""
        return self.layers.read(
            self.embed(tokens_BT), cache, size=size, sinks=self.sinks, reach=self.reach, attend=pairs.attend
        )
