"""Memories of key-value pairs: a ring for each layer that has one, read beside local attention and written afterwards.

Shapes: B lanes, L layers with a memory, H heads, T tokens, S keys in sight of local attention, K head size, k neighbours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memexp.model.knn_memory.attention import Reading, fetch, gated, joint
from memexp.model.knn_memory.engines import APPROXIMATE, Engine, build_engine, chosen_engine, recall
from memexp.model.knn_memory.ring import Ring, ages_at, empty_ring, seen_where_stored
from memexp.model.knn_memory.ring import write as write_ring
from memexp.model.knn_memory.router import Router
from memexp.model.segment import Retrieval
from memexp.model.transformer.attention import Cache, Heads, Mask, SelfAttention, Sight, attend, local_scores
from memexp.model.transformer.shape import Shape


@dataclass(frozen=True)
class PairOptions:
    """Options of a memory of pairs; `memexp.config.arch.PairArch` says what they mean."""

    neighbours: int
    search: str
    combine: str
    gate: float
    write: str
    stored: str
    stored_on: str


class PairMemory(nn.Module):
    """One layer's memory: it reads a ring of its document's past pairs, and tokens are written after they were read."""

    def __init__(self, shape: Shape, options: PairOptions, *, slots: int, cache: int, stride: int) -> None:
        super().__init__()
        self.shape, self.options, self.slots = shape, options, slots
        self.behind = cache if options.write == "leaving" else 0
        """Tokens between the ring's newest pair and what is read."""
        self.gate_H = nn.Parameter(torch.full((shape.heads,), options.gate)) if options.combine == "gate" else None
        routed = options.search == "routed"
        self.router = Router(shape, keep=options.neighbours, context=stride) if routed else None
        self._engines: dict[str, Engine] = {}
        if slots and not routed and options.search != "auto":
            self._engine(options.search)

    def empty(self, lanes: int, like: Tensor) -> Ring:
        """A ring that holds nothing; its slack is what a gradient window writes."""
        shape = self.shape
        slack = (shape.bptt_segments + 1) * shape.segment
        if self.options.stored == "bf16":
            like = like.to(torch.bfloat16)
        return empty_ring(
            lanes=lanes, heads=shape.heads, head_size=shape.head_size, slots=self.slots, slack=slack, like=like,
            on=torch.device("cpu") if self.options.stored_on == "host" else like.device,
        )  # fmt: skip

    def search_on(self, device: torch.device) -> str:
        """Who searches for a model on this device."""
        on = torch.device("cpu") if self.options.stored_on == "host" else device
        return chosen_engine(self.options.search, slots=self.slots, device=on)

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = build_engine(name)
        return self._engines[name]

    def read(self, heads: Heads, sight: Sight, mask: Mask, ring: Ring) -> Reading:
        """What queries read from local attention and the ring."""
        found_recall = None
        if self.router is None:
            local, search = seen_where_stored(ring), self.search_on(heads.queries_BHTK.device)
            queries_BHTK = heads.queries_BHTK.detach().to(local.keys_BHRK.device)
            found = self._engine(search)(queries_BHTK, local, self.options.neighbours)
            retrieved = fetch(heads.queries_BHTK, ring, found)
            found_recall = recall(found, queries_BHTK, local) if search in APPROXIMATE else None
        else:
            routed = self.router(ring)
            retrieved = fetch(heads.queries_BHTK, ring, routed.neighbours)
            # straight through: chosen pairs count as they are, the soft weight of each is a factor only to the gradient
            nothing_BH1k = routed.weights_BH1k - routed.weights_BH1k.detach()
            retrieved = retrieved._replace(scores_BHTk=retrieved.scores_BHTk + nothing_BH1k)
        if self.gate_H is None:
            reading = joint(retrieved, local_scores(sight, mask), sight.values_BGSK)
        else:
            reading = gated(retrieved, attend(sight, mask), self.gate_H)
        return reading._replace(recall=found_recall)

    def write(self, ring: Ring, heads: Heads, sight: Sight, cache: Cache, there_BT: Tensor) -> Ring:
        """Append what was read, or what then leaves the cache that it was read over.

        Args:
            there_BT: which tokens are no padding. Lanes that read nothing else are behind their document's end, and their
                memory fills no further.
        """
        keys, values = heads.keys_BGTK, heads.values_BGTK
        length, all_heads = keys.shape[2], (-1, self.shape.heads, -1, -1)
        if self.options.write == "leaving":
            keys, values = sight.keys_BGSK[:, :, :length], sight.values_BGSK[:, :, :length]
            valid_B = (cache.count_B + length - self.behind).clamp(0, length)
        else:
            valid_B = there_BT.any(-1) * length
        return write_ring(ring, keys.expand(all_heads), values.expand(all_heads), valid_B=valid_B, slots=self.slots)

    def ages(self, slots_BHTk: Tensor, ring: Ring) -> Tensor:
        """Tokens from what stands in these slots to the token that reads it, B H T k."""
        place_T1 = torch.arange(slots_BHTk.shape[2], device=slots_BHTk.device)[:, None]
        return ages_at(ring, slots_BHTk) + self.behind + place_T1

    @torch.no_grad()
    def gauges(self, reading: Reading, ring: Ring, attention: SelfAttention) -> dict[str, Tensor]:
        """Whether it lives.

        Fill is what the fullest lane could read; share is the part of the heads' attention that is on the memory; age is
        the mean of the tokens from what the last token read, by attention, where a lane that read nothing counts 0; recall
        is the part of the last token's true neighbours that an approximate engine found.
        """
        length = reading.weights_BHTk.shape[2]
        last_BH1k = reading.weights_BHTk[:, :, -1:]
        share_B = last_BH1k.sum((1, 2, 3)).clamp_min(1e-6)
        ages_BH1k = self.ages(reading.slots_BHTk[:, :, -1:], ring) + length - 1
        gauges = {
            "memory_fill": ring.count_B.max() / self.slots,
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


class PairMemories(nn.ModuleDict):
    """The memories of the layers that have one, by the layer's number from 1; without any it does nothing."""

    def __getitem__(self, number: str) -> PairMemory:  # says what is in it
        return super().__getitem__(number)  # type: ignore[return-value]

    def remarks(self, device: torch.device) -> list[str]:
        """Which engine searches, where that was left to us, and what that means."""
        found = []
        for memory in [self[number] for number in self if self[number].slots][:1]:
            search = memory.search_on(device)
            if memory.options.search == "auto":
                found.append(f"arch.search=auto: {search}, for {memory.slots:,} slots")
            if search == "faiss_ivf":
                found.append(
                    "arch.search=faiss_ivf: when lists are learned is counted from the beginning of the run, so what is found in a "
                    "document depends a little on where in its lane it begins"
                )
            if search == "faiss_hnsw":
                found.append(
                    "arch.search=faiss_hnsw: the graph depends on when it was built, so a run that is resumed or validated in "
                    "between (validate_every) finds other neighbours than one that is not"
                )
        return found

    def empty(self, lanes: int, like: Tensor) -> tuple[Ring, ...]:
        """A ring for each that has slots."""
        return tuple(self[number].empty(lanes, like) for number in self if self[number].slots)


def build_memories(
    shape: Shape, options: PairOptions, *, layers: list[int], slots: int, cache: int, stride: int
) -> PairMemories:
    """Memories of `slots` pairs for these layers, counted from 1; for none, the paper's: the 9th of 12, three quarters up.

    Args:
        stride: tokens that are read between two writes.
    """
    chosen = sorted(layers) or [max(1, int(shape.layers * 0.75))]
    return PairMemories(
        {str(number): PairMemory(shape, options, slots=slots, cache=cache, stride=stride) for number in chosen}
    )


class PairPass:
    """What the memories do while tokens go once through the layers, from the rings before to the rings after."""

    def __init__(self, memories: PairMemories, rings: tuple[Ring, ...]) -> None:
        self.memories = memories
        self.rings = dict(zip(memories, rings, strict=False))  # without slots there are none
        self.gauges: dict[str, Tensor] = {}
        self._seen: dict[str, tuple[Heads, Sight]] = {}
        self._readings: dict[str, Reading] = {}

    def attend(self, index: int, attention: SelfAttention, heads: Heads, sight: Sight, mask: Mask) -> Tensor:
        """What the heads of a layer, counted from 0, read: B H T K; in a layer without a ring from local attention alone."""
        number = str(index + 1)
        if number not in self.rings:
            return attend(sight, mask)
        memory, ring = self.memories[number], self.rings[number]
        reading = memory.read(heads, sight, mask, ring)
        suffix = f"_layer{number}" if len(self.rings) > 1 else ""
        self.gauges |= {name + suffix: value for name, value in memory.gauges(reading, ring, attention).items()}
        self._seen[number], self._readings[number] = (heads, sight), reading
        return reading.read_BHTK

    def write(self, cache: Cache, there_BT: Tensor) -> tuple[Ring, ...]:
        """The rings with what was read, in place; `cache` is the one that it was read over."""
        return tuple(
            self.memories[number].write(ring, *self._seen[number], cache, there_BT)
            for number, ring in self.rings.items()
        )

    def retrieval(self) -> Retrieval:
        """Where each token read, for a pass over layers with rings."""
        ages_BLHTk = torch.stack(
            [
                self.memories[number].ages(self._readings[number].slots_BHTk, ring)
                for number, ring in self.rings.items()
            ],
            1,
        )
        weights_BLHTk = torch.stack([self._readings[number].weights_BHTk for number in self.rings], 1)
        return Retrieval(
            (ages_BLHTk * (weights_BLHTk > 0)).permute(0, 3, 1, 2, 4), weights_BLHTk.permute(0, 3, 1, 2, 4)
        )
