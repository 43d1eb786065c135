"""Continuing a prompt token by token; the state advances exactly as in the scoring of documents.

prompt and continuation   p0 p1 p2 p3 p4 g0 g1 g2 g3      a stride of 4 tokens
through step              p0 p1 p2 p3 |                   when a stride is full, the state advances
through extend                          p4|g0|g1|g2 |     then step reads p4 to g2 again, and the state advances

Shapes: B lanes, T tokens, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.errors import UserError
from memexp.model.segment import SegmentModel
from memexp.model.state import Tree
from memexp.model.transformer.attention import any_shape
from memexp.model.transformer.numerics import FP32, Arithmetic
from memexp.train.batch import onto


class Sampling(NamedTuple):
    """How a token is drawn from the model's prediction."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Of these, draw from the fewest likeliest tokens that together have this probability, at least one."""


class Drawn(NamedTuple):
    """The next token of every lane."""

    tokens_B: Tensor
    nats_B: Tensor
    """Nats of each token at temperature 1 and before any token was left out; fp32."""


@torch.no_grad()
def generate(
    model: SegmentModel,
    prompt: np.ndarray,
    *,
    tokens: int,
    lanes: int,
    sampling: Sampling,
    seed: int,
    memory: str = "on",
    arithmetic: Arithmetic = FP32,
) -> Iterator[Drawn]:
    """Continue a document that begins with the prompt, independently in every lane, and yield each token when it is drawn.

    Args:
        prompt: token ids.
        seed: of a random generator that only this function uses.
        memory: "on", or "off", which resets the memory to its state at a document's start before every stride.

    Raises:
        UserError: the prompt has no token.
    """
    if not len(prompt):
        raise UserError(
            "the prompt holds no token; expected one at least, because the first token of a document is never predicted"
        )
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    reader = _Reader(model, lanes, memory=memory)
    tokens_BT = onto(np.tile(prompt.astype(np.int64), (lanes, 1)), device)
    for _ in range(tokens):
        with any_shape(), arithmetic.on(device):
            logits_BV = model.head.logits(reader.read(tokens_BT)).float().cpu()
        drawn_B = draw(logits_BV, sampling, generator)
        yield Drawn(drawn_B, F.cross_entropy(logits_BV, drawn_B, reduction="none"))
        tokens_BT = onto(drawn_B[:, None].numpy(), device)


def draw(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Draw one token per lane: apply the temperature, then `top_k`, then `top_p` to the tokens that are left."""
    ordered_BV, order_BV = logits_BV.double().sort(descending=True, stable=True)
    if sampling.temperature == 0:
        return order_BV[:, 0]
    below_BV = (ordered_BV - ordered_BV[:, :1]) / sampling.temperature
    if sampling.top_k:
        below_BV = below_BV[:, : sampling.top_k]
    share_BV = below_BV.softmax(-1)
    before_BV = share_BV.cumsum(-1) - share_BV
    dropped_BV = before_BV >= sampling.top_p
    dropped_BV[:, 0] = False
    chosen_B1 = share_BV.masked_fill(dropped_BV, 0).multinomial(1, generator=generator)
    return order_BV.gather(-1, chosen_B1)[:, 0]


class _Reader:
    """Lanes that read a growing text; the state advances only when a stride is full."""

    def __init__(self, model: SegmentModel, lanes: int, *, memory: str) -> None:
        self._model, self._memory = model, memory
        self._state = model.init_state(lanes)
        self._begun: list[Tensor] = []
        """The pieces of the current, unfinished stride, B T each."""
        self._kept: Tree | None = None
        """What `extend` returned for these pieces."""

    def read(self, tokens_BT: Tensor) -> Tensor:
        """Read at least one more token; returns the final activations of the last token, B D."""
        model = self._model
        while tokens_BT.shape[1]:
            room = model.stride - sum(piece.shape[1] for piece in self._begun)
            piece_BT, tokens_BT = tokens_BT[:, :room], tokens_BT[:, room:]
            if piece_BT.shape[1] == model.stride:
                hidden_BTD = self._step(piece_BT)
            else:
                hidden_BTD, self._kept = model.extend(piece_BT, self._state, self._kept)
                self._begun.append(piece_BT)
                if piece_BT.shape[1] == room:
                    self._step(torch.cat(self._begun, dim=1))
        return hidden_BTD[:, -1]

    def _step(self, tokens_BT: Tensor) -> Tensor:
        """Read a whole stride and advance the state; returns the final activations, B T D."""
        output = self._model.step(tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), self._state)
        self._state, self._begun, self._kept = output.state, [], None
        if self._memory == "off":
            all_B = torch.ones(len(tokens_BT), dtype=torch.bool, device=tokens_BT.device)
            self._state = self._state._replace(memory=self._model.clear(self._state, all_B).memory)
        return output.hidden_BTD
