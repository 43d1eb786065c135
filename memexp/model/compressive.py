"""Compressive Transformer: pairs that leave the cache are compressed into `mem` slots before they are forgotten.

Shapes: B lanes, T tokens, D width, H heads, K head size, M compressed slots, C cache, S = M + C + T keys in sight,
N = T pairs that leave the cache, P compressed pairs made of them.
"""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from memexp.config.arch.slot_memory import CompressiveArch
from memexp.model.segment import Activations, Extension, Held, SegmentOutput
from memexp.model.slot_memory.compressor import (
    Compressed,
    Compressor,
    Pairs,
    Reconstruction,
    append_pairs,
    reconstruction,
)
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import (
    Attention,
    Cache,
    CausalMask,
    Heads,
    LayerCache,
    Sight,
    attend,
    clear_cache,
    next_cache,
    next_layer_cache,
    share,
)
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.kept import FULL
from memexp.model.transformer.position import Places, in_order
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, mean_of_layers


class _Read(NamedTuple):
    """The result of passing a segment, or a piece of a segment, through all layers."""

    hidden_BTD: Tensor
    cache: Cache
    gauges: Gauges


Then = Callable[[int, Tensor, Sight], None]
"""Is called when layer `index` has read, with its queries without positions, B H T K, and with them and all they attend to."""


