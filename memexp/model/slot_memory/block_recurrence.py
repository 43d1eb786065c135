"""Block recurrence: attention in a sliding window, and `mem` state vectors that are rewritten after each window.

Shapes: B lanes, T tokens, D width, M state vectors, H heads, K head size, C cache, S = C + T tokens in sight.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.slot_memory import BlockArch
from memexp.model.knn_memory.memories import PairMemories, PairPass
from memexp.model.knn_memory.ring import Ring, clear_ring
from memexp.model.segment import Activations, Extension, Held, MemoryCost, Retrieval, SegmentOutput
from memexp.model.slot_memory.gauges import gate, memory_gauges, state_read
from memexp.model.slot_memory.vectors import FromStates, RecurrentVectors, Seen, StateReader, StateVectors, reader_keeps
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
from memexp.model.transformer.decoder import DecoderLayer, DecoderModel
from memexp.model.transformer.kept import FULL
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, is_fill, mean_of_layers
from memexp.terminal import Remark


class _Read(NamedTuple):
    """The result of passing a window, or a piece of a window, through all layers."""

    hidden_BTD: Tensor
    cache: Cache
    sights: list[Sight]
    """For each recurrent layer, the queries of the tokens with all keys and values they attend to."""
    gauges: Gauges
    pairs: PairPass


class BlockRecurrence(DecoderModel):
    """Block recurrence (Hutchins et al. 2022, section 3), optionally with memories of key-value pairs in some layers.

    A segment is read in windows of W tokens, each of which passes through all layers. A token sees itself and the W tokens
    before it. In a recurrent layer it also reads the layer's state vectors, as they were before its window. With
    `feedback` all other layers read the state vectors of the last recurrent layer. After the window, the vectors are
    rewritten from themselves and from the tokens of this window and the window before. Gradients pass from window to
    window through the vectors and the cache. So it does not matter how a text is cut into segments, provided that the
    gradient window covers them. With `mem=0` this is the paper's sliding-window baseline.

    *Differs from the paper's code:*

    - A token also attends to itself, and nothing attends to the zeros that are the cache at a document's start.
    - LSTM gates always take the tanh of the candidate and fixed gates never do, and the candidate has a bias, as in the paper's
      equations. In the code it has no bias, and with `gates=dual` no tanh.
    - With `arch.borrow` state vectors start from what the attention of their layer has learned. Readers in layers without
      state vectors (`feedback`) then start without an effect, because their queries are not that layer's.
    - Attention from and to state vectors starts sharper (see `StateAttention`). The output projections of a layer that reads
      state vectors start a root of 2 larger (see `StateReader`).
    - The position bias is added after the learned scale, and starts at 0 (see `T5Bias`).
    """

    def __init__(self, shape: Shape, mem: int, arch: BlockArch, *, memories: PairMemories, pairs: int) -> None:
        """
        Args:
            memories: memories of pairs for some layers, written after every window.
            pairs: the number of pairs that each of them holds.
        """
        super().__init__(shape, cache=arch.window, memory=mem + pairs)
        self.reach = arch.window
        self.state_dropout, self.cache_dropout = arch.state_dropout, arch.cache_dropout
        self.stored_heads = 1 if arch.shared_values else shape.heads
        self.add_layers(arch, shared_values=arch.shared_values)
        # by default the layer at five sixths: the paper's 10th of 12
        chosen = sorted(layer - 1 for layer in arch.recurrent_layers) or [max(1, round(shape.layers * 10 / 12)) - 1]
        self.recurrent_layers = chosen if mem else []
        self.vectors = RecurrentVectors(StateVectors(shape, arch, count=mem) for _ in self.recurrent_layers)
        reading = range(shape.layers) if arch.feedback else self.recurrent_layers
        self.readers = nn.ModuleDict({str(index): StateReader(shape, arch) for index in reading})
        self.memories = memories
        if arch.borrow:
            self._borrow(range(len(self.vectors)))

    @property
    def memory_cost(self) -> MemoryCost:
        """The cost of search."""
        return self.memories.cost

    def activations(self, *, half: bool) -> Activations:
        """With what reading and rewriting state vectors keeps, window by window, and reading the memories of pairs."""
        kept, window = self.kept(half=half), self.stride
        memory = self.memories.kept(kept, window, seen=window + self.cache_tokens)
        memory += len(self.readers) * reader_keeps(kept, window)
        memory += sum(vectors.kept(kept) for vectors in self.vectors)
        return super().activations(half=half)._replace(memory=self.shape.segment // window * memory)

    def held(self, *, half: bool) -> Held:
        """With the keys and values of state vectors, the norm before them, and of recurrent layers what their tokens have seen."""
        kept, window, in_sight = self.kept(half=half), self.stride, self.stride + self.cache_tokens
        found = super().held(half=half).beside(sum(vectors.held(kept) for vectors in self.vectors))
        attention = found.attention + FULL * window * self.shape.width
        later = len(self.recurrent_layers) * kept.held_in_sight(window, seen=in_sight)
        later += self.memories.held(kept, window, seen=in_sight)  # after a search
        return found._replace(feedforward=found.feedforward + later, attention=attention + later, memory=attention)

    def remarks(self, device: torch.device) -> list[Remark]:
        """What the user should know about the search."""
        return self.memories.remarks(device)

    def check_device(self, device: torch.device) -> None:
        """Refuse a search that cannot be done there."""
        self.memories.check_device(device)

    @property
    def stride(self) -> int:
        """The length of a window."""
        return self.cache_tokens

    def start_new(self, names: Collection[str]) -> None:
        """With `arch.borrow`, start state vectors that are new from what the attention of their layer has learned."""
        self._borrow(
            index
            for index, vectors in enumerate(self.vectors)
            if vectors.borrow and any(name.startswith(f"vectors.{index}.") for name in names)
        )

    def _borrow(self, layers: Iterable[int]) -> None:
        """Start the state vectors of these recurrent layers, counted from 0, from their layers' attention."""
        attentions, vectors = [layer.attention for layer in self.layers], list(self.vectors)
        for index in layers:
            borrowed = self.recurrent_layers[index]
            vectors[index].start_as(attentions[borrowed])
            for name, reader in self.readers.items():
                assert isinstance(reader, StateReader)
                if int(name) == borrowed:
                    reader.start_as(attentions[borrowed])
                elif int(name) not in self.recurrent_layers:
                    reader.start_silent()

    def init_state(self, lanes: int) -> State:
        """An empty cache of one window, the learned state vectors of each recurrent layer, and empty rings."""
        cache = empty_cache(
            self.shape, lanes=lanes, size=self.cache_tokens, like=self.head.embedding_VD, heads=self.stored_heads
        )
        rings = self.memories.empty(lanes, self.head.embedding_VD)
        return State(cache, (*self.vectors.initial(lanes), *rings))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Empty the caches and rings of the lanes in which a document begins, and restore the initial state vectors."""
        vectors, rings = self._parts(state)
        memory = (*self.vectors.start_again(vectors, reset_B), *(clear_ring(ring, reset_B) for ring in rings))
        return State(clear_cache(state.cache, reset_B), memory)

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read a segment window by window; the state vectors are rewritten after each window."""
        if self.training and (self.cache_dropout or self.state_dropout):
            state = self._forget(state)
        reads, after = self._windows(tokens_BT, valid_BT, state)
        hidden_BTD = torch.cat([read.hidden_BTD for read in reads], dim=1)
        by_window = {name: torch.stack([read.gauges[name] for read in reads]) for name in reads[0].gauges}
        gauges = {name: values.max() if is_fill(name) else values.mean() for name, values in by_window.items()}
        for index, (old_BMD, new_BMD) in enumerate(zip(self._parts(state)[0], self._parts(after)[0], strict=True)):
            gauges |= self._named(index, memory_gauges(old_BMD, new_BMD))
        return SegmentOutput(hidden_BTD, after, aux={}, gauges=gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece; its cache includes the window so far, and state vectors are those of the window's start."""
        vectors, rings = self._parts(state)
        cache, seen = (state.cache, self.vectors.see(vectors)) if kept is None else kept
        read = self._read(self.embed(tokens_BT), cache, seen, rings, size=None)
        return Extension(read.hidden_BTD, (read.cache, seen))

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves from the memories of pairs; the windows are written to a copy of the rings."""
        if not self._parts(state)[1]:
            return super().inspect(tokens_BT, valid_BT, state, reset_B)
        reads, _ = self._windows(tokens_BT, valid_BT, fork(self.clear(state, reset_B)))
        retrieved = [retrieval for read in reads if (retrieval := read.pairs.retrieval()) is not None]
        return Retrieval(*(torch.cat(parts, dim=1) for parts in zip(*retrieved, strict=True)))

    def _forget(self, state: State) -> State:
        """Reset the cache or the state vectors of random lanes, so that training does not rely on only one of them."""
        chance_2B = torch.rand(2, *state.cache.count_B.shape, device=state.cache.count_B.device)
        cache = clear_cache(state.cache, chance_2B[0] < self.cache_dropout)
        vectors, rings = self._parts(state)
        return State(cache, (*self.vectors.start_again(vectors, chance_2B[1] < self.state_dropout), *rings))

    def _parts(self, state: State) -> tuple[tuple[Tensor, ...], tuple[Ring, ...]]:
        """The state vectors of each recurrent layer, and the rings of the layers that have one."""
        count = len(self.recurrent_layers)
        return state.memory[:count], state.memory[count:]

    def _windows(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> tuple[list[_Read], State]:
        """Read a segment window by window; the result is each window's, and the state after the segment."""
        # embeddings of padding are zero, so that no gauge depends on the padding
        x_BTD = self.embed(tokens_BT) * valid_BT[..., None]
        cache, (vectors, rings), reads = state.cache, self._parts(state), []
        for window_BTD, valid_BW in zip(x_BTD.split(self.stride, 1), valid_BT.split(self.stride, 1), strict=True):
            # section 3: vertically, tokens attend to themselves and to the states of the window before;
            # horizontally, states attend to themselves and to the tokens, and a gate takes the place of each residual
            seen = self.vectors.see(vectors)
            read = self._read(window_BTD, cache, seen, rings, size=self.cache_tokens)
            vectors, gates = self._rewrite(seen, read.sights, valid_BW, cache.count_B)
            rings, cache = read.pairs.write(cache, valid_BW), read.cache
            reads.append(read._replace(gauges=read.gauges | gates))
        return reads, State(cache, (*vectors, *rings))

    def _read(
        self, x_BTD: Tensor, cache: Cache, seen: tuple[Seen, ...], rings: tuple[Ring, ...], *, size: int | None
    ) -> _Read:
        """Pass tokens through all layers; the next cache keeps `size` tokens, or with None all in sight."""
        layer_caches: list[LayerCache] = []
        shares: list[Tensor] = []
        sights: list[Sight] = []
        gauges: Gauges = {}
        pairs = PairPass(self.memories, rings)
        mask = causal_mask(x_BTD, cache, reach=self.reach)

        def read(index: int, layer: DecoderLayer, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
            """The residual stream with what is read of state vectors, and the output of the heads."""
            past, y_BTD = cache.layers[index], layer.attention_norm(x_BTD)
            heads = layer.attention.project(y_BTD, past)
            sight = layer.attention.look(heads, past, mask.places)
            local_BHTK = pairs.attend(index, layer.attention, heads, sight, mask)
            if str(index) in self.readers:
                # layers without state vectors read those of the last recurrent layer
                recurrent = self.recurrent_layers.index(index) if index in self.recurrent_layers else -1
                from_states: FromStates = self.readers[str(index)](y_BTD, seen[recurrent])
                x_BTD = x_BTD + layer.dropout(from_states.output_BTD)
                if recurrent >= 0:
                    gauges.update(self._named(recurrent, state_read(from_states.read_BHTK, local_BHTK)))
                    sights.append(sight)
            past_tokens, in_sight = past.keys_BGCK.shape[2], sight.keys_BGSK.shape[2]
            layer_caches.append(newest(sight, heads, past, size=in_sight if size is None else size))
            shares.extend(share(sight, mask, slice(0, past_tokens)))
            return x_BTD, local_BHTK

        for index, layer in enumerate(self.layers):
            x_BTD = layer.finish(*read(index, layer, x_BTD))
        gauges |= {f"{name}_pairs": value for name, value in pairs.gauges.items()}
        gauges |= mean_of_layers(cache_share=shares)
        return _Read(x_BTD, next_cache(layer_caches, cache, x_BTD.shape[1]), sights, gauges, pairs)

    def _rewrite(
        self, seen: tuple[Seen, ...], sights: list[Sight], valid_BT: Tensor, count_B: Tensor
    ) -> tuple[tuple[Tensor, ...], Gauges]:
        """The state vectors after a window, and gauges of the gates; lanes with only padding keep their vectors.

        Args:
            count_B: how many of the cached tokens belong to the lane's document.
        """
        index_S = torch.arange(-self.cache_tokens, valid_BT.shape[1], device=count_B.device)
        valid_BS = F.pad(valid_BT, (self.cache_tokens, 0), value=True) & (index_S >= -count_B[:, None])
        written_B11 = valid_BT.any(dim=-1)[:, None, None]
        mask_B11S = valid_BS[:, None, None] | ~written_B11[..., None]  # a softmax needs at least one key
        memory: list[Tensor] = []
        gauges: Gauges = {}
        for index, (vectors, old, sight) in enumerate(zip(self.vectors, seen, sights, strict=True)):
            gated = vectors.rewrite(old, sight.keys_BGSK, sight.values_BGSK, mask_B11S)
            memory.append(torch.where(written_B11, gated.new_BMD, old.vectors_BMD))
            gauges |= self._named(index, gate(gated.keep_BMD))
        return tuple(memory), gauges

    def _named(self, index: int, gauges: Gauges) -> Gauges:
        """The gauges of a recurrent layer, counted from 0; their names get its number if several layers are recurrent."""
        suffix = f"_layer{self.recurrent_layers[index] + 1}" if len(self.recurrent_layers) > 1 else ""
        return {name + suffix: value for name, value in gauges.items()}
