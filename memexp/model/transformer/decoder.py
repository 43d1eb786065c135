"""What decoder layers share besides attention.

Shapes: B lanes, T tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch import AttentionArch
from memexp.model.segment import SegmentModel
from memexp.model.transformer.attention import (
    Cache,
    Heads,
    LayerCache,
    Mask,
    SelfAttention,
    Sight,
    causal_mask,
    empty_cache,
    linear,
    next_cache,
    next_layer_cache,
    open_cache,
    share,
)
from memexp.model.transformer.attention import attend as attend_locally
from memexp.model.transformer.shape import Shape, build_head
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

    def __init__(self, shape: Shape, arch: AttentionArch, **attention: bool) -> None:
        """
        Args:
            attention: of `SelfAttention`.
        """
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.attention = SelfAttention(shape, arch, **attention)
        self.feedforward_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.feedforward = FeedForward(shape.width, shape.feedforward)
        self.dropout = nn.Dropout(arch.dropout)

    def finish(self, x_BTD: Tensor, read_BHTK: Tensor) -> Tensor:
        """Add what the heads read, then the feed-forward layer, to the residual stream."""
        x_BTD = x_BTD + self.dropout(self.attention.merge(read_BHTK))
        return x_BTD + self.dropout(self.feedforward(self.feedforward_norm(x_BTD)))


Attend = Callable[[int, SelfAttention, Heads, Sight, Mask], Tensor]
"""What the heads of a layer, counted from 0, read from what is in sight: B H T K."""


class DecoderLayers(nn.ModuleList):
    """One decoder layer for each of `archs`, from the input up."""

    def __init__(self, shape: Shape, archs: Sequence[AttentionArch], **attention: bool) -> None:
        super().__init__(DecoderLayer(shape, arch, **attention) for arch in archs)

    def __iter__(self) -> Iterator[DecoderLayer]:  # says what is in it
        return super().__iter__()  # type: ignore[return-value]

    def read(self, x_BTD: Tensor, cache: Cache, *, size: int | None, attend: Attend | None = None) -> "Read":
        """A segment over itself and a cache through all layers, the pass of Transformer-XL.

        Args:
            cache: may have no layers; then every segment is read by itself.
            size: tokens of the next cache; None keeps all that is in sight.
            attend: what heads read, where that is more than local attention.
        """
        mask = causal_mask(x_BTD, cache)
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []
        outputs: list[Tensor] = []
        for index, layer in enumerate(self):
            past = cache.layers[index] if cache.layers else None
            # Dai et al. 2019, section 3.2: q = W_q h, and k, v = W_k h', W_v h' with h' = [SG(cache), h]
            heads = layer.attention.project(layer.attention_norm(x_BTD), past)
            sight = layer.attention.look(heads, past)
            if attend is None:
                read_BHTK = attend_locally(sight, mask)
            else:
                read_BHTK = attend(index, layer.attention, heads, sight, mask)
            x_BTD = layer.finish(x_BTD, read_BHTK)
            outputs.append(x_BTD)
            if past is not None:
                seen = sight.keys_BGSK.shape[2]
                layer_caches.append(next_layer_cache(sight, heads, past, size=seen if size is None else size))
                shares += [share(sight, mask, slice(0, past.keys_BGCK.shape[2]))] if attend is None else []
        gauges = {"cache_share": torch.stack(shares).mean()} if shares else {}
        return Read(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), gauges, outputs)


class Read(NamedTuple):
    """What `DecoderLayers.read` gives."""

    hidden_BTD: Tensor
    cache: Cache
    gauges: dict[str, Tensor]
    """cache_share: the part of local attention that is on the cache; nothing without one."""
    outputs: list[Tensor]
    """Of every layer, B T D; the last are the final activations."""


class DecoderModel(SegmentModel):
    """What architectures share that are made of decoder layers: an embedding, the layers, and the output layer."""

    dropout: nn.Dropout
    layers: DecoderLayers

    def add_layers(
        self, arch: AttentionArch, *, each: Sequence[AttentionArch] | None = None, **attention: bool
    ) -> None:
        """Make the head and the layers. Parameters stand in the order in which they are made, so a model that has others
        says here where these come.

        Args:
            each: the options of every layer; None: all are `arch`'s.
            attention: of `SelfAttention`.
        """
        self.head = build_head(self.shape)
        self.dropout = nn.Dropout(arch.dropout)
        self.layers = DecoderLayers(self.shape, each or [arch] * self.shape.layers, **attention)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The input of the first layer, B T D."""
        embedded_BTD: Tensor = self.dropout(self.head.embed(tokens_BT))
        return embedded_BTD

    def empty_cache(self, lanes: int) -> Cache:
        """A cache of `cache_tokens` before a document's start."""
        return empty_cache(self.shape, lanes=lanes, size=self.cache_tokens, like=self.head.embedding_VD)

    def growing(self, cache: Cache) -> Cache:
        """A cache that pieces of a segment may be appended to; one without layers, which holds nothing, gets some."""
        if cache.layers:
            return cache
        return open_cache(self.shape, lanes=len(cache.count_B), like=self.head.embedding_VD)

    @property
    def window(self) -> int:
        """The text that is read at once, and what stands among it."""
        return self.stride + self.positions - self.shape.segment

    @property
    def bias_heads(self) -> int:
        """One number a head, where positions are a bias."""
        return self.shape.heads if any(layer.attention.position.adds for layer in self.layers) else 0
