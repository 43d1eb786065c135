"""Networks that rewrite the slots of a memory from the activations of the tokens that were read.

Shapes: B lanes, T tokens, M slots, D width, H heads, K head size.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.slot_memory import ThoughtArch
from memexp.model.markers import as_gate, as_scale
from memexp.model.transformer.attention import (
    SelfAttention,
    Sight,
    attend,
    join_heads,
    linear,
    scaled,
    split_heads,
)
from memexp.model.transformer.decoder import FeedForward
from memexp.model.transformer.kept import Kept
from memexp.model.transformer.numerics import unit_norm
from memexp.model.transformer.position import Places, Position, Positioned, Rotary
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched


class Written(NamedTuple):
    """A memory after a segment or a piece of a segment."""

    memory_BMD: Tensor
    gauges: Gauges


class Updater(nn.Module, ABC):
    """A network that makes the next memory of a memory and tokens."""

    @abstractmethod
    def write(self, memory_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, *, start: int) -> Written:
        """The next memory; slots may attend where the mask is true, which is at least one token in each lane."""

    @abstractmethod
    def kept(self, kept: Kept, slots: int, length: int) -> float:
        """The bytes that the backward pass needs of one update by `length` tokens, in a lane."""

    @final  # type: ignore[misc]  # nn.Module declares it as an attribute
    def forward(self, memory_BMD: Tensor, text_BTD: Tensor, valid_BT: Tensor, *, start: int = 0) -> Written:
        """The memory after these tokens; lanes without a valid token keep their memory.

        Args:
            text_BTD: the predictor's final activations, not normalised.
            start: the position of the first token in its segment. Tokens of a piece keep their positions, so that the
                memory knows where each token was, however the segment was cut into pieces.

        Raises:
            ValueError: there are no tokens, not even padding. (Attention over no keys would end the process.)
        """
        if not text_BTD.shape[1]:
            raise ValueError("a memory is to be updated from a piece with no tokens; expected at least one position")
        written_B = valid_BT.any(-1)
        text_BTD = torch.where(valid_BT[..., None], text_BTD, 0)
        # a softmax over no keys is NaN, so lanes without a valid token read zeros, and the result is dropped
        mask_BT = valid_BT | ~written_B[:, None]
        memory, gauges = self.write(memory_BMD, text_BTD, mask_BT[:, None, None], start=start)
        kept_BMD = torch.where(written_B[:, None, None], memory.to(memory_BMD.dtype), memory_BMD)
        return Written(kept_BMD, gauges)


class TokenAttention(nn.Module):
    """Attention of slots to tokens."""

    def __init__(self, shape: Shape, *, normalise: bool, scale: float, position: Position) -> None:
        super().__init__()
        inner = shape.heads * shape.head_size
        self.head_size = shape.head_size
        self.queries = linear(shape.width, inner)
        self.keys_values = linear(shape.width, 2 * inner)
        self.output = linear(inner, shape.width)
        self.position = position
        self.scale_H = as_scale(torch.full((shape.heads,), scale)) if normalise else None

    def kept(self, kept: Kept, slots: int, length: int, *, turns: bool) -> float:
        """The bytes that the backward pass needs of `slots` slots that attend to `length` tokens, in a lane.

        Args:
            turns: whether keys are turned by their positions.
        """
        of_slots = kept.normed(slots, products=1) + kept.queries(slots) + kept.read(slots) + kept.residual(slots)
        copied = kept.of_heads(length, kept.shape.width) if kept.half else 0
        keys_values = kept.of_heads(length, (2 + turns) * kept.inner) + kept.unit_norm(length, kept.inner)
        return of_slots + copied + keys_values

    def forward(self, slots_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, places: Places) -> Tensor:
        queries = split_heads(self.queries(slots_BMD), self.head_size)
        keys, values = (split_heads(half, self.head_size) for half in self.keys_values(text_BTD).chunk(2, dim=-1))
        if self.scale_H is not None:
            keys = unit_norm(keys)
        placed: Positioned = self.position(scaled(queries, self.scale_H), keys, places)
        sight = Sight(placed.queries_BHTK, placed.keys_BHSK, placed.bias, keys, values)
        output: Tensor = self.output(join_heads(attend(sight, mask_B11T)))
        return output


class GatedLayer(nn.Module):
    """A pre-norm layer: slots attend to one another without positions, then to the tokens, then a feed-forward layer."""

    def __init__(self, shape: Shape, arch: ThoughtArch) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.attention = SelfAttention(shape, replace(arch, position="none", key_smear=False))
        self.cross_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.cross = TokenAttention(shape, normalise=arch.normalise, scale=arch.scale, position=Rotary())
        self.feedforward_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.feedforward = FeedForward(shape.width, shape.feedforward)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, x_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, places: Places) -> Tensor:
        sight = self.attention.look(self.attention.project(self.attention_norm(x_BMD), None), None)
        x_BMD = x_BMD + self.dropout(self.attention.merge(attend(sight, None)))
        x_BMD = x_BMD + self.dropout(self.cross(self.cross_norm(x_BMD), text_BTD, mask_B11T, places))
        return x_BMD + self.dropout(self.feedforward(self.feedforward_norm(x_BMD)))


@final
class GatedUpdater(Updater):
    """M' = norm(g M + (1 - g) E), where E are the slots after `layers` layers and g is a gate for each entry.

    Learned ids make the slots different. Keys of tokens are rotated by their positions; slots have no position. The norm
    has no learned gain, so a memory can neither grow with the length of a document nor shrink to reduce a loss.
    """

    def __init__(self, shape: Shape, arch: ThoughtArch, *, mem: int, layers: int) -> None:
        super().__init__()
        self.ids_MD = nn.Parameter(torch.randn(mem, shape.width))
        self.text_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.layers = nn.ModuleList(GatedLayer(shape, arch) for _ in range(layers))
        # all gates start near a half, because a gate that starts closed stays closed
        self.gate_DF = as_gate(torch.randn(shape.width, 2 * shape.width) * 0.1 * (2 * shape.width) ** -0.5)
        self.gate_D = as_gate(torch.zeros(shape.width))

    def kept(self, kept: Kept, slots: int, length: int) -> float:
        text = kept.residual(length) + (0 if kept.half else kept.normed(length, products=1))
        # old and new slots, both norms of the new ones, and the gate with its input
        gated = 4 * kept.residual(slots) + 3 * kept.of_heads(slots, kept.shape.width)
        layers = 0.0
        for layer in self.layers:
            assert isinstance(layer, GatedLayer)
            layers += kept.layer(slots, seen=slots, joined=False) + layer.cross.kept(kept, slots, length, turns=True)
        return text + gated + layers

    def write(self, memory_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, *, start: int) -> Written:
        text_BTD = self.text_norm(text_BTD)
        place_T = torch.arange(start, start + text_BTD.shape[1], device=text_BTD.device)
        # all slots at position 0, where a rotation does nothing
        origin_M = torch.zeros(memory_BMD.shape[1], dtype=torch.long, device=text_BTD.device)
        places = Places(origin_M, place_T, lowest=1 - start - text_BTD.shape[1], highest=-start)
        x_BMD = _norm(memory_BMD) + self.ids_MD
        for layer in self.layers:
            x_BMD = layer(x_BMD, text_BTD, mask_B11T, places)
        candidate_BMD = _norm(x_BMD)
        both_BMF = torch.cat([memory_BMD, candidate_BMD], dim=-1)
        keep_BMD = F.linear(both_BMF, self.gate_DF, self.gate_D).sigmoid().to(candidate_BMD.dtype)
        return Written(_norm(torch.lerp(candidate_BMD, memory_BMD.to(candidate_BMD.dtype), keep_BMD)), _gate(keep_BMD))


class PublishedAlibi(Position):
    """The distance penalty of LumenPallidium's code: slopes 2^(-8 / n) for n = H..1 instead of ALiBi's 2^(-8 n / H)."""

    slope_H11: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        slope_H = 2.0 ** (-8 / torch.arange(heads, 0, -1))
        self.register_buffer("slope_H11", slope_H.view(-1, 1, 1), persistent=False)

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        return Positioned(queries_BHTK, keys_BHSK, self.penalty(places))

    def penalty(self, places: Places) -> Tensor:
        """The bias that is added to the scores, 1 H T S."""
        return (-self.slope_H11 * (places.query_T[:, None] - places.key_S).abs())[None]


class AdditiveLayer(nn.Module):
    """Slots attend to the tokens, which are not normalised, then a feed-forward layer with GELU of twice the width."""

    def __init__(self, shape: Shape, *, dropout: float) -> None:
        super().__init__()
        width = shape.width
        self.cross_norm = nn.LayerNorm(width)
        self.cross = TokenAttention(shape, normalise=False, scale=1.0, position=PublishedAlibi(shape.heads))
        self.dropout = nn.Dropout(dropout)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, places: Places) -> Tensor:
        x_BMD = x_BMD + self.dropout(self.cross(self.cross_norm(x_BMD), text_BTD, mask_B11T, places))
        added_BMD: Tensor = self.feedforward(x_BMD)
        return x_BMD + added_BMD


@final
class AdditiveUpdater(Updater):
    """The memory encoder of LumenPallidium's code: slots read only tokens, and what they read is added to them.

    The penalty of slot i for token j is proportional to |i - j|, where j counts from the start of the text that is read.
    *Differs from the code:* no dropout on attention weights, and matrices are initialised as in this package.
    """

    def __init__(self, shape: Shape, arch: ThoughtArch, *, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AdditiveLayer(shape, dropout=arch.dropout) for _ in range(layers))

    def kept(self, kept: Kept, slots: int, length: int) -> float:
        plain = replace(kept, normalise=False)
        layers = 0.0
        for layer in self.layers:
            assert isinstance(layer, AdditiveLayer)
            layers += layer.cross.kept(plain, slots, length, turns=False) + plain.feedforward(slots)
        return kept.residual(length) + layers

    def write(self, memory_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, *, start: int) -> Written:
        slots, length = memory_BMD.shape[1], text_BTD.shape[1]
        place_S = torch.arange(max(slots, length), device=text_BTD.device)
        places = Places(place_S[:slots], place_S[:length], lowest=1 - length, highest=slots - 1)
        for layer in self.layers:
            memory_BMD = layer(memory_BMD, text_BTD, mask_B11T, places)
        return Written(memory_BMD, {})


@if_watched
def _gate(keep_BMD: Tensor) -> Gauges:
    """The mean of the gates: 1 keeps the old memory."""
    return {"gate": keep_BMD.mean()}


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)
