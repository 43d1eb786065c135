"""Decoder layers, and the base class of models that are made of them.

Shapes: B lanes, T tokens, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.base import Arch, AttentionArch
from memexp.model.markers import Compilable
from memexp.model.segment import Activations, Held, SegmentModel
from memexp.model.transformer.attention import (
    Attention,
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
from memexp.model.transformer.kept import ALIGNED, Kept
from memexp.model.transformer.position import RelativeXl
from memexp.model.transformer.shape import Shape, build_head
from memexp.model.watching import Gauges, mean_of_layers
from memexp.regions import part


class FeedForward(nn.Module):
    """Two projections with a ReLU between them, as in the Memorizing Transformers code."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rise = linear(width, hidden)
        self.fall = linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        with part("feed-forward"):
            output: Tensor = self.fall(F.relu(self.rise(x_BTD)))
            return output


class PreNormLayer(nn.Module):
    """The modules of a pre-norm layer: something that mixes tokens, of any kind, and a feed-forward layer."""

    compilable: ClassVar[Compilable] = {"add": "feed-forward"}

    def __init__(self, shape: Shape, attention: nn.Module, *, dropout: float) -> None:
        """
        Args:
            attention: mixes tokens; its input is `attention_norm` of the residual stream.
        """
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.attention = attention
        self.feedforward_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.feedforward = FeedForward(shape.width, shape.feedforward)
        self.dropout = nn.Dropout(dropout)

    def add(self, x_BTD: Tensor, mixed_BTD: Tensor) -> Tensor:
        """Add what was mixed, then the output of the feed-forward layer, to the residual stream."""
        x_BTD = x_BTD + self.dropout(mixed_BTD)
        return x_BTD + self.dropout(self.feedforward(self.feedforward_norm(x_BTD)))


class DecoderLayer(PreNormLayer):
    """The modules of a layer with self-attention; an architecture calls them one by one, with its own steps between."""

    compilable: ClassVar[Compilable] = {"finish": "feed-forward"}
    attention: SelfAttention

    def __init__(self, shape: Shape, arch: AttentionArch, *, two_sided: bool, shared_values: bool) -> None:
        """
        Args:
            two_sided, shared_values: as `SelfAttention` takes them.
        """
        attention = SelfAttention(shape, arch, two_sided=two_sided, shared_values=shared_values)
        super().__init__(shape, attention, dropout=arch.dropout)

    def finish(self, x_BTD: Tensor, read_BHTK: Tensor) -> Tensor:
        """Add the output of the heads, then that of the feed-forward layer, to the residual stream."""
        return self.add(x_BTD, self.attention.merge(read_BHTK))


Attend = Callable[[int, Attention, Heads, Sight, Mask], Tensor]
"""A function of the layer's index, its attention, projections, sight and mask; returns the output of each head, B H T K."""

Enter = Callable[[int, Tensor], Tensor]
"""A function of the layer's index and its input, B T D; returns the input that the layer gets instead."""

Leave = Callable[[int, Tensor], None]
"""Is called with the layer's index and its output, B T D; of the last layer these are the final activations."""

ReadHeads = Callable[[int, Attention, Heads], Tensor]
"""A function of the layer's index, its attention and projections; returns the output of each head, B H T K."""


class Layers(ABC):
    """The layers of a decoder, our own or a published checkpoint's."""

    @property
    @abstractmethod
    def attentions(self) -> Sequence[Attention]:
        """The attention of each layer."""

    @abstractmethod
    def through(
        self,
        x_BTD: Tensor,
        read_heads: ReadHeads,
        *,
        past: Sequence[LayerCache] = (),
        enter: Enter | None = None,
        leave: Leave | None = None,
        text: slice = slice(None),
    ) -> Tensor:
        """Pass a segment through all layers, whose heads read what `read_heads` returns; gives the final activations, B T D.

        Args:
            past: the cache of each layer; may be empty.
            enter, leave, text: as `read` takes them.
        """

    def read(
        self,
        x_BTD: Tensor,
        cache: Cache,
        *,
        size: int | None,
        sinks: int = 0,
        reach: int | None = None,
        attend: Attend | None = None,
        enter: Enter | None = None,
        leave: Leave | None = None,
        text: slice = slice(None),
    ) -> "Read":
        """Pass a segment through all layers; each layer attends to the segment and to the cache, as in Transformer-XL.

        Args:
            cache: may have no layers; then the segment attends only to itself.
            size: tokens of the next cache; None keeps all tokens in sight.
            sinks: how many of these are the document's first.
            reach: how many tokens before itself a token sees at most; None: all tokens in sight.
            attend: computes the output of the heads; None: local attention.
            enter: changes the input of each layer; None: it is the output of the layer before.
            leave: what else is done with the output of each layer, which is not kept for it.
            text: which positions are tokens of the document, as `SelfAttention.project` takes it.
        """
        masks = {reach: causal_mask(x_BTD, cache, reach=reach)}
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []

        def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
            past = cache.layers[index] if cache.layers else None
            nearer = min((each for each in (reach, attention.reach) if each is not None), default=None)
            if nearer not in masks:
                masks[nearer] = causal_mask(x_BTD, cache, reach=nearer)
            mask = masks[nearer]
            sight = attention.look(heads, past, mask.places)
            read_BHTK = attend_locally(sight, mask) if attend is None else attend(index, attention, heads, sight, mask)
            if past is not None:
                keep = sight.keys_BGSK.shape[2] if size is None else size
                layer_caches.append(next_layer_cache(sight, heads, past, size=keep, sinks=sinks, count_B=cache.count_B))
                shares.extend(share(sight, mask, slice(0, past.keys_BGCK.shape[2])) if attend is None else [])
            return read_BHTK

        hidden_BTD = self.through(x_BTD, read_heads, past=cache.layers, enter=enter, leave=leave, text=text)
        gauges = mean_of_layers(cache_share=shares)
        return Read(hidden_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), gauges)


