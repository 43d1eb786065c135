"""A transformer that sees one segment and nothing before it.

Shapes: B lanes, T tokens, D width.
"""

from typing import final

from torch import Tensor, nn

from memexp.model.segment import Extension, SegmentModel, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import AttentionOptions, empty_cache, open_cache
from memexp.model.transformer.decoder import DecoderLayers
from memexp.model.transformer.shape import Shape, build_head


@final
class Vanilla(SegmentModel):
    """The decoder of Memorizing Transformers (Wu et al. 2022, section 3) without memory or cache.

    Pre-norm with gains only, no biases, ReLU, tied embedding, normalised queries and keys, T5 position bias.
    *Differs from the paper:* the learned scale of a head multiplies its scores but not its position bias.
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
        if mem:
            raise ValueError(f"mem is {mem}; a transformer without memory takes 0")
        self.shape, self.cache_tokens, self.memory_slots = shape, 0, 0
        options = AttentionOptions(position, normalise, scale, key_smear, keys_as_queries)
        self.head = build_head(shape)
        self.dropout = nn.Dropout(dropout)
        self.layers = DecoderLayers(shape, [options] * shape.layers, dropout=dropout)

    def init_state(self, lanes: int) -> State:
        """Nothing is carried."""
        return State(cache=(), memory=())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """There is nothing to forget."""
        return state

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment."""
        x_BTD = self.dropout(self.head.embed(tokens_BT))
        nothing = empty_cache(self.shape, lanes=len(tokens_BT), size=0, like=x_BTD)
        return SegmentOutput(self.layers.read(x_BTD, nothing, size=0).hidden_BTD, state, aux={}, gauges={})

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over the keys and values of the segment so far."""
        x_BTD = self.dropout(self.head.embed(tokens_BT))
        cache = open_cache(self.shape, lanes=len(tokens_BT), like=x_BTD) if kept is None else kept
        return Extension(*self.layers.read(x_BTD, cache, size=None)[:2])
