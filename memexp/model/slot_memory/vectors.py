"""State vectors of a Block-Recurrent Transformer: tokens read them, and each window of tokens rewrites them.

Shapes: B lanes, T tokens, D width, M state vectors, H heads, G heads of keys and values, K head size, S tokens in sight.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.slot_memory import BlockArch
from memexp.model.markers import as_scale
from memexp.model.slot_memory.gates import Cell, Gated, build_cell, keep_of_means
from memexp.model.transformer.attention import SelfAttention, join_heads, linear, scaled, split_heads
from memexp.model.transformer.kept import FULL, Kept
from memexp.model.transformer.numerics import unit_norm
from memexp.model.transformer.shape import Shape


class StateAttention(nn.Module):
    """Attention from or to state vectors: queries with their own scale, given keys and values, no positions.

    The scale starts at `arch.scale`, but at least at sqrt(K), where scores of random keys have unit variance. With a start
    at 1, as in the paper's code, attention would be uniform at first, and all state vectors would read the same.
    """

    def __init__(self, shape: Shape, arch: BlockArch) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.queries = linear(shape.width, shape.heads * shape.head_size)
        scale = max(arch.scale, shape.head_size**0.5)
        self.scale_H = as_scale(torch.full((shape.heads,), scale)) if arch.normalise else None

    def forward(self, x_BTD: Tensor, keys_BGSK: Tensor, values_BGSK: Tensor, mask_B11S: Tensor | None = None) -> Tensor:
        """The output of each head, B H T K."""
        queries_BHTK = scaled(split_heads(self.queries(x_BTD), self.head_size), self.scale_H)
        heads, dtype = queries_BHTK.shape[1], values_BGSK.dtype
        return F.scaled_dot_product_attention(
            queries_BHTK.to(dtype),
            keys_BGSK.to(dtype).expand(-1, heads, -1, -1),
            values_BGSK.expand(-1, heads, -1, -1),
            attn_mask=mask_B11S,
            scale=1.0,
        )

    @torch.no_grad()
    def scale_as(self, attention: SelfAttention) -> None:
        """Take the learned scale of a layer's attention."""
        if self.scale_H is not None and attention.scale_H is not None:
            self.scale_H.copy_(attention.scale_H)


class Seen(NamedTuple):
    """State vectors at the start of a window; tokens and the vectors themselves read the same keys and values."""

    vectors_BMD: Tensor
    input_BMD: Tensor
    """The input of the projections."""
    keys_BGMK: Tensor
    values_BGMK: Tensor


class FromStates(NamedTuple):
    """What tokens read from state vectors."""

    output_BTD: Tensor
    """To be added to the output of self-attention."""
    read_BHTK: Tensor
    """The output of each head."""


BORROWED_OUTPUT = 0.3
"""The part of its layer's output projection that a borrowing reader starts with, so that it disturbs the layer little."""


class StateReader(nn.Module):
    """The attention of one layer's tokens to state vectors, in addition to their self-attention.

    The paper projects the heads of both attentions together. Here each attention has its own part of this projection. The
    result is the same, and weights of a decoder without state vectors can be loaded. Each part starts as a projection of its
    own H K inputs. In the paper's code all 2 H K inputs share one projection, whose weights start a root of 2 smaller.
    """

    def __init__(self, shape: Shape, arch: BlockArch) -> None:
        super().__init__()
        self.attention = StateAttention(shape, arch)
        self.output = linear(shape.heads * shape.head_size, shape.width)

    def forward(self, x_BTD: Tensor, seen: Seen) -> FromStates:
        read_BHTK = self.attention(x_BTD, seen.keys_BGMK, seen.values_BGMK)
        return FromStates(self.output(join_heads(read_BHTK)), read_BHTK)

    @torch.no_grad()
    def start_as(self, attention: SelfAttention) -> None:
        """Start to ask the state vectors what the layer's own attention asks its tokens."""
        queries = self.attention.queries.weight
        queries.copy_(attention.queries_values.weight[: len(queries)])
        self.attention.scale_as(attention)
        self.output.weight.copy_(BORROWED_OUTPUT * attention.output.weight)

    @torch.no_grad()
    def start_silent(self) -> None:
        """Start without an effect, in a layer whose queries are not those of the layer with the state vectors."""
        self.output.weight.zero_()


def reader_keeps(kept: Kept, positions: int) -> float:
    """The bytes that the backward pass needs of so many tokens that read state vectors, in a lane; their norm is that of the layer."""
    own_copy = kept.of_heads(positions, kept.shape.width) if kept.half else 0
    return own_copy + kept.queries(positions) + kept.read(positions)


