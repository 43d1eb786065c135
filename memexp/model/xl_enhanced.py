"""Transformer-XL with enhanced recurrence: the cache of a layer is made of the layer's outputs, not of its inputs.

Shapes: B lanes, T tokens, D width, C cache.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

from memexp.config.arch.transformer import XlEnhancedArch
from memexp.model.segment import Extension, SegmentOutput
from memexp.model.state import State, Tree, zero_lanes
from memexp.model.transformer.attention import Cache, LayerCache, append, clear_cache, next_cache
from memexp.model.transformer.decoder import DecoderLayer, DecoderModel
from memexp.model.transformer.shape import Shape


class ShiftedCache(NamedTuple):
    """Keys and values of each layer's outputs in the recent past."""

    cache: Cache
    """Its `input_BD` is the input of the projections at the last token, which the key smear of the next segment needs."""
    outputs: tuple[Tensor, ...]
    """For each layer, its normalised output at the last token, B D, which the key smear of the next cached keys needs."""


@final
class XlEnhanced(DecoderModel):
    """Transformer-XL with the enhanced recurrence of ERNIE-Doc (Ding et al. 2021, section 3.3).

    Within a segment a layer attends to keys and values of its inputs, as usual. Its cache holds keys and values that its
    own norm and projections make of its outputs for earlier segments. So information returns to the same layer and can
    pass through any number of segments, whereas Transformer-XL sees only layers x `mem` tokens back. No gradient enters
    the cache.
    *Differs from the paper:* the cache holds keys and values, not activations that are projected again; reading is causal,
    and each document is read once.
    """

    cache_in_sight = False

    def __init__(self, shape: Shape, mem: int, arch: XlEnhancedArch) -> None:
        super().__init__(shape, cache=mem, memory=0)
        self.reach = mem if arch.reach == "window" else None
        self.add_layers(arch)

    def init_state(self, lanes: int) -> State:
        """An empty cache."""
        cache = self.empty_cache(lanes)
        return State(ShiftedCache(cache, tuple(torch.zeros_like(layer.input_BD) for layer in cache.layers)), memory=())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the caches of the lanes in which a document begins."""
        outputs = tuple(zero_lanes(output_BD, reset_B) for output_BD in state.cache.outputs)
        return State(ShiftedCache(clear_cache(state.cache.cache, reset_B), outputs), memory=())

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment, which attends to itself and the cache, then put the outputs of the layers into the cache."""
        cache, newest = state.cache
        shifted: list[tuple[LayerCache, Tensor]] = []

        def shift(index: int, output_BTD: Tensor) -> None:
            shifted.append(self._shift(self.layers[index], output_BTD, cache.layers[index], newest[index]))

        read = self.layers.read(
            self.embed(tokens_BT), cache, size=0, reach=self.reach, leave=shift if cache.layers else None
        )
        layers = [
            layer._replace(input_BD=of_input.input_BD)
            for (layer, _), of_input in zip(shifted, read.cache.layers, strict=True)
        ]
        after = ShiftedCache(
            next_cache(layers, cache, tokens_BT.shape[1]), tuple(newest_BD for _, newest_BD in shifted)
        )
        return SegmentOutput(read.hidden_BTD, State(after, memory=()), aux={}, gauges=read.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece; its cache includes the inputs of the segment so far."""
        cache = self.growing(state.cache.cache if kept is None else kept)
        read = self.layers.read(self.embed(tokens_BT), cache, size=None, reach=self.reach)
        return Extension(read.hidden_BTD, read.cache)

    @torch.no_grad()
    def _shift(
        self, layer: DecoderLayer, output_BTD: Tensor, past: LayerCache, before_BD: Tensor
    ) -> tuple[LayerCache, Tensor]:
        """The next keys and values of a layer, and its normalised output at the last token, B D.

        Args:
            output_BTD: the output of the layer for the segment.
            past: the layer's cache before the segment.
            before_BD: the normalised output at the token before the segment.
        """
        heads = layer.attention.project(layer.attention_norm(output_BTD), past._replace(input_BD=before_BD))
        keys_BGCK = append(past.keys_BGCK, heads.keys_BGTK)
        values_BGCK = append(past.values_BGCK, heads.values_BGTK)
        return past._replace(keys_BGCK=keys_BGCK, values_BGCK=values_BGCK), heads.input_BD.to(past.keys_BGCK.dtype)