class DecoderLayers(Layers, nn.ModuleList):
    """One decoder layer for each of `archs`, from the input to the output."""

    def __init__(self, shape: Shape, archs: Sequence[AttentionArch], *, two_sided: bool, shared_values: bool) -> None:
        super().__init__(DecoderLayer(shape, arch, two_sided=two_sided, shared_values=shared_values) for arch in archs)

    def __iter__(self) -> Iterator[DecoderLayer]:  # only to declare the type
        return super().__iter__()  # type: ignore[return-value]

    @property
    def attentions(self) -> list[SelfAttention]:
        """The attention of each layer."""
        return [layer.attention for layer in self]

    def through(
        self,
        x_BTD: Tensor,
        read_heads: ReadHeads,
        *,
        past: Sequence[LayerCache] = (),
        enter: Enter | None = None,
        leave: Leave | None = None,
        text: slice = slice(None),
    ) -> Tensor:
        """Pass a segment through all layers. Where no backward pass follows, a layer's heads are gone before its feed-forward layer."""

        def read(index: int, layer: DecoderLayer, x_BTD: Tensor) -> Tensor:
            # Dai et al. 2019, section 3.2: q = W_q h, and k, v = W_k h', W_v h' with h' = [SG(cache), h]
            heads = layer.attention.project(layer.attention_norm(x_BTD), past[index] if past else None, text=text)
            return read_heads(index, layer.attention, heads)

        for index, layer in enumerate(self):
            x_BTD = x_BTD if enter is None else enter(index, x_BTD)
            x_BTD = layer.finish(x_BTD, read(index, layer, x_BTD))
            if leave is not None:
                leave(index, x_BTD)
        return x_BTD


class Read(NamedTuple):
    """The result of `Layers.read`."""

    hidden_BTD: Tensor
    cache: Cache
    gauges: Gauges
    """cache_share: the attention weight on the cache, of local attention; empty without a cache."""


