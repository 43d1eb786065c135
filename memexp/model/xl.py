"""Transformer-XL: every layer also attends to the keys and values of the `mem` tokens before the segment.

Shapes: B lanes, T tokens, D width.
"""

from typing import final

from torch import Tensor, nn

from memexp.model.segment import Extension, SegmentModel, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import AttentionOptions, clear_cache, empty_cache, open_cache
from memexp.model.transformer.decoder import DecoderLayers
from memexp.model.transformer.shape import Shape, build_head


@final
class Xl(SegmentModel):
    """Transformer-XL (Dai et al. 2019, section 3.2) on the decoder of Memorizing Transformers; no gradient enters the cache.

    `position="xl"` gives it its own relative attention (section 3.3); the default, T5's bias, is that of the
    Transformer-XL rows of Memorizing Transformers' Table 4.
    *Differs from the paper:* the cache holds keys and values as they were, not activations to project again.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        mem: int,
        position: str,
        normalise: bool,
        scale: float,
        dropout: float,
        key_smear: bool,
        keys_as_queries: bool,
    ) -> None:
        super().__init__()
        self.shape, self.cache_tokens, self.memory_slots = shape, mem, 0
        options = AttentionOptions(position, normalise, scale, key_smear, keys_as_queries)
        self.head = build_head(shape)
        self.dropout = nn.Dropout(dropout)
        self.layers = DecoderLayers(shape, [options] * shape.layers, dropout=dropout)

    def init_state(self, lanes: int) -> State:
        """An empty cache."""
        like = self.head.embedding_VD
        return State(empty_cache(self.shape, lanes=lanes, size=self.cache_tokens, like=like), memory=())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches of the lanes that begin a document."""
        return state._replace(cache=clear_cache(state.cache, reset_B))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment over itself and the cache."""
        x_BTD = self.dropout(self.head.embed(tokens_BT))
        read = self.layers.read(x_BTD, state.cache, size=self.cache_tokens)
        return SegmentOutput(read.hidden_BTD, State(read.cache, memory=()), aux={}, gauges=read.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over a cache that grows by the segment so far."""
        x_BTD = self.dropout(self.head.embed(tokens_BT))
        cache = state.cache if kept is None else kept
        if not cache.layers:
            cache = open_cache(self.shape, lanes=len(tokens_BT), like=x_BTD)
        return Extension(*self.layers.read(x_BTD, cache, size=None)[:2])
