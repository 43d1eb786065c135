"""Local attention: a segment attends to itself and to a cache of exact recent keys and values.

Shapes: B lanes, T tokens, D width, H heads, G heads of keys and values (H, or fewer that heads share), K head size, C cache,
S = C + T keys in sight, M keys without positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.base import AttentionArch
from memexp.model.markers import Compilable, as_scale
from memexp.model.state import detach, zero_lanes
from memexp.model.transformer.by_lanes import Form, attend_by_lanes, fits
from memexp.model.transformer.flash_cpu import Layout, attend_in_blocks
from memexp.model.transformer.numerics import at_least_fp32, full_precision, unit_norm
from memexp.model.transformer.position import (
    Behind,
    Bias,
    ByDistance,
    ByQuery,
    Places,
    Position,
    Structured,
    build_position,
    dense,
    in_order,
)
from memexp.model.transformer.shape import Shape
from memexp.model.watching import watched
from memexp.regions import part

BLOCK = 128
"""Queries of a block on a CPU: few enough that little of the work is masked, enough for a fast matrix product."""


class LayerCache(NamedTuple):
    """The cache of one layer, right-aligned: from the oldest token to the newest, which is last."""

    keys_BGCK: Tensor
    values_BGCK: Tensor
    input_BD: Tensor
    """Input of the layer's projections at the newest token; zero at a document's start. Only the key smear uses it."""


class Cache(NamedTuple):
    """The cache of all layers."""

    layers: tuple[LayerCache, ...]
    count_B: Tensor
    """How many of the C tokens belong to this lane's document."""


class Heads(NamedTuple):
    """The projections of a segment, without positions.

    With normalisation, keys have unit norm, and queries have unit norm times the scale.
    """

    queries_BHTK: Tensor
    keys_BGTK: Tensor
    values_BGTK: Tensor
    input_BD: Tensor
    """Input of the projections at the last token of text; zero if there is no text. Of no meaning without key smear."""


class Sight(NamedTuple):
    """The queries of a segment, and all keys and values that they may attend to, the cache first."""

    queries_BHTK: Tensor
    """With positions."""
    placed_BHSK: Tensor
    """Keys with positions."""
    bias: Bias | None
    keys_BGSK: Tensor
    """Keys without positions, as caches and memories store them."""
    values_BGSK: Tensor
    old: int = 0
    """How many of the keys, the first ones, get no gradient: those of a cache without gradient."""
    queries_kept: int = 0
    """As `Attention.queries_kept`."""


class Attention(nn.Module):
    """What queries of a layer see, and where: between the projections and the merge of heads, so that a memory can act there."""

    reach: int | None = None
    """How many tokens before itself a token sees at most, if the layer itself says so; None: all in sight."""
    heads: int
    head_size: int
    stored: int
    """Size of all heads of keys, and of values."""
    position: Position
    scale_H: nn.Parameter | None
    """With normalisation, the learned scale of each head."""
    smear_D: nn.Parameter | None
    queries_kept: int = 0
    """Queries of a lane and head, of all layers and segments, whose bias the backward pass would keep; 0: those of one pass."""

    def look(self, heads: Heads, past: LayerCache | None, places: Places | None = None) -> Sight:
        """Put the cache before the segment and add positions; without `places` the keys are at consecutive positions."""
        keys, values, old = heads.keys_BGTK, heads.values_BGTK, 0
        if past is not None:
            with_gradient = past.keys_BGCK.requires_grad or past.values_BGCK.requires_grad
            old = 0 if with_gradient else past.keys_BGCK.shape[2]
            keys = torch.cat([past.keys_BGCK.to(keys.dtype), keys], dim=2)
            values = torch.cat([past.values_BGCK.to(values.dtype), values], dim=2)
        if places is None:
            places = in_order(heads.queries_BHTK.shape[2], keys.shape[2], keys.device)
        placed = self.position(heads.queries_BHTK, self.spread(keys), places)
        return Sight(placed.queries_BHTK, placed.keys_BHSK, placed.bias, keys, values, old, self.queries_kept)

    def beside(self, sight: Sight, heads: Heads, keys_BGMK: Tensor, values_BGMK: Tensor) -> Sight:
        """The sight with M more keys in front that have no positions: their scores depend only on the content."""
        queries, placed = sight.queries_BHTK, sight.placed_BHSK
        unplaced = self.spread(keys_BGMK).to(placed.dtype)
        if self.position.turns:
            # twice as wide: queries with positions meet keys with positions, plain queries meet plain keys
            queries = torch.cat([queries, heads.queries_BHTK], dim=-1)
            placed = F.pad(placed, (0, self.head_size))
            unplaced = F.pad(unplaced, (self.head_size, 0))
        bias, count = sight.bias, unplaced.shape[2]
        if isinstance(bias, ByDistance | ByQuery):
            bias = Behind(bias, count)
        elif bias is not None:
            bias = F.pad(bias if isinstance(bias, Tensor) else bias.dense(), (count, 0))
        return Sight(
            queries,
            torch.cat([unplaced, placed], dim=2),
            bias,
            torch.cat([keys_BGMK.to(sight.keys_BGSK.dtype), sight.keys_BGSK], dim=2),
            torch.cat([values_BGMK.to(sight.values_BGSK.dtype), sight.values_BGSK], dim=2),
            queries_kept=sight.queries_kept,
        )

    def spread(self, x_BGSK: Tensor) -> Tensor:
        """Keys or values for every head, without a copy if all heads share them."""
        return spread(x_BGSK, self.heads)


