"""Memorizing Transformers: some layers also read the k best of the last `mem` keys and values of their document.

Shapes: B lanes, T tokens, D width, H heads, K head size, C cache, L layers that read the memory, k neighbours.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from memexp.model.attention import (
    AttentionOptions,
    Cache,
    Heads,
    SelfAttention,
    Sight,
    attend,
    causal_mask,
    clear_cache,
    empty_cache,
    local_scores,
    next_cache,
    next_layer_cache,
)
from memexp.model.head import Head
from memexp.model.layers import DecoderLayers
from memexp.model.retrieval import Reading, gated, joint, retrieve
from memexp.model.ring import Ring, ages, clear_ring, empty_ring
from memexp.model.ring import write as write_ring
from memexp.model.segment import Retrieval, SegmentModel, SegmentOutput, Shape, State


class _Pass(NamedTuple):
    """One segment through the network, with what each memory layer read."""

    output: SegmentOutput
    readings: list[Reading]


@final
class Knn(SegmentModel):
    """Memorizing Transformer (Wu et al. 2022, section 3) with a cache in every layer.

    Each lane and head of a memory layer owns a ring of its last `mem` keys and values, without gradient. A query finds
    the k stored keys with the largest inner products, exactly; queries and keys are normalised so that old and new keys
    compare. A segment is written after it was read: all of it (the paper's code, where the last segment is then in the
    cache and in the memory) or only what leaves the cache. With `mem=0` this is Transformer-XL with unused gates.
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
        combine: str,
        gate: float,
        write: str,
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
        self.neighbours, self.write = neighbours, write
        # the paper's 9th of 12, three quarters up
        self.knn_layers = sorted(layer - 1 for layer in knn_layers) or [max(0, int(shape.layers * 0.75) - 1)]
        self.head = Head(shape.vocabulary, shape.width)
        self.dropout = nn.Dropout(dropout)
        positions = [
            "none" if index in self.knn_layers and not knn_position else position for index in range(shape.layers)
        ]
        self.layers = DecoderLayers(
            shape,
            [AttentionOptions(scheme, normalise, scale, key_smear, keys_as_queries) for scheme in positions],
            dropout=dropout,
        )
        gates = torch.full((len(self.knn_layers), shape.heads), gate)
        self.gate_LH = nn.Parameter(gates) if combine == "gate" else None

    def init_state(self, lanes: int) -> State:
        """An empty cache and an empty ring for each memory layer."""
        shape, like = self.shape, self.head.embedding_VD
        slack = (shape.bptt_segments + 1) * shape.segment
        rings = tuple(
            empty_ring(
                lanes=lanes,
                heads=shape.heads,
                head_size=shape.head_size,
                slots=self.memory_slots,
                slack=slack,
                like=like,
            )
            for _ in self.knn_layers
            if self.memory_slots
        )
        return State(empty_cache(shape, lanes=lanes, size=self.cache_tokens, like=like), rings)

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches and rings of the lanes that begin a document."""
        rings = tuple(clear_ring(ring, reset_B) for ring in state.memory)
        return State(clear_cache(state.cache, reset_B), rings)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment over itself, the cache and, in the memory layers, the rings; then write it to the rings."""
        return self._pass(tokens_BT, state).output

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves; writes the segment to the rings of `state` as `step` does."""
        cleared = self.clear(state, reset_B)
        readings = self._pass(tokens_BT, cleared).readings
        if not readings:
            return super().inspect(tokens_BT, valid_BT, state, reset_B)
        # a ring's newest pair is the token just before the segment, or before the cache when only leaving pairs are kept
        behind_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        if self.write == "leaving":
            behind_T += self.cache_tokens
        found = [
            ages(ring)[:, None, None].expand(*reading.slots_BHTk.shape[:3], -1).gather(-1, reading.slots_BHTk)
            for ring, reading in zip(cleared.memory, readings, strict=True)
        ]
        weights = torch.stack([reading.weights_BHTk for reading in readings], dim=1)
        ages_BLHTk = torch.stack(found, dim=1) + behind_T[:, None]
        return Retrieval(
            (ages_BLHTk * (weights > 0)).permute(0, 3, 1, 2, 4),
            weights.permute(0, 3, 1, 2, 4),
        )

    def _pass(self, tokens_BT: Tensor, state: State) -> _Pass:
        cache, layer_caches = state.cache, []
        gauges: dict[str, Tensor] = {}
        rings: list[Ring] = []
        readings: list[Reading] = []
        mask = causal_mask(tokens_BT, cache)
        x_BTD = self.dropout(self.head.embed(tokens_BT))
        for index, layer in enumerate(self.layers):
            past = cache.layers[index] if cache.layers else None
            heads = layer.attention.project(layer.attention_norm(x_BTD), past)
            sight = layer.attention.look(heads, past)
            if index in self.knn_layers and self.memory_slots:
                ring = state.memory[len(rings)]
                reading = self._read(len(rings), heads, sight, mask, ring)
                gauges |= self._gauges(len(rings), layer.attention, reading, ring)
                readings.append(reading)
                rings.append(self._write(ring, heads, sight, cache))
                x_BTD = layer.finish(x_BTD, reading.read_BHTK)
            else:
                x_BTD = layer.finish(x_BTD, attend(sight, mask))
            if past is not None:
                layer_caches.append(next_layer_cache(sight, heads, past))
        state = State(next_cache(layer_caches, cache, tokens_BT.shape[1]), tuple(rings))
        return _Pass(SegmentOutput(x_BTD, state, aux={}, gauges=gauges), readings)

    def _read(self, place: int, heads: Heads, sight: Sight, mask: Tensor | None, ring: Ring) -> Reading:
        retrieved = retrieve(heads.queries_BHTK, ring, self.neighbours)
        if self.gate_LH is None:
            return joint(retrieved, local_scores(sight, mask), sight.values_BHSK)
        return gated(retrieved, attend(sight, mask), self.gate_LH[place])

    def _write(self, ring: Ring, heads: Heads, sight: Sight, cache: Cache) -> Ring:
        keys, values = heads.keys_BHTK, heads.values_BHTK
        length = keys.shape[2]
        valid_B = torch.full_like(ring.count_B, length)
        if self.write == "leaving":
            keys, values = sight.keys_BHSK[:, :, :length], sight.values_BHSK[:, :, :length]
            valid_B = (cache.count_B + length - self.cache_tokens).clamp(0, length)
        return write_ring(ring, keys, values, valid_B=valid_B, slots=self.memory_slots)

    def _gauges(self, place: int, attention: SelfAttention, reading: Reading, ring: Ring) -> dict[str, Tensor]:
        """Fill is what the fullest lane could read; share is the part of the heads' attention that is on the memory."""
        gauges = {
            "memory_fill": ring.count_B.max() / self.memory_slots,
            "memory_share": reading.weights_BHTk.sum(-1).mean(),
        }
        if self.gate_LH is not None:
            gauges["gate"] = self.gate_LH[place].sigmoid().mean()
        if attention.scale_H is not None:
            gauges["scale"] = attention.scale_H.abs().mean()
        suffix = f"_layer{self.knn_layers[place] + 1}" if len(self.knn_layers) > 1 else ""
        return {name + suffix: value.detach() for name, value in gauges.items()}
