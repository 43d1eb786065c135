"""One layer's memory of key-value pairs: how queries read it together with local attention, and how it is written.

Shapes: B lanes, H heads, T tokens, S keys in sight of local attention, K head size, k neighbours, P sets of pairs: T if
each query has its own set, 1 if all queries read the same set.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from memexp.config.arch.knn_memory import PairArch
from memexp.model.knn_memory.accelerator_search import PLACE, SearchWork, work_of
from memexp.model.knn_memory.engines import APPROXIMATE, Engine, build_engine, chosen_engine, recall
from memexp.model.knn_memory.retrieved import Retrieved, fetch, weigh
from memexp.model.knn_memory.ring import Ring, ages_at, empty_ring, seen_where_stored
from memexp.model.knn_memory.ring import write as write_ring
from memexp.model.knn_memory.router import Router
from memexp.model.knn_memory.scores_plain import BLOCK_BYTES
from memexp.model.markers import as_gate
from memexp.model.transformer.attention import Attention, Cache, Heads, Mask, Sight, attend, local_scores
from memexp.model.transformer.kept import FULL, HALF, Kept
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched, watched


class Reading(NamedTuple):
    """The output of the heads from local attention and memory together, and the retrieved slots."""

    read_BHTK: Tensor
    slots_BHTk: Tensor
    weights_BHTk: Tensor
    """Attention weights of the slots; 0 where nothing was found. Their sum is the memory's share of attention."""
    recall: Tensor | None = None
    """Recall of an approximate search, if somebody watches."""


