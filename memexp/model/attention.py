"""Local attention: a segment over itself and over a cache of exact recent keys and values.

Shapes: B lanes, T tokens, D width, H heads, K head size, C cache, S = C + T keys in sight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.position import build_position
from memexp.model.segment import Shape, zero_lanes


@dataclass(frozen=True)
class AttentionOptions:
    """Options that every architecture hands on to its attention; `memexp.config.Arch` says what they mean."""

    position: str
    normalise: bool
    scale: float
    key_smear: bool
    keys_as_queries: bool


class LayerCache(NamedTuple):
    """One layer's recent past, oldest first, right-aligned: the newest token is the last."""

    keys_BHCK: Tensor
    values_BHCK: Tensor
    input_BD: Tensor
    """What the layer's projections read at the newest token; zero at a document's start. Used by the key smear."""


class Cache(NamedTuple):
    """The recent past of every layer."""

    layers: tuple[LayerCache, ...]
    count_B: Tensor
    """How many of the C tokens are of this lane's document."""


class Heads(NamedTuple):
    """A segment's projections, without positions. With normalisation keys have unit norm and queries carry the scale."""

    queries_BHTK: Tensor
    keys_BHTK: Tensor
    values_BHTK: Tensor
    input_BD: Tensor
    """What the projections read at the last token."""


class Sight(NamedTuple):
    """Queries of a segment and all that they may attend to, cache first."""

    queries_BHTK: Tensor
    """With positions."""
    placed_BHSK: Tensor
    """Keys with positions."""
    bias_BHTS: Tensor | None
    """What positions add to the scores; may be 1 in the axis of lanes."""
    keys_BHSK: Tensor
    """Keys without positions, as caches and memories store them."""
    values_BHSK: Tensor