@final
class Compressive(DecoderModel):
    """Compressive Transformer (Rae et al. 2020, section 3) over normalised keys.

    Every layer attends to its compressed slots, its cache and the segment together. A slot has the position of the middle
    one of its tokens. Only the attention-reconstruction loss trains the compression: no gradient enters the cache or the
    slots, and the gradient of this loss reaches only the compressors.
    *Differs from the paper:* keys and values are compressed separately for each head, not the activations that they are
    made of; the convolution is initialised as a mean.
    """

    mask_in_each_layer = True

    def __init__(self, shape: Shape, mem: int, arch: CompressiveArch) -> None:
        super().__init__(shape, cache=arch.cache, memory=mem)
        self.factor = arch.factor
        self.add_layers(arch)
        self.compressors = nn.ModuleList(Compressor(shape, arch) for _ in range(shape.layers))

    def activations(self, *, half: bool) -> Activations:
        """Of the compressors, which compare attention to what leaves the cache, in fp32, with attention to what they make."""
        found, kept = super().activations(half=half), self.kept(half=half)
        compressor = next(iter(self.compressors))
        if not self.memory_slots or not any(True for _ in compressor.parameters()):  # pooling learns nothing
            return found
        length, whole, made = self.shape.segment, kept.as_fp32(), self.shape.segment // self.factor
        queries = whole.of_heads(length, whole.inner) if half else 0
        difference = whole.of_heads(length, whole.inner)
        pairs = 2 * whole.of_heads(made, whole.keys) + (kept.unit_norm(made, kept.keys) if half else 0)
        return found._replace(memory=self.shape.layers * (queries + whole.read(length) + difference + pairs))

    def held(self, *, half: bool) -> Held:
        """With slots and cache in one piece; and while these are compressed, two reads in fp32, their difference and its square."""
        found, kept = super().held(half=half), self.kept(half=half)
        attention = found.attention + FULL * 2 * kept.keys * self.in_sight
        memory = attention + FULL * 4 * kept.inner * self.shape.segment * bool(self.memory_slots)
        return found._replace(attention=attention, memory=memory)

    @property
    def in_sight(self) -> int:
        """Compressed pairs, then the cache."""
        return self.memory_slots + self.cache_tokens

    def init_state(self, lanes: int) -> State:
        """An empty cache and no compressed pairs."""
        shape, like = self.shape, self.head.embedding_VD
        size = (lanes, shape.heads, self.memory_slots, shape.head_size)
        slots = tuple(Pairs(like.new_zeros(size), like.new_zeros(size)) for _ in range(shape.layers))
        count_B = torch.zeros(lanes, dtype=torch.long, device=like.device)
        return State(self.empty_cache(lanes), Compressed(slots, count_B))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the caches and slots of the lanes in which a document begins."""
        memory = state.memory._replace(count_B=state.memory.count_B.masked_fill(reset_B, 0))
        return State(clear_cache(state.cache, reset_B), memory)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment, which attends to itself, the cache and the slots; then compress the pairs that leave the cache."""
        length = tokens_BT.shape[1]
        index_C = torch.arange(self.cache_tokens, device=tokens_BT.device)
        cached_BC = index_C >= self.cache_tokens - state.cache.count_B[:, None]
        made_valid_BP = torch.cat([cached_BC, valid_BT], dim=1)[:, :length].unflatten(1, (-1, self.factor)).all(-1)
        leaving = slice(self.memory_slots, self.memory_slots + length)
        slots: list[Pairs] = []
        errors: list[Reconstruction] = []

        def compress(index: int, queries_BHTK: Tensor, sight: Sight) -> None:
            # Algorithm 1: the oldest pairs leave the cache, f_c compresses them, and the newest slots stay
            whole = Pairs(sight.keys_BGSK[:, :, leaving].detach(), sight.values_BGSK[:, :, leaving].detach())
            made = self.compressors[index](whole)
            # Algorithm 2: |attention to the leaving pairs minus attention to the compressed pairs|^2
            errors.append(reconstruction(queries_BHTK, whole, made, there_BP=made_valid_BP, valid_BT=valid_BT))
            slots.append(append_pairs(state.memory.layers[index], made))

        then = compress if self.memory_slots else None
        read = self._read(tokens_BT, state.memory, state.cache, size=self.cache_tokens, then=then)
        if not self.memory_slots:
            return SegmentOutput(read.hidden_BTD, State(read.cache, state.memory), aux={}, gauges=read.gauges)
        left_B = (state.cache.count_B + length - self.cache_tokens).clamp(0, length)
        count_B = (state.memory.count_B + left_B // self.factor).clamp_max(self.memory_slots)
        loss = torch.stack([error.loss for error in errors]).sum()
        return SegmentOutput(
            read.hidden_BTD,
            State(read.cache, Compressed(tuple(slots), count_B)),
            # pooling has no parameters
            aux={"reconstruction": loss} if loss.requires_grad else {},
            gauges=read.gauges | mean_of_layers(reconstruction=[lane for error in errors for lane in error.by_lane]),
        )

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece; its cache includes the segment so far, and the slots are those of the segment's start."""
        cache = state.cache if kept is None else kept
        return Extension(*self._read(tokens_BT, state.memory, cache, size=None)[:2])

    def _read(
        self, tokens_BT: Tensor, memory: Compressed, cache: Cache, *, size: int | None, then: Then | None = None
    ) -> _Read:
        """Pass tokens through all layers; the next cache keeps `size` tokens, or with None all in sight except the slots.

        Args:
            then: what else is done when a layer has read.
        """
        x_BTD = self.embed(tokens_BT)
        slots, length, exact = self.memory_slots, x_BTD.shape[1], cache.layers[0].keys_BGCK.shape[2]
        # slots are filled only if the cache is full, so the keys that a lane sees follow one another
        mask = CausalMask(length, slots + exact, memory.count_B + cache.count_B, self.reach)
        places = self._places(length, exact + length, x_BTD.device)
        layer_caches: list[LayerCache] = []
        on_slots: list[Tensor] = []
        on_cache: list[Tensor] = []

        def read_heads(index: int, attention: Attention, heads: Heads) -> Tensor:
            past, pairs = cache.layers[index], memory.layers[index]
            slots_and_cache = LayerCache(
                torch.cat([pairs.keys_BHNK, past.keys_BGCK], dim=2),
                torch.cat([pairs.values_BHNK, past.values_BGCK], dim=2),
                past.input_BD,
            )
            sight = attention.look(heads, slots_and_cache, places)
            read_BHTK = attend(sight, mask)
            layer_caches.append(next_layer_cache(sight, heads, past, size=exact + length if size is None else size))
            if then is not None:
                then(index, heads.queries_BHTK, sight)
            on_cache.extend(share(sight, mask, slice(slots, slots + exact)))
            on_slots.extend(share(sight, mask, slice(0, slots)) if slots else [])
            return read_BHTK

        x_BTD = self.layers.through(x_BTD, read_heads, past=cache.layers)
        gauges = mean_of_layers(cache_share=on_cache, memory_share=on_slots)
        if slots:
            gauges["memory_fill"] = memory.count_B.max() / slots
        return _Read(x_BTD, next_cache(layer_caches, cache, length), gauges)

    def _places(self, length: int, exact: int, device: torch.device) -> Places:
        """The positions of all keys: first the slots, `factor` tokens apart, then the `exact` keys.

        The last `length` exact keys belong to the queries.
        """
        before = self.memory_slots * self.factor
        text = in_order(length, exact, device)
        slots_M = torch.arange(0, before, self.factor, device=device) + self.factor // 2
        return Places(
            text.query_T + before,
            torch.cat([slots_M, text.key_S + before]),
            lowest=0,
            highest=before + exact - 1,
            evenly=exact - length,
        )
