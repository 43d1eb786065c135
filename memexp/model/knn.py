"""Memorizing Transformers: some layers also read the k best of the last `mem` keys and values of their document.

Shapes: B lanes, T tokens, D width.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from memexp.model.knn_memory.layer import PairOptions, PairPass, build_memories
from memexp.model.knn_memory.ring import clear_ring
from memexp.model.segment import Extension, Retrieval, SegmentModel, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import (
    AttentionOptions,
    Cache,
    LayerCache,
    causal_mask,
    clear_cache,
    empty_cache,
    next_cache,
    next_layer_cache,
    open_cache,
)
from memexp.model.transformer.decoder import DecoderLayers
from memexp.model.transformer.shape import Shape, build_head


class _Read(NamedTuple):
    """A segment, or a piece of one, through the network."""

    hidden_BTD: Tensor
    cache: Cache
    pairs: PairPass


@final
class Knn(SegmentModel):
    """Memorizing Transformer (Wu et al. 2022, section 3) with a cache in every layer.

    Each lane and head of a memory layer owns a ring of its last `mem` keys and values, without gradient. A query finds
    the k stored keys with the largest inner products, exactly; queries and keys are normalised so that old and new keys
    compare; or, with `search="routed"`, k pairs are chosen for a whole segment (see `memexp.model.knn_memory.router`). A segment is
    written after it was read: all of it (the paper's code, where the last segment is then in the cache and in the
    memory) or only what leaves the cache. With `mem=0` this is Transformer-XL with unused gates.
    *Differs from the paper:* where the memory is empty the gate is off; search is exact, not approximate.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        mem: int,
        cache: int,
        knn_layers: list[int],
        neighbours: int,
        search: str,
        combine: str,
        gate: float,
        write: str,
        stored: str,
        stored_on: str,
        knn_position: bool,
        position: str,
        normalise: bool,
        scale: float,
        dropout: float,
        key_smear: bool,
        keys_as_queries: bool,
    ) -> None:
        super().__init__()
        self.shape, self.cache_tokens, self.memory_slots = shape, cache, mem
        options = PairOptions(neighbours, search, combine, gate, write, stored, stored_on)
        self.memories = build_memories(shape, options, layers=knn_layers, slots=mem, cache=cache, stride=shape.segment)
        self.head = build_head(shape)
        self.dropout = nn.Dropout(dropout)
        positions = [
            "none" if str(number) in self.memories and not knn_position else position
            for number in range(1, shape.layers + 1)
        ]
        self.layers = DecoderLayers(
            shape,
            [AttentionOptions(scheme, normalise, scale, key_smear, keys_as_queries) for scheme in positions],
            dropout=dropout,
        )

    def remarks(self, device: torch.device) -> list[str]:
        """What is to be said of its search."""
        return self.memories.remarks(device)

    def init_state(self, lanes: int) -> State:
        """An empty cache and an empty ring for each memory layer."""
        like = self.head.embedding_VD
        cache = empty_cache(self.shape, lanes=lanes, size=self.cache_tokens, like=like)
        return State(cache, self.memories.empty(lanes, like))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches and rings of the lanes that begin a document."""
        rings = tuple(clear_ring(ring, reset_B) for ring in state.memory)
        return State(clear_cache(state.cache, reset_B), rings)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment over itself, the cache and, in the memory layers, the rings; then write it to the rings."""
        read = self._read(tokens_BT, state, size=self.cache_tokens)
        rings = read.pairs.write(state.cache, valid_BT)
        return SegmentOutput(read.hidden_BTD, State(read.cache, rings), aux={}, gauges=read.pairs.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over a cache that grows by the segment so far, and the rings as they were at its start."""
        cache = state.cache if kept is None else kept
        if not cache.layers:
            cache = open_cache(self.shape, lanes=len(tokens_BT), like=self.head.embedding_VD)
        return Extension(*self._read(tokens_BT, state._replace(cache=cache), size=None)[:2])

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves; nothing is written."""
        pairs = self._read(tokens_BT, self.clear(state, reset_B), size=self.cache_tokens).pairs
        return pairs.retrieval() if pairs.rings else super().inspect(tokens_BT, valid_BT, state, reset_B)

    def _read(self, tokens_BT: Tensor, state: State, *, size: int | None) -> _Read:
        """Through all layers; `size` is that of the next cache, None keeps all in sight."""
        cache, pairs = state.cache, PairPass(self.memories, state.memory)
        layer_caches: list[LayerCache] = []
        x_BTD = self.dropout(self.head.embed(tokens_BT))
        mask = causal_mask(x_BTD, cache)
        for index, layer in enumerate(self.layers):
            past = cache.layers[index] if cache.layers else None
            heads = layer.attention.project(layer.attention_norm(x_BTD), past)
            sight = layer.attention.look(heads, past)
            x_BTD = layer.finish(x_BTD, pairs.attend(index, layer.attention, heads, sight, mask))
            if past is not None:
                whole = sight.keys_BGSK.shape[2]
                layer_caches.append(next_layer_cache(sight, heads, past, size=whole if size is None else size))
        return _Read(x_BTD, next_cache(layer_caches, cache, tokens_BT.shape[1]), pairs)
