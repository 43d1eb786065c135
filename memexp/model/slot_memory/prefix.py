"""Vectors without places in front of a segment: each sees the others, and every token sees them all.

Shapes: B lanes, T tokens, M vectors in front, D width, H heads, G heads of keys and values, K head size, S keys.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.transformer.attention import (
    Cache,
    Heads,
    LayerCache,
    SelfAttention,
    Sight,
    attend,
    causal_mask,
    next_cache,
    next_layer_cache,
    share,
)
from memexp.model.transformer.decoder import DecoderLayers


class Prefix(NamedTuple):
    """What one layer shows of the vectors in front."""

    keys_BGMK: Tensor
    values_BGMK: Tensor


class Unplaced(NamedTuple):
    """What `read_unplaced` gives."""

    hidden_BMD: Tensor
    prefix: tuple[Prefix, ...]
    """One a layer."""


class Behind(NamedTuple):
    """What `read_behind` gives."""

    hidden_BTD: Tensor
    cache: Cache
    """All that the next piece may attend to, without the vectors in front."""
    prefix_share: Tensor
    """Gauge: the part of attention that is on the vectors in front."""


def read_unplaced(
    layers: DecoderLayers,
    x_BMD: Tensor,
    *,
    beside: Sequence[Prefix] | None = None,
    bias_1HMS: Tensor | None = None,
) -> Unplaced:
    """Vectors over one another, unmasked and by contents alone, and over those that stand `beside` them.

    Args:
        bias_1HMS: added to the scores; the keys of `beside` come first.
    """
    prefix: list[Prefix] = []
    for index, layer in enumerate(layers):
        heads = layer.attention.project(layer.attention_norm(x_BMD), None, text=slice(0))
        prefix.append(Prefix(heads.keys_BGTK, heads.values_BGTK))
        sight = _unplaced(layer.attention, heads, beside[index] if beside else None, bias_1HMS)
        everywhere = torch.ones(1, 1, 1, sight.keys_BGSK.shape[2], dtype=torch.bool, device=x_BMD.device)
        x_BMD = layer.finish(x_BMD, attend(sight, everywhere))
    return Unplaced(x_BMD, tuple(prefix))


def read_behind(layers: DecoderLayers, x_BTD: Tensor, prefix: Sequence[Prefix], cache: Cache) -> Behind:
    """Tokens over the vectors in front, a cache of the segment so far and, causally, themselves."""
    slots = prefix[0].keys_BGMK.shape[2]
    mask = F.pad(causal_mask(x_BTD, cache).dense(), (slots, 0), value=True)
    layer_caches: list[LayerCache] = []
    shares: list[Tensor] = []
    for layer, past, front in zip(layers, cache.layers, prefix, strict=True):
        heads = layer.attention.project(layer.attention_norm(x_BTD), past)
        sight = layer.attention.look_beside(heads, past, *front)
        x_BTD = layer.finish(x_BTD, attend(sight, mask))
        layer_caches.append(next_layer_cache(sight, heads, past, size=sight.keys_BGSK.shape[2] - slots))
        shares.append(share(sight, mask, slice(0, slots)))
    return Behind(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), torch.stack(shares).mean())


def _unplaced(attention: SelfAttention, heads: Heads, beside: Prefix | None, bias_1HMS: Tensor | None) -> Sight:
    keys, values = heads.keys_BGTK, heads.values_BGTK
    if beside is not None:
        keys = torch.cat([beside.keys_BGMK.to(keys.dtype), keys], dim=2)
        values = torch.cat([beside.values_BGMK.to(values.dtype), values], dim=2)
    return Sight(heads.queries_BHTK, attention.spread(keys), bias_1HMS, keys, values)
