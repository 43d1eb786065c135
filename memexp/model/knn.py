"""Memorizing Transformers: some layers also read the k best of the last `mem` keys and values of their document.

Shapes: B lanes, T tokens, D width.
"""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from memexp.config.arch import KnnArch
from memexp.model.knn_memory.memories import PairPass, build_memories
from memexp.model.knn_memory.ring import clear_ring
from memexp.model.segment import Extension, MemoryCost, Retrieval, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import clear_cache
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.shape import Shape


@final
class Knn(DecoderModel):
    """Memorizing Transformer (Wu et al. 2022, section 3) with a cache in every layer.

    Each lane and head of a memory layer owns a ring of its last `mem` keys and values, without gradient. A query finds
    the k stored keys with the largest inner products, exactly; queries and keys are normalised so that old and new keys
    compare; or, with `search="routed"`, k pairs are chosen for a whole segment (see `memexp.model.knn_memory.router`). A segment is
    written after it was read: all of it (the paper's code, where the last segment is then in the cache and in the
    memory) or only what leaves the cache. With `mem=0` this is Transformer-XL with unused gates.
    *Differs from the paper:* where the memory is empty the gate is off; search is exact, not approximate.
    """

    def __init__(self, shape: Shape, mem: int, arch: KnnArch) -> None:
        super().__init__(shape, cache=arch.cache, memory=mem)
        self.memories = build_memories(shape, arch, slots=mem, cache=arch.cache, stride=shape.segment)
        unplaced = replace(arch, position="none")
        reads = [str(number) in self.memories for number in range(1, shape.layers + 1)]
        self.add_layers(arch, each=[unplaced if read and not arch.knn_position else arch for read in reads])

    @property
    def memory_cost(self) -> MemoryCost:
        """What search costs."""
        return self.memories.cost

    def remarks(self, device: torch.device) -> list[str]:
        """What is to be said of its search."""
        return self.memories.remarks(device)

    def init_state(self, lanes: int) -> State:
        """An empty cache and an empty ring for each memory layer."""
        return State(self.empty_cache(lanes), self.memories.empty(lanes, self.head.embedding_VD))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches and rings of the lanes that begin a document."""
        rings = tuple(clear_ring(ring, reset_B) for ring in state.memory)
        return State(clear_cache(state.cache, reset_B), rings)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment over itself, the cache and, in the memory layers, the rings; then write it to the rings."""
        pairs = PairPass(self.memories, state.memory)
        read = self.layers.read(self.embed(tokens_BT), state.cache, size=self.cache_tokens, attend=pairs.attend)
        rings = pairs.write(state.cache, valid_BT)  # section 3.1: after reading, so that no token finds itself
        return SegmentOutput(read.hidden_BTD, State(read.cache, rings), aux={}, gauges=pairs.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over a cache that grows by the segment so far, and the rings as they were at its start."""
        cache = self.growing(state.cache if kept is None else kept)
        attend = PairPass(self.memories, state.memory).attend
        read = self.layers.read(self.embed(tokens_BT), cache, size=None, attend=attend)
        return Extension(read.hidden_BTD, read.cache)

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves; nothing is written."""
        state = self.clear(state, reset_B)
        pairs = PairPass(self.memories, state.memory)
        self.layers.read(self.embed(tokens_BT), state.cache, size=self.cache_tokens, attend=pairs.attend)
        return pairs.retrieval() or super().inspect(tokens_BT, valid_BT, state, reset_B)
