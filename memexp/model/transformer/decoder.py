"""What decoder layers share besides attention.

Shapes: B lanes, T tokens, D width.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.transformer.attention import (
    AttentionOptions,
    Cache,
    LayerCache,
    SelfAttention,
    attend,
    causal_mask,
    linear,
    next_cache,
    next_layer_cache,
    share,
)
from memexp.model.transformer.shape import Shape
from memexp.regions import part


class FeedForward(nn.Module):
    """Two projections with a ReLU between, as in the Memorizing Transformers code."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rise = linear(width, hidden)
        self.fall = linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        with part("feed-forward"):
            output: Tensor = self.fall(F.relu(self.rise(x_BTD)))
            return output


class DecoderLayer(nn.Module):
    """The modules of a pre-norm decoder layer; each architecture writes out what happens between them."""

    def __init__(self, shape: Shape, options: AttentionOptions, *, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.attention = SelfAttention(shape, options)
        self.feedforward_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.feedforward = FeedForward(shape.width, shape.feedforward)
        self.dropout = nn.Dropout(dropout)

    def finish(self, x_BTD: Tensor, read_BHTK: Tensor) -> Tensor:
        """Add what the heads read, then the feed-forward layer, to the residual stream."""
        x_BTD = x_BTD + self.dropout(self.attention.merge(read_BHTK))
        return x_BTD + self.dropout(self.feedforward(self.feedforward_norm(x_BTD)))


class DecoderLayers(nn.ModuleList):
    """One decoder layer for each entry of `options`, from the input up."""

    def __init__(self, shape: Shape, options: Sequence[AttentionOptions], *, dropout: float) -> None:
        super().__init__(DecoderLayer(shape, each, dropout=dropout) for each in options)

    def __iter__(self) -> Iterator[DecoderLayer]:  # says what is in it
        return super().__iter__()  # type: ignore[return-value]

    def read(self, x_BTD: Tensor, cache: Cache, *, size: int | None) -> "Read":
        """A segment over itself and a cache through all layers, the pass of Transformer-XL.

        Args:
            cache: may have no layers; then every segment is read by itself.
            size: tokens of the next cache; None keeps all that is in sight.
        """
        mask = causal_mask(x_BTD, cache)
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []
        outputs: list[Tensor] = []
        for index, layer in enumerate(self):
            past = cache.layers[index] if cache.layers else None
            heads = layer.attention.project(layer.attention_norm(x_BTD), past)
            sight = layer.attention.look(heads, past)
            x_BTD = layer.finish(x_BTD, attend(sight, mask))
            outputs.append(x_BTD)
            if past is not None:
                seen = sight.keys_BGSK.shape[2]
                layer_caches.append(next_layer_cache(sight, heads, past, size=seen if size is None else size))
                shares.append(share(sight, mask, slice(0, past.keys_BGCK.shape[2])))
        gauges = {"cache_share": torch.stack(shares).mean()} if shares else {}
        return Read(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), gauges, outputs)


class Read(NamedTuple):
    """What `DecoderLayers.read` gives."""

    hidden_BTD: Tensor
    cache: Cache
    gauges: dict[str, Tensor]
    """cache_share: the part of attention that is on the cache; nothing without one."""
    outputs: list[Tensor]
    """Of every layer, B T D; the last are the final activations."""
