"""Recurrent Memory Transformer: memory tokens before a segment are read, memory tokens after it are written.

Shapes: B lanes, T tokens, M memory tokens, D width, C cache. A *strip* is the sequence that attention runs over: C
cached tokens, M read tokens (and M more for what is retrieved), T tokens and M write tokens, S in all. The last Q of them
are queries.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from memexp.config.arch.slot_memory import RmtArch
from memexp.model.segment import Activations, Extension, Held, MemoryCost, SegmentOutput
from memexp.model.slot_memory.adapters import Adapters, Apart, apart
from memexp.model.slot_memory.gauges import memory_gauges
from memexp.model.slot_memory.past import Past, Retrieval, begin, begin_again, with_newest
from memexp.model.slot_memory.strip import Strip, tokens_kept, within
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import (
    Attention,
    Heads,
    LayerCache,
    Sight,
    attend,
    clear_cache,
    next_cache,
    share,
)
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.kept import FULL
from memexp.model.transformer.position import Places
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, mean_of_layers
from memexp.ranks.exchange import total

CARRY = 4.0
"""Root mean square of the initial memory.

It is larger than what one segment adds. So a slot keeps most of its content, and its gradient does not vanish over segment
borders. With 1, all slots become alike before the model uses them.
"""


class _Kept(NamedTuple):
    """What the next piece of a segment may attend to: for each layer the strip so far, without write tokens."""

    layers: tuple[LayerCache, ...]
    tokens: int


@final
class Rmt(DecoderModel):
    """Recurrent Memory Transformer (Bulatov et al. 2022, section 3.2), with a cache if `arch.cache` is not 0.

    Each lane carries `mem` vectors. They are placed before the segment (read tokens) and once more after it (write
    tokens). The last layer's outputs at the write tokens are the memory of the next segment. Attention is unmasked within
    the read tokens and within the write tokens. Tokens of the text are causal, and read tokens see only one another.
    `arch.memory_sees_cache` says which memory tokens also see the cache. Gradients cross segment borders through the memory,
    within a gradient window. With `mem=0` and no cache this is the plain decoder.

    With `past_memories=N` this is RMT-R (Kuratov et al. 2024, section 4): the memories of the last N segments are kept, the
    present one included. What each memory token retrieves from them, R, is M more read tokens: the strip is
    [memory, R, segment, memory]. Gradients reach all kept memories, within a gradient window.

    *Differs from the paper:*

    - The layers are pre-norm, so the carried vectors are normalised once more (`CARRY`).
    - A learned vector for each slot and role distinguishes memory tokens; the published code starts all of them alike.
    - The cache holds only tokens, and read tokens have the positions of the newest cached tokens.
    - The write tokens predict the extra word of the auxiliary loss (section 4.3).
    - With `past_memories`, the paper keeps the memories of all segments. Memories are normalised before they are compared.
    - With `adapters`, for a decoder that was trained without memory tokens, these are read and written through `Adapters`.
    - Gradient windows of `bptt_segments + 1` segments do not overlap. The published code takes a step after every segment
      and computes the `bptt_segments` segments before it again.

    *Differs from the published code,* in what are errors there:

    - Its relative shift gives keys ahead of a query the score of the row below at a large distance, so read and write tokens
      see later ones of their block at wrong places. Ours have their true, negative distance. In the text, and with one memory
      token, there are no such keys.
    - Its training of language models computes earlier segments again from the current memory. Ours reads each segment with
      the memory that it had.
    - Its training on algorithmic tasks gives the initial memory no gradient. Ours learns it.
    """

    mask_in_each_layer = True
    cache_in_sight = False

    def __init__(self, shape: Shape, mem: int, arch: RmtArch) -> None:
        super().__init__(shape, cache=arch.cache, memory=mem)
        self.aux_weight, self.sees_cache = arch.aux_weight, arch.memory_sees_cache
        self.past_memories = arch.past_memories if mem else 0
        self.read_tokens = 2 * mem if self.past_memories else mem
        self.add_layers(arch, two_sided=mem > 1)
        # vectors of the size that the layers are used to; a checkpoint's residual stream starts small
        unit, carry = (1.0, CARRY) if shape.pretrained is None else (shape.pretrained.unit, shape.pretrained.unit)
        if mem:
            self.initial_MD = nn.Parameter(torch.randn(mem, shape.width) * carry)
            self.read_MD = nn.Parameter(torch.randn(mem, shape.width) * unit)
            self.write_MD = nn.Parameter(torch.randn(mem, shape.width) * unit)
            self.memory_norm = nn.RMSNorm(shape.width, eps=1e-6)
            nn.init.constant_(self.memory_norm.weight, carry)
            self.memory_word_D = nn.Parameter(torch.randn(shape.width)) if arch.aux_weight else None
        self.adapters = Adapters(shape) if mem and arch.adapters else None
        if self.past_memories:
            self.retrieved_MD = nn.Parameter(torch.randn(mem, shape.width) * unit)
            self.retrieval = Retrieval(shape)

    def activations(self, *, half: bool) -> Activations:
        """The output layer needs a copy of the tokens' activations, and the auxiliary loss the logits of write tokens."""
        found, slots = super().activations(half=half), self.memory_slots
        if not slots:
            return found
        copied: float = FULL * self.shape.segment * self.shape.width
        # of what is retrieved: vectors before and after each projection, scores and weights
        copied += FULL * slots * bool(self.past_memories) * (6 * self.shape.width + 2 * self.past_memories * slots)
        if self.adapters is not None:  # what is read of the memory, and its sum with what is read of the text
            copied += self.shape.layers * 2 * self.kept(half=half).read(self.positions)
        if not self.aux_weight:
            return found._replace(memory=copied)
        words = self.head.most_logits
        vectors = words * self.shape.width * self.kept(half=half).number
        return found._replace(memory=copied + FULL * slots * words, in_all_lanes=vectors)

    def held(self, *, half: bool) -> Held:
        """The embedding of tokens is there beside that of all positions."""
        return super().held(half=half).beside(FULL * self.shape.segment * self.shape.width * bool(self.memory_slots))

    @property
    def positions(self) -> int:
        """Tokens, read tokens and write tokens."""
        return self.shape.segment + self.read_tokens + self.memory_slots

    @property
    def memory_cost(self) -> MemoryCost:
        """Comparing the memory tokens with all that are kept, and with adapters attention for a second time.

        The weights of either are used once for each memory token.
        """
        width, positions, a_token = (
            self.shape.width,
            self.positions / self.shape.segment,
            self.memory_slots / self.shape.segment,
        )
        only_of_memory = 4 * bool(self.past_memories) + (self.adapters is not None)
        compared = 2 * a_token * self.past_memories * self.memory_slots * width
        inner = self.shape.heads * self.shape.head_size
        again = 2 * self.attention_layers * inner * self.attended * positions if self.adapters is not None else 0.0
        return MemoryCost(recurrence=compared + again - only_of_memory * width * width * (positions - a_token))

    def init_state(self, lanes: int) -> State:
        """An empty cache and the learned initial memory."""
        cache = self.empty_cache(lanes)
        if self.past_memories:
            return State(cache, begin(self.initial_MD, lanes, self.past_memories))
        return State(cache, self.initial_MD.expand(lanes, -1, -1) if self.memory_slots else ())

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the caches and restore the initial memory in the lanes in which a document begins."""
        memory = state.memory
        if self.past_memories:
            memory = begin_again(memory, self.initial_MD, reset_B)
        elif self.memory_slots:
            memory = torch.where(reset_B[:, None, None], self.initial_MD, memory)
        return State(clear_cache(state.cache, reset_B), memory)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment between its memory tokens; the outputs at the write tokens are the next memory."""
        slots, length, cache = self.memory_slots, tokens_BT.shape[1], state.cache
        strip = self._strip(length, queries=self.read_tokens + length + slots, write=slots)
        parts = [self.head.embed(tokens_BT)]
        before_BMD: Tensor = state.memory.present_BMD if self.past_memories else state.memory
        gauges: Gauges = {}
        if slots:  # section 3.2: H = [H_mem, X, H_mem], here with a learned vector for each slot and role
            parts = [*self._read(before_BMD, state.memory, gauges), *parts, before_BMD + self.write_MD]
        x_BQD = self.dropout(torch.cat(parts, dim=1))
        mask, places = self._mask(strip, cache.count_B, valid_BT), strip.places(x_BQD.device)
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []

        def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
            past = cache.layers[index] if cache.layers else None
            sight = attention.look(heads, past, places)
            if slots and isinstance(mask, Tensor):
                shares.extend(share(sight, within(mask, places, attention.reach), strip.memory))
            read_BHTK = self._attend(index, sight, mask, places, attention.reach)
            if past is not None:
                layer_caches.append(tokens_kept(sight, heads, past, strip))
            return read_BHTK

        x_BQD = self.layers.through(x_BQD, read_heads, past=cache.layers, text=strip.text)
        # section 3.2: [H_read, H, H_write] = Transformer(H), and the next segment's H_mem is H_write
        hidden_BTD, written_BMD = x_BQD[:, strip.text], x_BQD[:, self.read_tokens + length :]
        cache = next_cache(layer_caches, cache, length)
        if not slots:
            return SegmentOutput(hidden_BTD, State(cache, ()), aux={}, gauges={})
        memory_BMD = self.memory_norm(written_BMD).to(before_BMD.dtype)
        if self.adapters is not None:
            memory_BMD = self.adapters.write(self.initial_MD, memory_BMD)
            gauges |= self.adapters.gauges()
        gauges |= mean_of_layers(memory_share=shares) | memory_gauges(before_BMD, memory_BMD)
        memory = with_newest(state.memory, memory_BMD) if self.past_memories else memory_BMD
        return SegmentOutput(hidden_BTD, State(cache, memory), self._aux(written_BMD, valid_BT), gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece, which attends to the cache, the read tokens and the segment so far, without write tokens."""
        slots, length = self.memory_slots, tokens_BT.shape[1]
        x_BQD = self.head.embed(tokens_BT)
        if kept is None:
            kept = _Kept(self.growing(state.cache).layers, 0)
            if slots:
                before_BMD = state.memory.present_BMD if self.past_memories else state.memory
                x_BQD = torch.cat([*self._read(before_BMD, state.memory, {}), x_BQD], dim=1)
        x_BQD = self.dropout(x_BQD)
        strip = self._strip(kept.tokens + length, queries=x_BQD.shape[1], write=0)
        valid_BT = tokens_BT.new_ones(len(tokens_BT), strip.tokens, dtype=torch.bool)
        mask, places = self._mask(strip, state.cache.count_B, valid_BT), strip.places(x_BQD.device)
        layer_caches: list[LayerCache] = []

        def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
            sight = attention.look(heads, kept.layers[index], places)
            layer_caches.append(LayerCache(sight.keys_BGSK, sight.values_BGSK, heads.input_BD))
            return self._attend(index, sight, mask, places, attention.reach)

        x_BQD = self.layers.through(x_BQD, read_heads, past=kept.layers, text=strip.text)
        return Extension(x_BQD[:, strip.text], _Kept(tuple(layer_caches), strip.tokens))

    def _mask(self, strip: Strip, count_B: Tensor, valid_BT: Tensor) -> Tensor | Apart:
        mask = strip.mask(count_B, valid_BT)
        return mask if self.adapters is None else apart(mask, strip)

    def _attend(self, layer: int, sight: Sight, mask: Tensor | Apart, places: Places, reach: int | None) -> Tensor:
        if isinstance(mask, Tensor):
            return attend(sight, within(mask, places, reach))
        assert self.adapters is not None
        return self.adapters.attend(layer, sight, mask._replace(text=within(mask.text, places, reach)))

    def _strip(self, tokens: int, *, queries: int, write: int) -> Strip:
        return Strip(self.cache_tokens, self.read_tokens, tokens, write, queries, self.sees_cache)

    def _read(self, before_BMD: Tensor, memory: Tensor | Past, gauges: Gauges) -> list[Tensor]:
        """The read tokens: the memory, and what it retrieves from those that are kept."""
        read = [before_BMD + self.read_MD]
        if isinstance(memory, Past):
            retrieved = self.retrieval(memory)
            gauges |= mean_of_layers(memory_age=retrieved.age)
            read.append(retrieved.read_BMD.to(before_BMD.dtype) + self.retrieved_MD)
        return read

    def _aux(self, written_BMD: Tensor, valid_BT: Tensor) -> dict[str, Tensor]:
        """The auxiliary loss: write tokens predict an extra word (section 4.3); a mean over lanes that read a token."""
        if self.memory_word_D is None:
            return {}
        nats_BM = self.head.nats_of_another(written_BMD, self.memory_word_D)
        reading_B = valid_BT.any(-1)
        nats = total(torch.where(reading_B, nats_BM.mean(-1), 0).sum()) / total(reading_B.sum()).clamp_min(1)
        return {"memory_word": self.aux_weight * nats}
