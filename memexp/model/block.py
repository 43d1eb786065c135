"""Block-Recurrent Transformer: a sliding window over the text, and `mem` state vectors that every window rewrites.

Shapes: B lanes, T tokens, D width, M state vectors, H heads, K head size, C cache, S = C + T tokens in sight.
"""

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch import BlockArch
from memexp.model.knn_memory.memories import PairMemories, PairPass
from memexp.model.knn_memory.ring import Ring, clear_ring
from memexp.model.segment import Extension, MemoryCost, Retrieval, SegmentOutput
from memexp.model.slot_memory.gauges import memory_gauges
from memexp.model.slot_memory.vectors import FromStates, RecurrentVectors, Seen, StateReader, StateVectors
from memexp.model.state import State, Tree, fork
from memexp.model.transformer.attention import (
    Cache,
    LayerCache,
    Sight,
    causal_mask,
    clear_cache,
    empty_cache,
    newest,
    next_cache,
    share,
)
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.shape import Shape

Gauges = dict[str, Tensor]


class _Read(NamedTuple):
    """A window, or a piece of one, through the network."""

    hidden_BTD: Tensor
    cache: Cache
    sights: list[Sight]
    """What each recurrent layer's tokens saw."""
    gauges: Gauges
    pairs: PairPass