class PairMemory(nn.Module):
    """The memory of one layer: queries read a ring of past pairs of the document; a segment is written after it was read."""

    def __init__(self, shape: Shape, arch: PairArch, *, slots: int, cache: int, stride: int, sinks: int = 0) -> None:
        """
        Args:
            slots: pairs that may be read, per lane and head.
            cache: tokens in the cache of the layer's local attention, besides sinks.
            stride: tokens that are read between two writes.
            sinks: first tokens of the document, which never leave the cache.
        """
        super().__init__()
        self.shape, self.arch, self.slots, self.stride, self.sinks = shape, arch, slots, stride, sinks
        self.behind = cache if arch.write == "leaving" else 0
        """Tokens between the newest pair of the ring and the first token that is read."""
        self.at_edge = arch.at_edge()
        self.gate_H = as_gate(torch.full((shape.heads,), arch.gate)) if arch.combine == "gate" else None
        routed = arch.search == "routed"
        self.router = Router(shape, keep=arch.neighbours, context=stride) if routed else None
        self._engines: dict[str, Engine] = {}
        if slots and not routed and arch.search != "auto":
            self._engine(arch.search)

    @property
    def work(self) -> SearchWork:
        """The work of a search on an accelerator for a token: all heads compare one query with every pair of the ring.

        Routed search has one query per segment. Engines other than exact search are counted as one product in fp32, and one
        reading of the keys per segment.
        """
        heads, length = self.shape.heads, self.stride
        dtype = torch.bfloat16 if self.arch.stored == "bf16" else torch.float32
        keys_1HRK = torch.empty(1, heads, self.slots + self.slack, self.shape.head_size, dtype=dtype, device="meta")
        if self.arch.search in ("auto", "exact"):
            work = work_of(keys_1HRK, self.arch.neighbours, length)
            return SearchWork(
                heads * work.in_half, heads * work.in_fp32, heads * work.moved, heads * work.held, work.together
            )
        queries = 1.0 if self.router is None else 1 / self.router.context
        moved = keys_1HRK.numel() * keys_1HRK.element_size() / length
        # scores of every slot, or of a block of queries
        held = 2 * FULL * heads * keys_1HRK.shape[2] * queries
        together = max(1, BLOCK_BYTES // (2 * FULL * keys_1HRK.shape[2] * length))
        return SearchWork(0.0, queries * keys_1HRK.numel(), moved, held, together)

    @property
    def gathered(self) -> int:
        """Bytes that copies of the pairs of a segment need in a lane while they are read: in half precision, of both types."""
        if self.router is not None or self.arch.stored != "bf16":
            return 0
        return self.stride * self.shape.heads * self.arch.neighbours * self.shape.head_size * (HALF + FULL)

    def kept(self, kept: Kept, positions: int, *, seen: int) -> float:
        """The bytes that the backward pass needs of reading `positions` queries in a lane, beside those of local attention.

        Queries in fp32; for each pair its row of the keys and of the values, or copies of the pairs that all queries share,
        and two weights; what was read of the memory and of local attention together.

        Args:
            seen: keys in sight of local attention.
        """
        heads, k = self.shape.heads, self.arch.neighbours
        queries = positions * FULL * kept.inner if kept.half else 0
        weights = positions * heads * k * 2 * FULL
        pairs = positions * heads * k * 2 * PLACE if self.router is None else 3 * k * kept.inner * FULL
        read = kept.of_heads(positions, kept.inner)
        if self.gate_H is None:  # one softmax, over the local scores too
            read += positions * heads * seen * (FULL + kept.number * kept.half)
        return queries + weights + pairs + read

    def held(self, kept: Kept, positions: int, *, seen: int) -> float:
        """Projections of the layer and what is in sight, what was read, and weights and places of pairs; places that all queries share
        are there once."""
        own = kept.held_in_sight(positions, seen=seen) + kept.of_heads(positions, 2 * kept.inner + 2 * kept.keys)
        return own + positions * self.shape.heads * self.arch.neighbours * (FULL + PLACE * (self.router is None))

    @property
    def slack(self) -> int:
        """Pairs that a ring holds beside its slots: those that a gradient window writes."""
        return (self.shape.bptt_segments + 1) * self.shape.segment

    def empty(self, lanes: int, like: Tensor) -> Ring:
        """An empty ring."""
        shape = self.shape
        if self.arch.stored == "bf16":
            like = like.to(torch.bfloat16)
        return empty_ring(
            lanes=lanes, heads=shape.stored_heads, head_size=shape.head_size, slots=self.slots, slack=self.slack, like=like,
            on=self.stored_on(like.device),
        )  # fmt: skip

    def stored_on(self, device: torch.device) -> torch.device:
        """Where the pairs of a model on this device are; what has no values, on `meta`, takes no memory of the host either."""
        return torch.device("cpu") if self.arch.stored_on == "host" and device.type != "meta" else device

    def search_on(self, device: torch.device) -> str:
        """The engine that searches for a model on this device."""
        return chosen_engine(self.arch.search, slots=self.slots, device=self.stored_on(device))

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = build_engine(name)
        return self._engines[name]

    def read(self, attention: Attention, heads: Heads, sight: Sight, mask: Mask, ring: Ring) -> Reading:
        """What queries read from local attention and the ring together.

        Heads that share keys and values search one ring: their queries follow one another, G heads of (H / G) T queries.
        """
        search_recall, groups, length = None, self.shape.stored_heads, heads.queries_BHTK.shape[2]
        placed_BHTK = heads.queries_BHTK
        if self.at_edge and attention.position.turns:
            placed_BHTK = sight.queries_BHTK  # keys without positions stand at place 0, where the cache begins
        placed_BHTK = _by_group(placed_BHTK, groups)
        if self.router is None:
            search = self.search_on(placed_BHTK.device)
            stored = ring if search == "exact" else seen_where_stored(ring)  # exact search fetches the keys by itself
            queries_BHTK = placed_BHTK.detach().to(stored.count_B.device)
            neighbours = self._engine(search)(queries_BHTK, stored, self.arch.neighbours)
            retrieved = fetch(placed_BHTK, ring, neighbours)
            if search in APPROXIMATE and watched():
                search_recall = recall(neighbours, queries_BHTK, stored).to(placed_BHTK.device)
        else:
            routed = self.router(ring)
            retrieved = fetch(placed_BHTK, ring, routed.neighbours)
            # straight-through estimator: this adds 0 to the scores, and gives the soft weights a gradient
            zero_BH1k = routed.weights_BH1k - routed.weights_BH1k.detach()
            retrieved = retrieved._replace(scores_BHTk=retrieved.scores_BHTk + zero_BH1k)
        if self.gate_H is None:
            reading = joint(retrieved, _by_group(local_scores(sight, mask), groups), sight.values_BGSK)
        else:
            gate = self.gate_H if groups == len(self.gate_H) else self.gate_H.repeat_interleave(length).view(groups, -1)
            reading = gated(retrieved, _by_group(attend(sight, mask), groups), gate)
        read_BHTK, slots_BHTk, weights_BHTk = (_by_head(each, length) for each in reading[:3])
        return Reading(read_BHTK, slots_BHTk, weights_BHTk, search_recall)

    def write(self, ring: Ring, heads: Heads, sight: Sight, cache: Cache, there_BT: Tensor) -> Ring:
        """Append the pairs that were read, or with `arch.write=leaving` the pairs that now leave the cache.

        Args:
            cache: the cache before the tokens were read.
            there_BT: which tokens are not padding. The count of a lane with only padding does not grow.
        """
        keys, values = heads.keys_BGTK, heads.values_BGTK
        length, all_heads = keys.shape[2], (-1, self.shape.stored_heads, -1, -1)
        if self.arch.write == "leaving":
            leaving = slice(self.sinks, self.sinks + length)
            keys, values = sight.keys_BGSK[:, :, leaving], sight.values_BGSK[:, :, leaving]
            valid_B = (cache.count_B + length - self.behind - self.sinks).clamp(0, length)
        else:
            valid_B = there_BT.any(-1) * length
        return write_ring(ring, keys.expand(all_heads), values.expand(all_heads), valid_B=valid_B)

    def ages(self, slots_BHTk: Tensor, ring: Ring) -> Tensor:
        """Distance in tokens from the token stored in each slot to the token that reads it, B H T k."""
        place_T1 = torch.arange(slots_BHTk.shape[2], device=slots_BHTk.device)[:, None]
        return ages_at(ring, slots_BHTk) + self.behind + place_T1

    def gauges(self, reading: Reading, ring: Ring, attention: Attention) -> Gauges:
        """Gauges that show whether the memory is used.

        - memory_fill: the filled share of the memory, in the lane where it is largest.
        - memory_share: the attention weight on the memory.
        - age: distance in tokens to what the last token retrieved, weighted by attention; a lane that read nothing counts 0.
        - recall: the share of the last token's true neighbours that an approximate engine found.
        - gate, scale: means over heads.
        """
        return {"memory_fill": ring.count_B.max() / self.slots} | self._watched(reading, ring, attention)

    @if_watched
    def _watched(self, reading: Reading, ring: Ring, attention: Attention) -> Gauges:
        length = reading.weights_BHTk.shape[2]
        last_BH1k = reading.weights_BHTk[:, :, -1:]
        share_B = last_BH1k.sum((1, 2, 3)).clamp_min(1e-6)
        ages_BH1k = self.ages(reading.slots_BHTk[:, :, -1:], ring) + length - 1
        gauges = {
            "memory_share": reading.weights_BHTk.sum(-1).mean(),
            "age": ((last_BH1k * ages_BH1k).sum((1, 2, 3)) / share_B).mean(),
        }
        if reading.recall is not None:
            gauges["recall"] = reading.recall
        if self.gate_H is not None:
            gauges["gate"] = self.gate_H.sigmoid().mean()
        if attention.scale_H is not None:
            gauges["scale"] = attention.scale_H.abs().mean()
        return gauges


def _by_group(x_BHTK: Tensor, groups: int) -> Tensor:
    """The heads of a group one after another: B H T K becomes B G (H / G) T K."""
    return x_BHTK if x_BHTK.shape[1] == groups else x_BHTK.unflatten(1, (groups, -1)).flatten(2, 3)


def _by_head(x_BGTK: Tensor, length: int) -> Tensor:
    """The inverse of `_by_group` for T queries of a head."""
    return x_BGTK if x_BGTK.shape[2] <= length else x_BGTK.unflatten(2, (-1, length)).flatten(1, 2)


def gated(retrieved: Retrieved, local_BHTK: Tensor, gate: Tensor) -> Reading:
    """V_a = g V_m + (1 - g) V_c with g = sigmoid(b_g), one gate per head (Wu et al. 2022, section 3.1).

    V_m is the output of the memory and V_c that of local attention. The gate is off while a lane's memory is empty, so
    that the layer is plain local attention. The published code multiplies local attention by 1 - g in this case too.

    Args:
        gate: b_g before the sigmoid, H, or H T where queries of several heads follow one another.
    """
    any_BHP1 = retrieved.found_BHPk[..., :1]  # the best pair is first, so without it nothing was found
    # a softmax over a row without a finite score would be NaN, in the backward pass too
    weights_BHTk = retrieved.scores_BHTk.masked_fill(~any_BHP1, 0).softmax(-1)
    gate_BHP1 = gate.sigmoid().view(1, len(gate), -1, 1) * any_BHP1
    weights_BHTk = weights_BHTk * gate_BHP1
    memory_BHTK = weigh(weights_BHTk, retrieved).to(local_BHTK.dtype)
    read_BHTK = memory_BHTK + (1 - gate_BHP1).to(local_BHTK.dtype) * local_BHTK
    return Reading(read_BHTK, retrieved.slots_BHPk.expand_as(weights_BHTk), weights_BHTk.detach())


def joint(retrieved: Retrieved, local_scores_BHTS: Tensor, local_values_BHSK: Tensor) -> Reading:
    """One softmax over the retrieved pairs and the local keys, as in the paper's first version.

    Args:
        local_scores_BHTS: the result of `memexp.model.transformer.attention.local_scores`.
    """
    k = retrieved.scores_BHTk.shape[-1]
    weights = torch.cat([retrieved.scores_BHTk, local_scores_BHTS], dim=-1).softmax(-1)
    weights_BHTk, local_BHTS = weights[..., :k], weights[..., k:].to(local_values_BHSK.dtype)
    read_BHTK = weigh(weights_BHTk, retrieved).to(local_values_BHSK.dtype) + local_BHTS @ local_values_BHSK
    return Reading(read_BHTK, retrieved.slots_BHPk.expand_as(weights_BHTk), weights_BHTk.detach())
