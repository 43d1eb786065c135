"""A transformer that sees only the current segment.

Shapes: B lanes, T tokens, D width.
"""

from typing import final

from torch import Tensor

from memexp.config.arch.transformer import VanillaArch
from memexp.model.segment import Extension, SegmentOutput
from memexp.model.state import State, Tree
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.shape import Shape


@final
class Vanilla(DecoderModel):
    """The decoder of Memorizing Transformers (Wu et al. 2022, section 3) without memory or cache.

    Pre-norm (RMSNorm), no biases, ReLU, tied embedding, normalised queries and keys, T5 position bias.
    *Differs from the paper's code:* the learned scale of a head multiplies its scores but not its position bias, which starts
    at 0 (see `T5Bias`).
    """

    def __init__(self, shape: Shape, mem: int, arch: VanillaArch) -> None:
        if mem:
            raise ValueError(f"mem is {mem}; a transformer without memory takes 0")
        super().__init__(shape, cache=0, memory=0)
        self.add_layers(arch)

    def init_state(self, lanes: int) -> State:
        """An empty state, because nothing is carried."""
        return State(cache=(), memory=())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Return the state as it is, because there is nothing to forget."""
        return state

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment."""
        no_cache = self.empty_cache(len(tokens_BT))
        read = self.layers.read(self.embed(tokens_BT), no_cache, size=0)
        return SegmentOutput(read.hidden_BTD, state, aux={}, gauges={})

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece, which also attends to the keys and values of the segment so far."""
        cache = self.growing(self.empty_cache(len(tokens_BT))) if kept is None else kept
        read = self.layers.read(self.embed(tokens_BT), cache, size=None)
        return Extension(read.hidden_BTD, read.cache)