class EmbeddingModel(SegmentModel):
    """Base class of architectures with an embedding that the output layer shares; their layers may be of any kind."""

    dropout: nn.Dropout

    def add_head(self, arch: Arch) -> None:
        """Make the embedding and the output layer."""
        self.head = build_head(self.shape)
        self.dropout = nn.Dropout(arch.dropout)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The input of the first layer, B T D."""
        embedded_BTD: Tensor = self.dropout(self.head.embed(tokens_BT))
        return embedded_BTD


class DecoderModel(EmbeddingModel):
    """Base class of architectures whose layers have softmax self-attention: an embedding, the layers, the output layer."""

    layers: Any
    """`DecoderLayers`, or the `Layers` of a published checkpoint."""
    reach: int | None = None
    """How many tokens before itself a token sees at most; None: all tokens in sight."""
    cache_in_sight: ClassVar[bool] = True
    """Whether the next cache is a part of what was in sight, if no type has to be changed."""
    mask_in_each_layer: ClassVar[bool] = False
    """Whether the backward pass needs the mask of each layer; if tokens see all before them, one is made for all layers."""

    def add_layers(
        self,
        arch: AttentionArch,
        *,
        each: Sequence[AttentionArch] | None = None,
        two_sided: bool = False,
        shared_values: bool = False,
    ) -> None:
        """Make the head and the layers, or take those of a published checkpoint.

        Parameters have the order in which they are made, so the place of this call among a model's other parameters
        matters.

        Args:
            each: the options of each layer with attention, of which there may be fewer than `shape.layers`; None: `arch` for all.
            two_sided, shared_values: as `SelfAttention` takes them.
        """
        if self.shape.pretrained is not None:
            self.head, self.layers = self.shape.pretrained.head, self.shape.pretrained.layers
            self.dropout = nn.Dropout(arch.dropout)
            return
        self.add_head(arch)
        archs = [arch] * self.shape.layers if each is None else each
        self.layers = DecoderLayers(self.shape, archs, two_sided=two_sided, shared_values=shared_values)

    def empty_cache(self, lanes: int) -> Cache:
        """A cache of `cache_tokens` slots at the start of a document."""
        shape = replace(self.shape, layers=self.attention_layers)
        return empty_cache(shape, lanes=lanes, size=self.cache_tokens, like=self.head.embedding_VD)

    def growing(self, cache: Cache) -> Cache:
        """The cache with layers, so that pieces of a segment can be appended; a cache without layers gets empty layers."""
        if cache.layers:
            return cache
        shape = replace(self.shape, layers=self.attention_layers)
        return open_cache(shape, lanes=len(cache.count_B), like=self.head.embedding_VD)

    @property
    def attention_layers(self) -> int:
        """The layers that `add_layers` made."""
        return len(self.layers.attentions)

    @property
    def window(self) -> int:
        """The tokens that are read at once, and the memory tokens among them."""
        return self.stride + self.positions - self.shape.segment

    @property
    def attended(self) -> float:
        """With a reach, the tokens within it and the token itself."""
        return super().attended if self.reach is None else self.reach + 1

    def cache_kept(self, cache: int, *, half: bool) -> float:
        """In full precision a cache is a part of the keys and values in sight, and keeps all of them."""
        if half or not self.cache_in_sight or not self.cache_tokens:
            return super().cache_kept(cache, half=half)
        return cache * (self.window + self.in_sight) / self.cache_tokens

    def kept(self, *, half: bool) -> Kept:
        """With the options of attention and dropout."""
        shape, attentions = self.shape, self.layers.attentions
        if not attentions:
            return replace(super().kept(half=half), dropout=self.dropout.p > 0)
        normalise = attentions[0].scale_H is not None
        return Kept(shape, half, normalise, attentions[0].stored, dropout=self.dropout.p > 0)

    def activations(self, *, half: bool) -> Activations:
        """Of all windows of a segment, whose layers attend to what is `in_sight` and to the window."""
        kept, length, seen = self.kept(half=half), self.window, self.window + self.in_sight
        windows = self.shape.segment // self.stride
        layers, added, by_distance, at_once = kept.residual(length), 0.0, 0.0, 0.0
        counted = None if self.shape.pretrained is None else self.layers.saved(half=half)
        layers += length * (counted or 0.0)
        if self.shape.pretrained is not None and counted is None:
            # as most have a gate in the feed-forward layer: its projection, its activation, what it gates, and their product
            kept = replace(kept, shape=replace(self.shape, feedforward=4 * self.shape.feedforward))
        copies = 1
        masked = bool(self.in_sight) or self.reach is not None or self.mask_in_each_layer
        for attention in self.layers.attentions:
            position = attention.position
            layers += (
                kept.attention(length, seen=seen)
                if counted is not None
                else kept.layer(
                    length,
                    seen=seen,
                    joined=seen > length,
                    turns=position.turns,
                    by_position=isinstance(position, RelativeXl),
                )
            )
            products = kept.by_query(length, seen) if isinstance(position, RelativeXl) else 0.0
            if position.adds:
                at_once = kept.added_to_scores(length, seen, heads=self.shape.heads)
                by_distance += at_once + products
                # with its gradient, if it is learned; if each lane has its own, the bias without the mask and products by distance too
                copies = 4 if products else 2 if any(True for _ in position.parameters()) else copies
            elif masked:
                added += kept.added_to_scores(length, seen, heads=0)
            added += length * seen * self.mask_in_each_layer * (position.adds or masked)
        added += (
            length * seen * (added + by_distance > 0 and not self.mask_in_each_layer)
        )  # one mask for all layers, a byte for each pair
        # the read of the heads, what is added to the residual stream, the feed-forward layer and the input of the output layer,
        # but for the gradient of the stream
        after = kept.read(length) + kept.residual(length) + kept.feedforward(length)
        would_keep = at_once * max(length, self.shape.queries_kept) / length if length else 0.0
        return Activations(windows * layers, windows * added, windows * by_distance, at_once, would_keep, copies, after)

    def held(self, *, half: bool) -> Held:
        """With the attention of the layer that holds most, whose keys and values in sight are joined from several tensors."""
        found, kept, length, seen = (
            super().held(half=half),
            self.kept(half=half),
            self.window,
            self.window + self.in_sight,
        )
        attention = added = 0.0
        for each in self.layers.attentions:
            position, by_position = each.position, isinstance(each.position, RelativeXl)
            attention = max(
                attention,
                kept.held_by_attention(
                    length, seen=seen, joined=seen > length, turns=position.turns, by_position=by_position
                ),
            )
            if position.adds or self.in_sight or self.reach is not None or self.mask_in_each_layer:
                own = kept.added_to_scores(length, seen, heads=self.shape.heads if position.adds else 0)
                added = max(added, own + kept.by_query(length, seen) * by_position)
        masks = length * seen * (added > 0)  # a byte for each pair
        found = found._replace(attention=found.attention + attention, added=added, padded=seen % ALIGNED > 0)
        return found.beside(masks)
