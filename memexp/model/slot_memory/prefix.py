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


def read_unplaced(
    layers: DecoderLayers,
    x_BMD: Tensor,
    *,
    beside: Sequence[Prefix] | None = None,
    bias_1HMS: Tensor | None = None,
) -> Unplaced:
    """Pass vectors without positions through all layers; they attend to one another, unmasked.

    Args:
        beside: more keys and values that the vectors attend to.
        bias_1HMS: added to the scores; the keys of `beside` come first.
    """
    prefix: list[Prefix] = []
    for index, layer in enumerate(layers):
        heads = layer.attention.project(layer.attention_norm(x_BMD), None, text=slice(0))
        prefix.append(Prefix(heads.keys_BGTK, heads.values_BGTK))
        sight = _unplaced(layer.attention, heads, beside[index] if beside else None, bias_1HMS)
        x_BMD = layer.finish(x_BMD, attend(sight, None))
    return Unplaced(x_BMD, tuple(prefix))


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
    for layer, past, keys_values in zip(layers, cache.layers, prefix, strict=True):
        heads = layer.attention.project(layer.attention_norm(x_BTD), past)
        sight = layer.attention.beside(layer.attention.look(heads, past, causal.places), heads, *keys_values)
        x_BTD = layer.finish(x_BTD, attend(sight, mask))
        if grows:
            layer_caches.append(next_layer_cache(sight, heads, past, size=sight.keys_BGSK.shape[2] - slots))
        shares += share(sight, mask, slice(0, slots))
    return Behind(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), shares)


def _unplaced(attention: Attention, heads: Heads, beside: Prefix | None, bias_1HMS: Tensor | None) -> Sight:
    keys, values = heads.keys_BGTK, heads.values_BGTK
    if beside is not None:
        keys = torch.cat([beside.keys_BGMK.to(keys.dtype), keys], dim=2)
        values = torch.cat([beside.values_BGMK.to(values.dtype), values], dim=2)
    return Sight(heads.queries_BHTK, attention.spread(keys), bias_1HMS, keys, values)
