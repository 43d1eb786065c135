"""Recurrent Memory Transformer: memory tokens in front of a segment are read, memory tokens behind it are written.

Shapes: B lanes, T tokens, M memory tokens, D width, C cache. A strip is all that a segment's attention runs over: C
cached tokens, M read tokens, T tokens, M write tokens, S in all; the last Q of them are its queries.
"""

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch import RmtArch
from memexp.model.segment import Extension, SegmentOutput
from memexp.model.slot_memory.gauges import memory_gauges
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import Heads, LayerCache, Sight, attend, clear_cache, next_cache, share
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.position import Places
from memexp.model.transformer.shape import Shape

CARRY = 4.0
"""Root mean square of the memory at first: larger than what one segment adds, so that a slot keeps most of what it holds
and its gradient does not fade from border to border. With 1 the slots become alike before they are of use."""


class _Strip(NamedTuple):
    """How many of each kind there are, in this order, and how many of the last are queries."""

    cache: int
    read: int
    tokens: int
    write: int
    queries: int

    @property
    def size(self) -> int:
        return self.cache + self.read + self.tokens + self.write

    @property
    def text(self) -> slice:
        """The tokens among the queries."""
        before = self.size - self.queries
        start = max(0, self.cache + self.read - before)
        return slice(start, self.queries - self.write)

    def places(self, device: torch.device) -> Places:
        """Tokens stand one after another; read tokens end before the segment begins, write tokens follow it."""
        parts = [(-self.cache, 0), (-self.read, 0), (0, self.tokens + self.write)]
        place_S = torch.cat([torch.arange(start, stop, device=device) for start, stop in parts])
        highest = self.tokens + self.write - 1 + max(self.cache, self.read)
        return Places(place_S[-self.queries :], place_S, lowest=min(0, 1 - max(self.read, self.write)), highest=highest)

    def mask(self, count_B: Tensor, valid_BT: Tensor) -> Tensor:
        """True where a query may look, B 1 Q S.

        Args:
            count_B: how many of the cached tokens are the lane's own.
            valid_BT: which of the strip's tokens are there; only write tokens ask, for padding is behind every token.
        """
        index_S = torch.arange(self.size, device=count_B.device)
        read_S = (index_S >= self.cache) & (index_S < self.cache + self.read)
        write_S = index_S >= self.size - self.write
        filled_BS = (index_S >= self.cache - count_B[:, None]) | (index_S >= self.cache)
        there_BS = F.pad(valid_BT, (self.cache + self.read, self.write), value=True)
        index_Q, read_Q, write_Q = (of_S[-self.queries :, None] for of_S in (index_S, read_S, write_S))
        by_kind_QS = torch.where(read_Q, read_S, (index_S <= index_Q) | write_Q)
        return (by_kind_QS & filled_BS[:, None] & (there_BS[:, None] | ~write_Q))[:, None]


class _Kept(NamedTuple):
    """What the next piece of a segment may attend to: in every layer the strip so far, without write tokens."""

    layers: tuple[LayerCache, ...]
    tokens: int