class SelfAttention(Attention):
    """Multi-head attention in separate steps."""

    compilable: ClassVar[Compilable] = {"project": "layers"}

    def __init__(
        self, shape: Shape, arch: AttentionArch, *, two_sided: bool = False, shared_values: bool = False
    ) -> None:
        """
        Args:
            two_sided: whether some keys come after their query.
            shared_values: whether all heads share one head of keys and values (Shazeer 2019).
        """
        super().__init__()
        self.heads, self.head_size, self.queries_kept = shape.heads, shape.head_size, shape.queries_kept
        inner = shape.heads * shape.head_size
        stored = shape.head_size if shared_values else inner
        self.queries_values = linear(shape.width, inner + stored)
        self.keys, self.stored = linear(shape.width, stored), stored
        self.output = linear(inner, shape.width)
        self.position = build_position(
            arch.position, width=shape.width, heads=shape.heads, head_size=shape.head_size, two_sided=two_sided
        )
        self.scale_H = as_scale(torch.full((shape.heads,), arch.scale)) if arch.normalise else None
        self.smear_D = nn.Parameter(torch.zeros(shape.width)) if arch.key_smear else None
        if arch.keys_as_queries:
            with torch.no_grad():
                self.keys.weight.copy_(self.queries_values.weight[:stored])

    @property
    def projections(self) -> int:
        """Weights that `project` multiplies with."""
        return self.queries_values.weight.numel() + self.keys.weight.numel()

    def project(self, x_BTD: Tensor, past: LayerCache | None, *, text: slice = slice(None)) -> Heads:
        """Queries, keys and values of a segment.

        Args:
            past: the cache; the key smear of the first token needs its last input.
            text: which of the T positions are tokens of the document. The others are memory tokens, without key smear.
        """
        inner = self.heads * self.head_size
        queries_values = self.queries_values(x_BTD)
        parts = queries_values.split([inner, queries_values.shape[-1] - inner], dim=-1)
        queries, values = (split_heads(part, self.head_size) for part in parts)
        keys = split_heads(self.keys(self._key_input(x_BTD, past, text)), self.head_size)
        if self.scale_H is not None:
            keys = unit_norm(keys)
        # only the last token, or no token if there is no text
        newest_B1D = x_BTD[:, text][:, -1:]
        newest_BD = newest_B1D.sum(1) if past is None or self.smear_D is not None else past.input_BD
        return Heads(scaled(queries, self.scale_H), keys, values, newest_BD)

    def merge(self, read_BHTK: Tensor) -> Tensor:
        """The output projection of all heads, B T D."""
        output: Tensor = self.output(join_heads(read_BHTK))
        return output

    def _key_input(self, x_BTD: Tensor, past: LayerCache | None, text: slice) -> Tensor:
        if self.smear_D is None:
            return x_BTD
        text_BTD = x_BTD[:, text]
        first_B1D = torch.zeros_like(text_BTD[:, :1]) if past is None else past.input_BD[:, None].to(x_BTD.dtype)
        before_BTD = torch.cat([first_B1D, text_BTD[:, :-1]], dim=1)
        smeared_BTD = torch.lerp(before_BTD, text_BTD, self.smear_D.sigmoid().to(x_BTD.dtype))
        start, stop, _ = text.indices(x_BTD.shape[1])
        return torch.cat([x_BTD[:, :start], smeared_BTD, x_BTD[:, stop:]], dim=1)


