"""Transformer-XL with enhanced recurrence: a layer's cache holds what the layer made of the tokens, not what it read of them.

Shapes: B lanes, T tokens, D width, C cache.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

from memexp.config.arch import XlArch
from memexp.model.segment import Extension, SegmentOutput
from memexp.model.state import State, Tree, zero_lanes
from memexp.model.transformer.attention import Cache, LayerCache, clear_cache, next_cache
from memexp.model.transformer.decoder import DecoderLayer, DecoderModel
from memexp.model.transformer.shape import Shape


class ShiftedCache(NamedTuple):
    """The recent past as the layers left it."""

    cache: Cache
    """Its `input_BD` are what projections read of the segment's last token, for the smear of the next one's keys."""
    outputs: tuple[Tensor, ...]
    """Of each layer at the newest token and normed, B D, for the smear of the next keys that are cached."""


@final
class XlEnhanced(DecoderModel):
    """Transformer-XL with the enhanced recurrence of ERNIE-Doc (Ding et al. 2021, section 3.3).

    In a segment a layer attends to keys and values of its inputs, as ever. Its cache is made of its own outputs of the
    segments before, by its own norm and projections, so that what a layer knows comes back to the same layer and no
    number of segments is too far, where Transformer-XL sees layers x `mem` tokens. No gradient enters the cache.
    *Differs from the paper:* the cache holds keys and values as they were, not activations to project again, and reading
    is causal and once.
    """

    def __init__(self, shape: Shape, mem: int, arch: XlArch) -> None:
        super().__init__(shape, cache=mem, memory=0)
        self.add_layers(arch)

    def init_state(self, lanes: int) -> State:
        """An empty cache."""
        cache = self.empty_cache(lanes)
        return State(ShiftedCache(cache, tuple(torch.zeros_like(layer.input_BD) for layer in cache.layers)), memory=())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches of the lanes that begin a document."""
        outputs = tuple(zero_lanes(output_BD, reset_B) for output_BD in state.cache.outputs)
        return State(ShiftedCache(clear_cache(state.cache.cache, reset_B), outputs), memory=())

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment over itself and the cache, then put what the layers made of it into the cache."""
        cache, outputs = state.cache
        read = self.layers.read(self.embed(tokens_BT), cache, size=0)
        # with mem=0 there is nothing to shift
        shifted = [
            self._shift(layer, *of_layer)
            for layer, *of_layer in zip(
                self.layers, read.outputs, cache.layers, read.cache.layers, outputs, strict=False
            )
        ]
        layers, newest = [layer for layer, _ in shifted], tuple(newest_BD for _, newest_BD in shifted)
        state = State(ShiftedCache(next_cache(layers, cache, tokens_BT.shape[1]), newest), memory=())
        return SegmentOutput(read.hidden_BTD, state, aux={}, gauges=read.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over a cache that grows by the inputs of the segment so far."""
        cache = self.growing(state.cache.cache if kept is None else kept)
        read = self.layers.read(self.embed(tokens_BT), cache, size=None)
        return Extension(read.hidden_BTD, read.cache)

    @torch.no_grad()
    def _shift(
        self, layer: DecoderLayer, made_BTD: Tensor, past: LayerCache, read: LayerCache, before_BD: Tensor
    ) -> tuple[LayerCache, Tensor]:
        """A layer's next cache, and what it takes to smear the keys that come after.

        Args:
            read: carries the last token's input.
            before_BD: the output at the token before the segment, normed.
        """
        made = layer.attention.project(layer.attention_norm(made_BTD), past._replace(input_BD=before_BD))
        kind = past.keys_BGCK.dtype
        keys_BGCK = torch.cat([past.keys_BGCK, made.keys_BGTK.to(kind)], dim=2)[:, :, -self.cache_tokens :]
        values_BGCK = torch.cat([past.values_BGCK, made.values_BGTK.to(kind)], dim=2)[:, :, -self.cache_tokens :]
        return LayerCache(keys_BGCK, values_BGCK, read.input_BD), made.input_BD.to(kind)