@final
class Rmt(DecoderModel):
    """Recurrent Memory Transformer (Bulatov et al. 2022, section 3.2), with a cache where `cache` is not 0.

    A lane carries `mem` vectors. They stand in front of the segment (read) and, the same ones, behind it (write); what
    the last layer makes of the write tokens is the next segment's memory. Inside each block of memory tokens attention
    is unmasked, tokens are causal, and read tokens see nothing but one another. Gradients cross segment borders through
    the memory, as far as the trainer's horizon lets them. With `mem=0` and no cache it is the plain decoder.

    *Differs from the paper:* pre-norm, so what is carried is normalised once more (`CARRY`); a learned vector a slot and role
    tells memory tokens apart, where the published code starts all of them alike; the cache holds tokens alone, and read
    tokens stand at the places of the cache's newest; what predicts the extra word of the auxiliary loss (section 4.3)
    is the write tokens. Gradient windows of `bptt_segments + 1` segments do not overlap, where the published code takes
    a step every segment and computes `bptt_segments` again before it.
    """

    def __init__(self, shape: Shape, mem: int, arch: RmtArch) -> None:
        super().__init__(shape, cache=arch.cache, memory=mem)
        self.aux_weight = arch.aux_weight
        self.add_layers(arch, two_sided=mem > 1)
        if mem:
            self.initial_MD = nn.Parameter(torch.randn(mem, shape.width) * CARRY)
            self.read_MD = nn.Parameter(torch.randn(mem, shape.width))
            self.write_MD = nn.Parameter(torch.randn(mem, shape.width))
            self.memory_norm = nn.RMSNorm(shape.width, eps=1e-6)
            nn.init.constant_(self.memory_norm.weight, CARRY)
            self.memory_word_D = nn.Parameter(torch.randn(shape.width)) if arch.aux_weight else None

    @property
    def positions(self) -> int:
        """The memory stands before the segment, to be read, and behind it, to be written."""
        return self.shape.segment + 2 * self.memory_slots

    def init_state(self, lanes: int) -> State:
        """An empty cache and the learned initial memory."""
        cache = self.empty_cache(lanes)
        return State(cache, self.initial_MD.expand(lanes, -1, -1) if self.memory_slots else ())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches and put the initial memory back in the lanes that begin a document."""
        memory = state.memory
        if self.memory_slots:
            memory = torch.where(reset_B[:, None, None], self.initial_MD, memory)
        return State(clear_cache(state.cache, reset_B), memory)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment between its memory tokens, and carry on what became of the write tokens."""
        slots, length, cache = self.memory_slots, tokens_BT.shape[1], state.cache
        strip = _Strip(self.cache_tokens, slots, length, slots, queries=slots + length + slots)
        parts = [self.head.embed(tokens_BT)]
        if slots:  # section 3.2: H = [H_mem, X, H_mem], here with a learned vector a slot and role
            parts = [state.memory + self.read_MD, *parts, state.memory + self.write_MD]
        x_BQD = self.dropout(torch.cat(parts, dim=1))
        mask, places = strip.mask(cache.count_B, valid_BT), strip.places(x_BQD.device)
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            past = cache.layers[index] if cache.layers else None
            heads = layer.attention.project(layer.attention_norm(x_BQD), past, text=strip.text)
            sight = layer.attention.look(heads, past, places)
            x_BQD = layer.finish(x_BQD, attend(sight, mask))
            if slots:
                shares.append(share(sight, mask, slice(strip.cache, strip.cache + slots)))
            if past is not None:
                layer_caches.append(_next_cache(sight, heads, past, strip))
        # section 3.2: [H_read, H, H_write] = Transformer(H), and the next segment's H_mem is H_write
        hidden_BTD, written_BMD = x_BQD[:, strip.text], x_BQD[:, slots + length :]
        cache = next_cache(layer_caches, cache, length)
        if not slots:
            return SegmentOutput(hidden_BTD, State(cache, ()), aux={}, gauges={})
        memory_BMD = self.memory_norm(written_BMD).to(state.memory.dtype)
        gauges = {"memory_share": torch.stack(shares).mean(), **memory_gauges(state.memory, memory_BMD)}
        return SegmentOutput(hidden_BTD, State(cache, memory_BMD), self._aux(written_BMD, valid_BT), gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over cache, read tokens and the segment so far; there is no write token before its end."""
        slots, length = self.memory_slots, tokens_BT.shape[1]
        x_BQD = self.head.embed(tokens_BT)
        if kept is None:
            kept = _Kept(self.growing(state.cache).layers, 0)
            if slots:
                x_BQD = torch.cat([state.memory + self.read_MD, x_BQD], dim=1)
        x_BQD = self.dropout(x_BQD)
        strip = _Strip(self.cache_tokens, slots, kept.tokens + length, 0, queries=x_BQD.shape[1])
        there_BT = tokens_BT.new_ones(len(tokens_BT), strip.tokens, dtype=torch.bool)
        mask, places = strip.mask(state.cache.count_B, there_BT), strip.places(x_BQD.device)
        layer_caches = []
        for layer, past in zip(self.layers, kept.layers, strict=True):
            heads = layer.attention.project(layer.attention_norm(x_BQD), past, text=strip.text)
            sight = layer.attention.look(heads, past, places)
            x_BQD = layer.finish(x_BQD, attend(sight, mask))
            layer_caches.append(LayerCache(sight.keys_BGSK, sight.values_BGSK, heads.input_BD))
        return Extension(x_BQD[:, strip.text], _Kept(tuple(layer_caches), strip.tokens))

    def _aux(self, written_BMD: Tensor, valid_BT: Tensor) -> dict[str, Tensor]:
        """Write tokens are to predict a word of their own (section 4.3), mean over those of lanes that read anything."""
        if self.memory_word_D is None:
            return {}
        nats_BM = self.head.nats_of_another(written_BMD, self.memory_word_D)
        there_B = valid_BT.any(-1)
        nats = torch.where(there_B, nats_BM.mean(-1), 0).sum() / there_B.sum().clamp_min(1)
        return {"memory_word": self.aux_weight * nats}


def _next_cache(sight: Sight, heads: Heads, past: LayerCache, strip: _Strip) -> LayerCache:
    """The newest C tokens of cache and segment, without gradient and without memory tokens."""
    first = strip.cache + strip.read

    def newest(x_BGSK: Tensor, like: Tensor) -> Tensor:
        tokens = torch.cat([x_BGSK[:, :, : strip.cache], x_BGSK[:, :, first : first + strip.tokens]], dim=2)
        return tokens[:, :, strip.tokens :].detach().to(like.dtype)

    return LayerCache(
        newest(sight.keys_BGSK, past.keys_BGCK),
        newest(sight.values_BGSK, past.values_BGCK),
        heads.input_BD.detach().to(past.input_BD.dtype),
    )