def spread(x_BGSK: Tensor, heads: int) -> Tensor:
    """Keys or values for every head, B H S K: head h has those of h // (H / G); no copy if all share one, or none do."""
    groups = x_BGSK.shape[1]
    if groups in (1, heads):
        return x_BGSK.expand(-1, heads, -1, -1)
    return x_BGSK.repeat_interleave(heads // groups, dim=1)


def split_heads(x: Tensor, head_size: int) -> Tensor:
    """Split the last axis into heads: B T (heads K) becomes B heads T K."""
    return x.unflatten(-1, (-1, head_size)).transpose(1, 2)


def join_heads(read_BHTK: Tensor) -> Tensor:
    """The inverse of `split_heads`: B H T K becomes B T (H K)."""
    return read_BHTK.transpose(1, 2).flatten(2)


def scaled(queries_BHTK: Tensor, scale_H: Tensor | None) -> Tensor:
    """Queries with the scale of scores: of unit norm times the head's scale, or without a scale divided by sqrt(K)."""
    if scale_H is None:
        return queries_BHTK * queries_BHTK.shape[-1] ** -0.5
    # abs: a negative scale would retrieve the least similar pairs
    return unit_norm(queries_BHTK) * scale_H.abs().view(1, -1, 1, 1)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A projection without bias, initialised from a normal distribution with variance 1 / inputs."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


@dataclass(frozen=True)
class CausalMask:
    """The mask with which a query sees itself, the tokens before it, and the cached tokens of the lane's document.

    The T queries are the last of S = C + T tokens.
    """

    length: int
    cache: int
    count_B: Tensor
    """How many of the C cached tokens belong to the lane's document."""
    reach: int | None
    """How many tokens before itself a query sees at most; None: all tokens in sight."""

    @cached_property
    def places(self) -> Places:
        """The positions of queries and keys, the same for all layers that have this mask."""
        return in_order(self.length, self.cache + self.length, self.count_B.device)

    @cached_property
    def whole(self) -> Tensor:
        """The mask as a tensor, B 1 T S: true where a query may attend. It is made once for all layers."""
        return self.dense()

    @cached_property
    def hidden(self) -> Tensor:
        """The opposite of `whole`, which need not be there for it."""
        return self._hidden()

    def dense(self, rows: slice = slice(None)) -> Tensor:
        """The rows of `whole` for these queries, without the others."""
        return ~self._hidden(rows)

    def _hidden(self, rows: slice = slice(None)) -> Tensor:
        index_S = torch.arange(self.cache + self.length, device=self.count_B.device)
        query_T1 = index_S[self.cache :, None][rows]
        hidden_TS = index_S > query_T1
        if self.reach is not None:
            hidden_TS |= index_S < query_T1 - self.reach
        return (hidden_TS | self.void()[:, None])[:, None]

    def void(self) -> Tensor:
        """The cached tokens of other documents, B S."""
        index_S = torch.arange(self.cache + self.length, device=self.count_B.device)
        return index_S < self.cache - self.count_B[:, None]


Mask = Tensor | CausalMask | None
"""Where a query may attend; a tensor has the shape B 1 T S, where B and T may be 1; None: everywhere."""


def causal_mask(x_BTD: Tensor, cache: Cache, *, reach: int | None = None) -> CausalMask:
    """The mask of a segment that attends to itself and to a cache, which may have no layers; `reach` as in `CausalMask`."""
    size = cache.layers[0].keys_BGCK.shape[2] if cache.layers else 0
    return CausalMask(x_BTD.shape[1], size, cache.count_B, reach)


def empty_cache(shape: Shape, *, lanes: int, size: int, like: Tensor, heads: int | None = None) -> Cache:
    """An empty cache of `size` tokens per layer, on the device of `like`; with size 0 it has no layers.

    Args:
        heads: number of heads of keys and values; None: `shape.stored_heads`.
    """
    count_B = torch.zeros(lanes, dtype=torch.long, device=like.device)
    layers = _empty_layers(shape, lanes=lanes, size=size, like=like, heads=heads or shape.stored_heads) if size else ()
    return Cache(layers, count_B)


def open_cache(shape: Shape, *, lanes: int, like: Tensor) -> Cache:
    """A cache with layers but without tokens, which grows while a segment is read in pieces."""
    count_B = torch.zeros(lanes, dtype=torch.long, device=like.device)
    return Cache(_empty_layers(shape, lanes=lanes, size=0, like=like, heads=shape.stored_heads), count_B)


def _empty_layers(shape: Shape, *, lanes: int, size: int, like: Tensor, heads: int) -> tuple[LayerCache, ...]:
    layer = LayerCache(
        keys_BGCK=like.new_zeros(lanes, heads, size, shape.head_size),
        values_BGCK=like.new_zeros(lanes, heads, size, shape.head_size),
        input_BD=like.new_zeros(lanes, shape.width),
    )
    return (layer,) * shape.layers


def clear_cache(cache: Cache, reset_B: Tensor) -> Cache:
    """Empty the lanes in which a document begins. Only the counts change; old keys and values are not erased."""
    layers = tuple(layer._replace(input_BD=zero_lanes(layer.input_BD, reset_B)) for layer in cache.layers)
    return Cache(layers, cache.count_B.masked_fill(reset_B, 0))


def next_layer_cache(
    sight: Sight, heads: Heads, past: LayerCache, *, size: int, sinks: int = 0, count_B: Tensor | None = None
) -> LayerCache:
    """The newest `size` keys and values in sight, without gradient (Dai et al. 2019, section 3.2).

    Args:
        sinks: how many of them are the document's first instead (Xiao et al. 2023, section 3.2); they stand just before the others.
        count_B: how many of the tokens of `past` belong to the lane's document; only sinks need it.
    """
    found: LayerCache = detach(newest(sight, heads, past, size=size))
    span, held = sight.keys_BGSK.shape[2], past.keys_BGCK.shape[2]
    if not sinks or size >= span or count_B is None:
        return found
    number_N = torch.arange(sinks, device=count_B.device)
    full_B1 = (count_B + span - held > size)[:, None]
    index_BN = torch.where(full_B1, held - count_B[:, None] + number_N, span - size + number_N)

    def kept(x_BGSK: Tensor, newest_BGCK: Tensor) -> Tensor:
        index_BGNK = index_BN[:, None, :, None].expand(-1, x_BGSK.shape[1], -1, x_BGSK.shape[3])
        first_BGNK = x_BGSK.detach().gather(2, index_BGNK).to(newest_BGCK.dtype)
        return torch.cat([first_BGNK, newest_BGCK[:, :, sinks:]], dim=2)

    return found._replace(
        keys_BGCK=kept(sight.keys_BGSK, found.keys_BGCK), values_BGCK=kept(sight.values_BGSK, found.values_BGCK)
    )


def newest(sight: Sight, heads: Heads, past: LayerCache, *, size: int) -> LayerCache:
    """The newest `size` keys and values in sight, with gradient, for windows (Hutchins et al. 2022, section 3)."""
    start = sight.keys_BGSK.shape[2] - size
    copy = not size  # an empty part of them would keep them all
    return LayerCache(
        keys_BGCK=sight.keys_BGSK[:, :, start:].to(past.keys_BGCK.dtype, copy=copy),
        values_BGCK=sight.values_BGSK[:, :, start:].to(past.values_BGCK.dtype, copy=copy),
        input_BD=heads.input_BD.to(past.input_BD.dtype),
    )


def append(before_BGCK: Tensor, new_BGTK: Tensor) -> Tensor:
    """The newest C keys or values, with those that are new at the end, and without a copy of those that are dropped."""
    size = before_BGCK.shape[2]
    new_BGTK = new_BGTK[:, :, max(0, new_BGTK.shape[2] - size) :].to(before_BGCK.dtype)
    return torch.cat([before_BGCK[:, :, new_BGTK.shape[2] :], new_BGTK], dim=2)


def next_cache(layers: list[LayerCache], cache: Cache, length: int) -> Cache:
    """The cache after a segment of `length` tokens."""
    size = layers[0].keys_BGCK.shape[2] if layers else 0
    return Cache(tuple(layers), (cache.count_B + length).clamp_max(size))


@contextmanager
def any_shape() -> Iterator[None]:
    """For attention whose shapes change from call to call: do without cuDNN, which prepares each shape for up to a second."""
    was = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


def attend(sight: Sight, mask: Mask) -> Tensor:
    """The output of each head, B H T K."""
    with part("attention"):
        return _attend(sight, mask)


def _attend(sight: Sight, mask: Mask) -> Tensor:
    values = spread(sight.values_BGSK, sight.placed_BHSK.shape[1])
    queries, keys = sight.queries_BHTK.to(values.dtype), sight.placed_BHSK.to(values.dtype)
    if values.device.type == "cpu":
        size = values.shape[-1]
        if keys.shape[-1] > size:  # from `beside`; the kernel needs keys and values of the same size
            values = F.pad(values, (0, keys.shape[-1] - size))
        return _attend_on_cpu(queries, keys, values, sight, mask)[..., :size]
    kept = sight.queries_kept if torch.is_grad_enabled() and queries.requires_grad else 0
    if isinstance(sight.bias, Structured) and not fits(queries, keys, kept):
        hidden = None if mask is None else partial(_hidden, mask)
        return attend_by_lanes(queries, keys, values, Form(sight.bias, hidden))
    bias = dense(sight.bias, dtype=values.dtype)
    if mask is None:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
    if bias is None and isinstance(mask, CausalMask) and not mask.cache and mask.reach is None:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=1.0)
    if bias is not None:
        allowed = bias.masked_fill(_hidden(mask), float("-inf"))
    else:
        allowed = mask.whole if isinstance(mask, CausalMask) else mask
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, scale=1.0)