class SelfAttention(nn.Module):
    """Multi-head attention split into its parts, so that a memory can act between projecting and merging."""

    def __init__(self, shape: Shape, options: AttentionOptions) -> None:
        super().__init__()
        self.heads, self.head_size = shape.heads, shape.head_size
        inner = shape.heads * shape.head_size
        self.queries_values = linear(shape.width, 2 * inner)
        self.keys = linear(shape.width, inner)
        self.output = linear(inner, shape.width)
        self.position = build_position(options.position, heads=shape.heads, head_size=shape.head_size)
        self.scale_H = nn.Parameter(torch.full((shape.heads,), options.scale)) if options.normalise else None
        self.smear_D = nn.Parameter(torch.zeros(shape.width)) if options.key_smear else None
        if options.keys_as_queries:
            with torch.no_grad():
                self.keys.weight.copy_(self.queries_values.weight[:inner])

    def project(self, x_BTD: Tensor, past: LayerCache | None) -> Heads:
        """Queries, keys and values of a segment; `past` is what the smear of the first token's key looks back to."""
        queries, values = self._split(self.queries_values(x_BTD), 2)
        (keys,) = self._split(self.keys(self._key_input(x_BTD, past)), 1)
        if self.scale_H is None:
            queries = queries * self.head_size**-0.5
        else:
            # abs: a negative scale would retrieve the least similar pairs
            queries = F.normalize(queries, dim=-1) * self.scale_H.abs().view(1, -1, 1, 1)
            keys = F.normalize(keys, dim=-1)
        return Heads(queries, keys, values, x_BTD[:, -1])

    def look(self, heads: Heads, past: LayerCache | None) -> Sight:
        """Put the cache in front of the segment and bring in positions."""
        keys, values = heads.keys_BHTK, heads.values_BHTK
        if past is not None:
            keys = torch.cat([past.keys_BHCK.to(keys.dtype), keys], dim=2)
            values = torch.cat([past.values_BHCK.to(values.dtype), values], dim=2)
        placed = self.position(heads.queries_BHTK, keys)
        return Sight(placed.queries_BHTK, placed.keys_BHSK, placed.bias_BHTS, keys, values)

    def merge(self, read_BHTK: Tensor) -> Tensor:
        """The output projection of all heads together, B T D."""
        output: Tensor = self.output(read_BHTK.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """B T (parts H K) to that many B H T K."""
        return x.unflatten(-1, (parts, self.heads, self.head_size)).permute(2, 0, 3, 1, 4).unbind()

    def _key_input(self, x_BTD: Tensor, past: LayerCache | None) -> Tensor:
        if self.smear_D is None:
            return x_BTD
        first_B1D = torch.zeros_like(x_BTD[:, :1]) if past is None else past.input_BD[:, None].to(x_BTD.dtype)
        before_BTD = torch.cat([first_B1D, x_BTD[:, :-1]], dim=1)
        return torch.lerp(before_BTD, x_BTD, self.smear_D.sigmoid().to(x_BTD.dtype))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A projection without bias, normal with variance 1 / inputs."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


def causal_mask(tokens_BT: Tensor, cache: Cache) -> Tensor | None:
    """True where a query may look, B 1 T S; None without a cache, for attention then knows causality by itself."""
    if not cache.layers:
        return None
    length, size = tokens_BT.shape[1], cache.layers[0].keys_BHCK.shape[2]
    place_S = torch.arange(size + length, device=tokens_BT.device)
    causal_TS = place_S <= place_S[size:, None]
    filled_BS = place_S >= size - cache.count_B[:, None]
    return (causal_TS & filled_BS[:, None])[:, None]


def empty_cache(shape: Shape, *, lanes: int, size: int, like: Tensor) -> Cache:
    """A cache of `size` tokens a layer before a document's start, on the device of `like`; for size 0 it has no layers."""
    layer = LayerCache(
        keys_BHCK=like.new_zeros(lanes, shape.heads, size, shape.head_size),
        values_BHCK=like.new_zeros(lanes, shape.heads, size, shape.head_size),
        input_BD=like.new_zeros(lanes, shape.width),
    )
    layers = (layer,) * shape.layers if size else ()
    return Cache(layers, torch.zeros(lanes, dtype=torch.long, device=like.device))


def clear_cache(cache: Cache, reset_B: Tensor) -> Cache:
    """Forget in the lanes that begin a document. Keys and values stay where they are; the count says they are void."""
    layers = tuple(layer._replace(input_BD=zero_lanes(layer.input_BD, reset_B)) for layer in cache.layers)
    return Cache(layers, cache.count_B.masked_fill(reset_B, 0))


def next_layer_cache(sight: Sight, heads: Heads, past: LayerCache) -> LayerCache:
    """The newest C keys and values in sight, without gradient (Dai et al. 2019, section 3.2)."""
    size = past.keys_BHCK.shape[2]
    return LayerCache(
        keys_BHCK=sight.keys_BHSK[:, :, -size:].detach().to(past.keys_BHCK.dtype),
        values_BHCK=sight.values_BHSK[:, :, -size:].detach().to(past.values_BHCK.dtype),
        input_BD=heads.input_BD.detach().to(past.input_BD.dtype),
    )


def next_cache(layers: list[LayerCache], cache: Cache, length: int) -> Cache:
    """The cache after a segment of `length` tokens."""
    size = layers[0].keys_BHCK.shape[2] if layers else 0
    return Cache(tuple(layers), (cache.count_B + length).clamp_max(size))


def attend(sight: Sight, mask_BHTS: Tensor | None) -> Tensor:
    """What each head reads, B H T K; `mask_BHTS` is from `causal_mask`."""
    values = sight.values_BHSK
    if sight.bias_BHTS is None:
        # without a bias the fused kernels apply; with neither bias nor cache they need no mask at all
        bias = mask_BHTS
    else:
        bias = _masked(sight.bias_BHTS.to(values.dtype), mask_BHTS)
    return F.scaled_dot_product_attention(
        sight.queries_BHTK.to(values.dtype),
        sight.placed_BHSK.to(values.dtype),
        values,
        attn_mask=bias,
        is_causal=bias is None,
        scale=1.0,
    )


def local_scores(sight: Sight, mask_BHTS: Tensor | None) -> Tensor:
    """The scores that `attend` takes the softmax of, B H T S in fp32 at least; -inf where a query may not look."""
    with torch.autocast(sight.queries_BHTK.device.type, enabled=False):
        scores = at_least_fp32(sight.queries_BHTK) @ at_least_fp32(sight.placed_BHSK).transpose(-1, -2)
    return _masked(scores if sight.bias_BHTS is None else scores + sight.bias_BHTS, mask_BHTS)


def at_least_fp32(x: Tensor) -> Tensor:
    """For what a softmax is taken of: half precision would make large scores alike."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _masked(scores_BHTS: Tensor, mask_BHTS: Tensor | None) -> Tensor:
    if mask_BHTS is None:
        length = scores_BHTS.shape[-1]
        mask_BHTS = torch.ones(length, length, dtype=torch.bool, device=scores_BHTS.device).tril()
    return scores_BHTS.masked_fill(~mask_BHTS, float("-inf"))