class StateVectors(nn.Module):
    """The state vectors of one recurrent layer (Hutchins et al. 2022, section 3): initial values and update.

    They attend to one another and to tokens, with different queries, and a gate takes the place of every residual
    connection. Learned ids, added after the norm, make them different.

    With `arch.borrow`, a departure, values are computed without the ids, and `start_as` gives the starting weights.
    """

    def __init__(self, shape: Shape, arch: BlockArch, *, count: int) -> None:
        super().__init__()
        self.head_size, self.normalise, self.borrow = shape.head_size, arch.normalise, arch.borrow
        stored = shape.head_size if arch.shared_values else shape.heads * shape.head_size
        self.initial_MD = nn.Parameter(torch.randn(count, shape.width) * 0.1)
        self.ids_MD = nn.Parameter(torch.randn(count, shape.width))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.keys = linear(shape.width, stored)
        self.values = linear(shape.width, stored)
        self.over_vectors = StateAttention(shape, arch)
        self.over_tokens = StateAttention(shape, arch)
        self.cell: Cell = build_cell(shape, arch)

    def kept(self, kept: Kept) -> float:
        """The bytes that the backward pass needs of seeing and rewriting the vectors once, in a lane."""
        count = len(self.initial_MD)
        seen = kept.residual(count) + kept.normed(count, products=4) + kept.unit_norm(count, kept.keys)
        values = kept.of_heads(count, kept.keys)
        rewritten = 2 * (kept.queries(count) + kept.read(count)) + kept.of_heads(count, 2 * kept.inner)
        return seen + values + rewritten + self.cell.kept(kept, count)

    def held(self, kept: Kept) -> float:
        """The bytes of `Seen` in a lane, beside the vectors."""
        count = len(self.initial_MD)
        return FULL * count * kept.shape.width + kept.of_heads(count, 2 * kept.keys)

    def see(self, vectors_BMD: Tensor) -> Seen:
        """The keys and values of the state vectors."""
        normed_BMD = self.norm(vectors_BMD)
        input_BMD = normed_BMD + self.ids_MD
        keys_BGMK = split_heads(self.keys(input_BMD), self.head_size)
        if self.normalise:
            keys_BGMK = unit_norm(keys_BGMK)
        values_BMF = self.values(normed_BMD if self.borrow else input_BMD)
        return Seen(vectors_BMD, input_BMD, keys_BGMK, split_heads(values_BMF, self.head_size))

    @torch.no_grad()
    def start_as(self, attention: SelfAttention) -> None:
        """Start from a layer's attention: as means of its values over many windows, each found by what it asks for."""
        self.over_tokens.scale_as(attention)
        queries_HKD = self.over_tokens.queries.weight.unflatten(0, (-1, self.head_size))
        stored = self.keys.out_features // self.head_size  # heads that share keys share the mean of their questions
        keys_GKD = queries_HKD.unflatten(0, (stored, -1)).mean(1) * (len(queries_HKD) / stored) ** 0.5
        self.keys.weight.copy_(keys_GKD.flatten(0, 1))
        nn.init.eye_(self.values.weight)
        self.cell.start_as_mean(keep_of_means(len(self.values.weight.T)))

    def rewrite(self, seen: Seen, keys_BGSK: Tensor, values_BGSK: Tensor, mask_B11S: Tensor) -> Gated:
        """The state vectors after a window.

        Args:
            keys_BGSK, values_BGSK: keys and values of the tokens, without positions.
            mask_B11S: which tokens the vectors may read; at least one in each lane.
        """
        own_BHMK = self.over_vectors(seen.input_BMD, seen.keys_BGMK, seen.values_BGMK)
        text_BHMK = self.over_tokens(seen.input_BMD, keys_BGSK, values_BGSK, mask_B11S)
        gated: Gated = self.cell(seen.vectors_BMD, join_heads(torch.cat([own_BHMK, text_BHMK], dim=1)))
        return gated


class RecurrentVectors(nn.ModuleList):
    """The state vectors of all recurrent layers, from the input to the output; memory is a tuple with a B M D per layer."""

    def __iter__(self) -> Iterator[StateVectors]:  # only to declare the type
        return super().__iter__()  # type: ignore[return-value]

    def initial(self, lanes: int) -> tuple[Tensor, ...]:
        """The learned initial vectors, with gradient."""
        return tuple(layer.initial_MD.expand(lanes, -1, -1) for layer in self)

    def start_again(self, memory: tuple[Tensor, ...], where_B: Tensor) -> tuple[Tensor, ...]:
        """The memory with the initial vectors in the lanes where `where_B` is true."""
        initial = self.initial(len(where_B))
        return tuple(torch.where(where_B[:, None, None], *pair) for pair in zip(initial, memory, strict=True))

    def see(self, memory: tuple[Tensor, ...]) -> tuple[Seen, ...]:
        """The keys and values of each layer's state vectors."""
        return tuple(layer.see(vectors_BMD) for layer, vectors_BMD in zip(self, memory, strict=True))