def _hidden(mask: Tensor | CausalMask, lanes: slice = slice(None)) -> Tensor:
    """Where the queries of these lanes may not attend."""
    if isinstance(mask, CausalMask):
        return mask.hidden[lanes]
    return ~(mask if len(mask) == 1 else mask[lanes])


def _attend_on_cpu(queries: Tensor, keys: Tensor, values: Tensor, sight: Sight, mask: Mask) -> Tensor:
    length, span = queries.shape[2], keys.shape[2]
    if not length:
        return queries
    if mask is None and sight.bias is None:
        return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    block = min(length, BLOCK)
    bias_HR, back, evenly = None, 0, sight.bias is None
    if isinstance(sight.bias, ByDistance):
        bias_HR = sight.bias.bias_HR
        back = max(0, bias_HR.shape[1] - 2)  # distances from the last entry of the bias on have the same bias
        evenly = sight.bias.places.evenly >= back
    if not isinstance(mask, CausalMask) or not evenly:  # no key is far
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool) if mask is None else mask
        allowed = mask.whole if isinstance(mask, CausalMask) else mask
        layout = Layout(block, near=span, first=0, recent=0, far=False, shared=False)
        allowed = allowed.expand(-1, -1, length, span)
        return attend_in_blocks(
            queries, keys, values, layout, bias_BHQW=dense(sight.bias), mask_BHQW=allowed, void_BS=None
        )
    near = min(block + (back if mask.reach is None else mask.reach), block + span)
    if span <= 2 * block:  # a second call of the kernel would cost more than it saves
        near = block + span
    distance_QW = torch.arange(block)[:, None] + near - block - torch.arange(near)
    bias = None
    if bias_HR is not None:
        # a softmax does not change if all scores change by the same number, so subtract the bias of the far keys
        relative_HR = (bias_HR - bias_HR[:, -1:]) if mask.reach is None else bias_HR
        # each row of the tile is the row before it, moved one column to the right: windows of one row, backwards
        row_N = (near - 1 - torch.arange(block + near - 1)).clamp(0, bias_HR.shape[1] - 1)
        bias = relative_HR.index_select(1, row_N).unfold(1, near, 1).flip(1)[None]
    allowed = (distance_QW >= 0) & (distance_QW <= (span if mask.reach is None else mask.reach))
    counts = mask.count_B.tolist() if mask.cache else [0]
    first, nearest = mask.cache - max(counts), span - length + block - near
    recent = max(first, min(sight.old, nearest)) if mask.reach is None else first
    layout = Layout(block, near, first, recent, far=mask.reach is None, shared=True)
    void_BS = mask.void() if min(counts) < max(counts) else None
    return attend_in_blocks(
        queries, keys, values, layout, bias_BHQW=bias, mask_BHQW=allowed[None, None], void_BS=void_BS
    )


def local_scores(sight: Sight, mask: Mask, rows: slice = slice(None)) -> Tensor:
    """The attention scores of the queries in `rows` before the softmax, B H T S in at least fp32; -inf where masked."""
    with full_precision(sight.queries_BHTK.device):
        scores = at_least_fp32(sight.queries_BHTK[:, :, rows]) @ at_least_fp32(sight.placed_BHSK).transpose(-1, -2)
    bias = dense(sight.bias, rows)
    if bias is not None:
        scores = scores + bias
    if mask is None:
        return scores
    allowed = mask.dense(rows) if isinstance(mask, CausalMask) else mask[..., rows, :] if mask.shape[-2] > 1 else mask
    return scores.masked_fill(~allowed, float("-inf"))


@torch.no_grad()
def share(sight: Sight, mask: Mask, *parts: slice) -> list[Tensor]:
    """Gauge: the attention weight of the middle query on the keys in each of `parts`, mean over lanes and heads.

    Empty if nobody watches.
    """
    if not watched():
        return []
    middle = sight.queries_BHTK.shape[2] // 2
    weights_BH1S = local_scores(sight, mask, slice(middle, middle + 1)).softmax(-1)
    return [weights_BH1S[..., part].sum(-1).mean() for part in parts]
