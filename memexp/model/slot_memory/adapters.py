"""Adapters, with which memory tokens do no harm to a decoder that was trained without them.

Shapes: B lanes, L layers, H heads, Q queries, S positions of the strip, M memory tokens, D width, K head size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from memexp.model.markers import as_gate
from memexp.model.slot_memory.strip import Strip
from memexp.model.transformer.attention import Sight, attend, linear
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched


class Apart(NamedTuple):
    """The mask of a strip in two parts, each B 1 Q S."""

    text: Tensor
    """What is read as ever: by read tokens one another, by all others what is no read token."""
    memory: Tensor
    """The read tokens."""
    gated_Q: Tensor
    """Which queries read them through gates: all but these tokens themselves."""


def apart(mask: Tensor, strip: Strip) -> Apart:
    """The two parts of a mask, B 1 Q S."""
    read_S = strip.is_read(mask.device)
    read_Q = read_S[-strip.queries :]
    return Apart(mask & (~read_S | read_Q[:, None]), mask & read_S, ~read_Q)


class Adapters(nn.Module):
    """How tokens read the memory tokens, and what becomes of what is written to them: nothing of either at first.

    A network that was trained without memory tokens pays them attention as to any other token, and takes its own outputs, which
    the next segment reads, for text that it has never seen. So:

    - *Read:* the memory tokens have a softmax of their own, and what it reads is multiplied by tanh(g), with a g for each layer
      and head that starts at 0 (LLaMA-Adapter, Zhang et al. 2023, section 3.2).
    - *Write:* the next memory is the learned initial memory plus a linear map of what was written, which starts at 0.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_LH = as_gate(torch.zeros(shape.layers, shape.heads))
        self.written = linear(shape.width, shape.width)
        nn.init.zeros_(self.written.weight)

    def attend(self, layer: int, sight: Sight, mask: Apart) -> Tensor:
        """The output of each head, B H Q K, of the layer with this index, from 0."""
        of_text, of_memory = attend(sight, mask.text), attend(sight, mask.memory)
        gate_HQ1 = self.gate_LH[layer].tanh()[:, None, None] * mask.gated_Q[:, None]
        return of_text + gate_HQ1.to(of_text.dtype) * of_memory

    def write(self, initial_MD: Tensor, written_BMD: Tensor) -> Tensor:
        """The next memory, B M D."""
        return initial_MD + self.written(written_BMD)

    @if_watched
    def gauges(self) -> Gauges:
        """memory_gate: mean size of tanh(g), of all layers and heads."""
        return {"memory_gate": self.gate_LH.tanh().abs().mean()}
