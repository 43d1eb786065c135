"""Transformer-XL: every layer also attends to the keys and values of the `mem` tokens before the segment.

Shapes: B lanes, T tokens, D width.
"""

from typing import final

from torch import Tensor

from memexp.config.arch.transformer import XlArch
from memexp.model.segment import Extension, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import clear_cache
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.shape import Shape


@final
class Xl(DecoderModel):
    """Transformer-XL (Dai et al. 2019, section 3.2) on the decoder of Memorizing Transformers; no gradient enters the cache.

    `position="xl"` with `normalise=false` selects its own relative attention (section 3.3). The default is T5's bias on
    queries and keys of unit norm, as in the Transformer-XL rows of Table 4 of Memorizing Transformers. With `reach="window"` a
    token sees itself and the `mem` tokens before it, as in the code of that paper (there without itself); otherwise it sees the
    whole cache and its segment, as in Transformer-XL. With `sinks=n` the cache also keeps the document's first n tokens, as in
    StreamingLLM (Xiao et al. 2023, section 3.2).

    *Differs from the paper:* the cache holds keys and values, not activations that are projected again, so the weights of
    keys and values get no gradient through the cache.
    """

    def __init__(self, shape: Shape, mem: int, arch: XlArch) -> None:
        self.sinks = arch.sinks if mem else 0
        super().__init__(shape, cache=mem + self.sinks, memory=0)
        self.reach = mem if arch.reach == "window" else None
        self.add_layers(arch)

    def init_state(self, lanes: int) -> State:
        """An empty cache."""
        return State(self.empty_cache(lanes), memory=())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the caches of the lanes in which a document begins."""
        return state._replace(cache=clear_cache(state.cache, reset_B))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment, which attends to itself and the cache."""
        read = self.layers.read(
            self.embed(tokens_BT), state.cache, size=self.cache_tokens, sinks=self.sinks, reach=self.reach
        )
        return SegmentOutput(read.hidden_BTD, State(read.cache, memory=()), aux={}, gauges=read.gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece; its cache includes the segment so far."""
        cache = self.growing(state.cache if kept is None else kept)
        read = self.layers.read(self.embed(tokens_BT), cache, size=None, reach=self.reach)
        return Extension(read.hidden_BTD, read.cache)