class BlockRecurrence(DecoderModel):
    """Block recurrence (Hutchins et al. 2022, section 3), beside whatever pairs its layers read: those of `memories`, injected.

    A segment is read in windows of W tokens, each through all layers. A token sees itself and the W tokens before it;
    in a recurrent layer, or with `feedback` in every layer, it also reads the layer's state vectors as they stood before
    its window (in layers without any, those of the last recurrent layer). Then the vectors are rewritten from
    themselves and from the tokens of the window and of the one before. Gradients pass from window to window through
    both, so how a text is cut into segments makes no difference as long as the trainer's horizon covers it. With `mem=0`
    it is the paper's sliding-window baseline.
    *Differs from the paper's code:* a token attends to itself too; LSTM gates take the tanh of the candidate in every
    arrangement and fixed ones in none, as the paper's equations do; attention from and to state vectors starts sharper.
    """

    def __init__(self, shape: Shape, mem: int, arch: BlockArch, *, memories: PairMemories, pairs: int) -> None:
        """
        Args:
            memories: of some layers, written after every window.
            pairs: what these hold.
        """
        super().__init__(shape, cache=arch.window, memory=mem + pairs)
        self.state_dropout, self.cache_dropout = arch.state_dropout, arch.cache_dropout
        self.stored_heads = 1 if arch.shared_values else shape.heads
        self.add_layers(arch, shared_values=arch.shared_values)
        # the paper's 10th of 12
        chosen = sorted(layer - 1 for layer in arch.recurrent_layers) or [max(1, round(shape.layers * 10 / 12)) - 1]
        self.recurrent_layers = chosen if mem else []
        self.vectors = RecurrentVectors(StateVectors(shape, arch, count=mem) for _ in self.recurrent_layers)
        reading = range(shape.layers) if arch.feedback else self.recurrent_layers
        self.readers = nn.ModuleDict({str(index): StateReader(shape, arch) for index in reading})
        self.memories = memories

    @property
    def memory_cost(self) -> MemoryCost:
        """What search costs."""
        return self.memories.cost

    def remarks(self, device: torch.device) -> list[str]:
        """What is to be said of the search of the memories of pairs."""
        return self.memories.remarks(device)

    @property
    def stride(self) -> int:
        """The window."""
        return self.cache_tokens

    def init_state(self, lanes: int) -> State:
        """An empty cache of one window, and the learned state vectors of each recurrent layer."""
        cache = empty_cache(
            self.shape, lanes=lanes, size=self.cache_tokens, like=self.head.embedding_VD, heads=self.stored_heads
        )
        rings = self.memories.empty(lanes, self.head.embedding_VD)
        return State(cache, (*self.vectors.initial(lanes), *rings))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Void the caches of the lanes that begin a document, and give them the learned state vectors."""
        vectors, rings = self._parts(state)
        memory = (*self.vectors.start_again(vectors, reset_B), *(clear_ring(ring, reset_B) for ring in rings))
        return State(clear_cache(state.cache, reset_B), memory)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read a segment window by window; each rewrites the state vectors after it was read."""
        if self.training and (self.cache_dropout or self.state_dropout):
            state = self._forget(state)
        reads, after = self._windows(tokens_BT, valid_BT, state)
        hidden_BTD = torch.cat([read.hidden_BTD for read in reads], dim=1)
        of_windows = {name: torch.stack([read.gauges[name] for read in reads]) for name in reads[0].gauges}
        means = {name: of.max() if name.startswith("memory_fill") else of.mean() for name, of in of_windows.items()}
        for place, (old_BMD, new_BMD) in enumerate(zip(self._parts(state)[0], self._parts(after)[0], strict=True)):
            means |= self._named(place, memory_gauges(old_BMD, new_BMD))
        return SegmentOutput(hidden_BTD, after, aux={}, gauges=means)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read over a cache that grows by the window so far, and the state vectors as they were at its start."""
        vectors, rings = self._parts(state)
        cache, seen = (state.cache, self.vectors.see(vectors)) if kept is None else kept
        read = self._read(self.embed(tokens_BT), cache, seen, rings, size=None)
        return Extension(read.hidden_BTD, (read.cache, seen))

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves of the memories of pairs; windows write to a copy of the rings."""
        if not self._parts(state)[1]:
            return super().inspect(tokens_BT, valid_BT, state, reset_B)
        reads, _ = self._windows(tokens_BT, valid_BT, fork(self.clear(state, reset_B)))
        retrieved = [retrieval for read in reads if (retrieval := read.pairs.retrieval()) is not None]
        return Retrieval(*(torch.cat(parts, dim=1) for parts in zip(*retrieved, strict=True)))

    def _forget(self, state: State) -> State:
        """In training, lanes lose their cache or their state vectors at random, so that neither is relied on alone."""
        chance_2B = torch.rand(2, *state.cache.count_B.shape, device=state.cache.count_B.device)
        cache = clear_cache(state.cache, chance_2B[0] < self.cache_dropout)
        vectors, rings = self._parts(state)
        return State(cache, (*self.vectors.start_again(vectors, chance_2B[1] < self.state_dropout), *rings))

    def _parts(self, state: State) -> tuple[tuple[Tensor, ...], tuple[Ring, ...]]:
        """The state vectors of each recurrent layer, and the rings of the layers that have one."""
        count = len(self.recurrent_layers)
        return state.memory[:count], state.memory[count:]

    def _windows(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> tuple[list[_Read], State]:
        """A segment window by window, and the state after it."""
        # padding is nothing at all, so that no gauge depends on what stands there
        x_BTD = self.embed(tokens_BT) * valid_BT[..., None]
        cache, (vectors, rings), reads = state.cache, self._parts(state), []
        for window_BTD, there_BT in zip(x_BTD.split(self.stride, 1), valid_BT.split(self.stride, 1), strict=True):
            # section 3: vertically, tokens attend to themselves and to the states of the window before;
            # horizontally, states attend to themselves and to the tokens, and a gate takes the place of each residual
            seen = self.vectors.see(vectors)
            read = self._read(window_BTD, cache, seen, rings, size=self.cache_tokens)
            vectors, gates = self._rewrite(seen, read.sights, there_BT, cache.count_B)
            rings, cache = read.pairs.write(cache, there_BT), read.cache
            reads.append(read._replace(gauges=read.gauges | gates))
        return reads, State(cache, (*vectors, *rings))

    def _read(
        self, x_BTD: Tensor, cache: Cache, seen: tuple[Seen, ...], rings: tuple[Ring, ...], *, size: int | None
    ) -> _Read:
        """Through all layers; `size` is that of the next cache, None keeps all in sight."""
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []
        sights: list[Sight] = []
        gauges: Gauges = {}
        pairs = PairPass(self.memories, rings)
        mask = causal_mask(x_BTD, cache, reach=self.cache_tokens)
        for index, (layer, past) in enumerate(zip(self.layers, cache.layers, strict=True)):
            y_BTD = layer.attention_norm(x_BTD)
            heads = layer.attention.project(y_BTD, past)
            sight = layer.attention.look(heads, past)
            local_BHTK = pairs.attend(index, layer.attention, heads, sight, mask)
            if str(index) in self.readers:
                own = self.recurrent_layers.index(index) if index in self.recurrent_layers else -1
                found: FromStates = self.readers[str(index)](y_BTD, seen[own])
                x_BTD = x_BTD + layer.dropout(found.output_BTD)
                if own >= 0:
                    gauges |= self._named(own, {"state_read": _lengths(found.read_BHTK, local_BHTK)})
                    sights.append(sight)
            x_BTD = layer.finish(x_BTD, local_BHTK)
            past_tokens, in_sight = past.keys_BGCK.shape[2], sight.keys_BGSK.shape[2]
            layer_caches.append(newest(sight, heads, past, size=in_sight if size is None else size))
            shares.append(share(sight, mask, slice(0, past_tokens)))
        gauges |= {f"{name}_pairs": value for name, value in pairs.gauges.items()}
        gauges["cache_share"] = torch.stack(shares).mean()
        return _Read(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), sights, gauges, pairs)

    def _rewrite(
        self, seen: tuple[Seen, ...], sights: list[Sight], valid_BT: Tensor, count_B: Tensor
    ) -> tuple[tuple[Tensor, ...], Gauges]:
        """The state vectors after a window, and its gates; where the window is all padding they stay.

        Args:
            count_B: how many of the cached tokens are of the lane's document.
        """
        place_S = torch.arange(-self.cache_tokens, valid_BT.shape[1], device=count_B.device)
        there_BS = F.pad(valid_BT, (self.cache_tokens, 0), value=True) & (place_S >= -count_B[:, None])
        moves_B11 = valid_BT.any(dim=-1)[:, None, None]
        mask_B11S = there_BS[:, None, None] | ~moves_B11[..., None]  # a softmax needs something to read
        memory: list[Tensor] = []
        gauges: Gauges = {}
        for place, (vectors, old, sight) in enumerate(zip(self.vectors, seen, sights, strict=True)):
            gated = vectors.rewrite(old, sight.keys_BGSK, sight.values_BGSK, mask_B11S)
            memory.append(torch.where(moves_B11, gated.new_BMD, old.vectors_BMD))
            gauges |= self._named(place, {"gate": gated.keep_BMD.detach().mean()})
        return tuple(memory), gauges

    def _named(self, place: int, gauges: Gauges) -> Gauges:
        """With the number of the layer where several are recurrent."""
        suffix = f"_layer{self.recurrent_layers[place] + 1}" if len(self.recurrent_layers) > 1 else ""
        return {name + suffix: value for name, value in gauges.items()}


@final
class Block(BlockRecurrence):
    """Block-Recurrent Transformer (Hutchins et al. 2022, section 3): block recurrence alone, without a memory of pairs."""

    def __init__(self, shape: Shape, mem: int, arch: BlockArch) -> None:
        super().__init__(shape, mem, arch, memories=PairMemories(), pairs=0)


def _lengths(read_BHTK: Tensor, local_BHTK: Tensor) -> Tensor:
    """Gauge: how long what was read of the state vectors is, relative to local attention; 0 in lanes of padding alone."""
    read_B, local_B = (each.detach().float().flatten(1).norm(dim=-1) for each in (read_BHTK, local_BHTK))
    return torch.where(local_B > 0, read_B / local_B, 0).mean()
