"""A transformer that sees one segment and nothing before it.

Shapes: B lanes, T tokens, D width.
"""

from typing import final

from torch import Tensor, nn

from memexp.model.attention import AttentionOptions, attend
from memexp.model.head import Head
from memexp.model.layers import DecoderLayers
from memexp.model.segment import SegmentModel, SegmentOutput, Shape, State


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
        self.cache_tokens = self.memory_slots = 0
        options = AttentionOptions(position, normalise, scale, key_smear, keys_as_queries)
        self.head = Head(shape.vocabulary, shape.width)
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
        for layer in self.layers:
            heads = layer.attention.project(layer.attention_norm(x_BTD), None)
            x_BTD = layer.finish(x_BTD, attend(layer.attention.look(heads, None), None))
        return SegmentOutput(x_BTD, state, aux={}, gauges={})
