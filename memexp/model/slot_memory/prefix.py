"""A prefix of vectors without positions before a segment: the vectors see one another, and every token sees all of them.

Shapes: B lanes, T tokens, M vectors of the prefix, D width, H heads, G heads of keys and values, K head size, S keys.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.transformer.attention import (
    Attention,
    Cache,
    Heads,
    LayerCache,
    Sight,
    attend,
    causal_mask,
    next_cache,
    next_layer_cache,
    share,
)
from memexp.model.transformer.decoder import DecoderLayers


class Prefix(NamedTuple):
    """Keys and values of the prefix in one layer."""

    keys_BGMK: Tensor
    values_BGMK: Tensor


class Unplaced(NamedTuple):
    """The result of `read_unplaced`."""

    hidden_BMD: Tensor
    prefix: tuple[Prefix, ...]
    """The keys and values of each layer."""


class Behind(NamedTuple):
    """The result of `read_behind`."""

    hidden_BTD: Tensor
    cache: Cache
    """The tokens that the next piece may attend to, without the prefix."""
    prefix_shares: list[Tensor]
    """Gauge: the attention weight on the prefix in each layer; empty if nobody watches."""


def read_unplaced(layers: DecoderLayers, x_BMD: Tensor, *, bias_1HMS: Tensor | None = None) -> Unplaced:
    """Pass vectors without positions through all layers; they attend to one another, unmasked.

    Args:
        bias_1HMS: added to the scores.
    """
    prefix: list[Prefix] = []

    def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
        prefix.append(Prefix(heads.keys_BGTK, heads.values_BGTK))
        keys_BHMK = attention.spread(heads.keys_BGTK)
        return attend(Sight(heads.queries_BHTK, keys_BHMK, bias_1HMS, heads.keys_BGTK, heads.values_BGTK), None)

    hidden_BMD = layers.through(x_BMD, read_heads, text=slice(0))
    return Unplaced(hidden_BMD, tuple(prefix))


def read_beside(layers: DecoderLayers, x_BTD: Tensor, prefix: Sequence[Prefix]) -> Tensor:
    """Pass vectors without positions through all layers; they attend to a prefix and to one another, unmasked."""

    def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
        keys = torch.cat([prefix[index].keys_BGMK.to(heads.keys_BGTK.dtype), heads.keys_BGTK], dim=2)
        values = torch.cat([prefix[index].values_BGMK.to(heads.values_BGTK.dtype), heads.values_BGTK], dim=2)
        return attend(Sight(heads.queries_BHTK, attention.spread(keys), None, keys, values), None)

    return layers.through(x_BTD, read_heads, text=slice(0))


def read_behind(
    layers: DecoderLayers, x_BTD: Tensor, prefix: Sequence[Prefix], cache: Cache, *, grows: bool = True
) -> Behind:
    """Pass tokens through all layers; they attend to the prefix, a cache of the segment so far, and causally to themselves.

    Args:
        grows: whether the tokens are put into the cache, for a next piece of the segment; else it loses its layers.
    """
    slots = prefix[0].keys_BGMK.shape[2]
    causal = causal_mask(x_BTD, cache)
    mask = F.pad(causal.whole, (slots, 0), value=True)
    layer_caches: list[LayerCache] = []
    shares: list[Tensor] = []

    def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
        past = cache.layers[index]
        sight = attention.beside(attention.look(heads, past, causal.places), heads, *prefix[index])
        if grows:
            layer_caches.append(next_layer_cache(sight, heads, past, size=sight.keys_BGSK.shape[2] - slots))
        shares.extend(share(sight, mask, slice(0, slots)))
        return attend(sight, mask)

    x_BTD = layers.through(x_BTD, read_heads, past=cache.layers)
    return Behind(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), shares)
