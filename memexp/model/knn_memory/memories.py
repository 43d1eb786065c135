"""The memories of pairs of all layers, and one pass of tokens that reads and then writes them.

Shapes: B lanes, L layers with a memory, H heads, T tokens, K head size, k neighbours.
"""

import torch
from torch import Tensor, nn

from memexp.config.arch.knn_memory import PairArch
from memexp.model.knn_memory import cross_batch
from memexp.model.knn_memory.engines import check_engine
from memexp.model.knn_memory.layer import PairMemory, Reading
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.streaming import PIECE_BYTES
from memexp.model.segment import MemoryCost, Retrieval
from memexp.model.transformer.attention import Attention, Cache, Heads, Mask, Sight, attend
from memexp.model.transformer.kept import Kept
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges
from memexp.terminal import Remark


class PairMemories(nn.ModuleDict):
    """The memories of pairs by the number of their layer, counted from 1; may be empty."""

    def __getitem__(self, number: str) -> PairMemory:  # only to declare the type
        return super().__getitem__(number)  # type: ignore[return-value]

    @property
    def cost(self) -> MemoryCost:
        """The work of a search on an accelerator."""
        with_slots = [self[number] for number in self if self[number].slots]
        if not with_slots:
            return MemoryCost()
        first = with_slots[0]
        on_host, number_bytes = first.arch.stored_on == "host", 2 if first.arch.stored == "bf16" else 4
        row = first.slots * first.shape.head_size * number_bytes
        carried = max(row, min(PIECE_BYTES, first.shape.heads * row))  # of one lane, or at most PIECE_BYTES more
        works = [memory.work for memory in with_slots]
        held = first.stride * works[0].held
        return MemoryCost(
            what=f"rings, {first.arch.stored}",
            in_place=True,
            on_host=on_host,
            gathered=first.gathered,
            # of its own layer about half: its projections and the keys in sight, but not its output and feed-forward layer
            search_at=(max(int(number) for number in self if self[number].slots) - 0.5) / first.shape.layers,
            search_bytes=int(held) + 2 * carried * on_host,
            search_most=int(held / first.shape.heads * works[0].together) + 2 * carried * on_host,
            search=sum(work.in_fp32 for work in works),
            search_in_half=sum(work.in_half for work in works),
            search_moves=sum(work.moved for work in works),
        )

    def kept(self, kept: Kept, positions: int, *, seen: int) -> float:
        """The bytes that the backward pass needs of reading `positions` queries, in a lane, beside those of their layers.

        Args:
            seen: keys in sight of local attention.
        """
        return sum(self[number].kept(kept, positions, seen=seen) for number in self if self[number].slots)

    def held(self, kept: Kept, positions: int, *, seen: int) -> float:
        """The bytes that each lane holds from reading the memories until they are written, if no backward pass follows.

        Args:
            positions, seen: as `kept` takes them.
        """
        return sum(self[number].held(kept, positions, seen=seen) for number in self if self[number].slots)

    def remarks(self, device: torch.device) -> list[Remark]:
        """Which engine `auto` chose, and what the user should know about an approximate engine."""
        lines = []
        for memory in [self[number] for number in self if self[number].slots][:1]:
            search = memory.search_on(device)
            if memory.arch.search == "auto":
                lines.append(Remark(f"arch.search=auto: {search}, for {memory.slots:,} slots", warns=False))
            if search == "faiss_ivf":
                lines.append(
                    Remark(
                        "arch.search=faiss_ivf: the index learns its lists at fixed numbers of tokens since the start of the run, "
                        "so the neighbours in a document depend a little on where in its lane the document begins"
                    )
                )
            if search == "faiss_hnsw":
                lines.append(
                    Remark(
                        "arch.search=faiss_hnsw: the graph depends on when it was built, so a run that is resumed or validated "
                        "during training (validate_every) retrieves other neighbours than a run that is not"
                    )
                )
        return lines

    def check_device(self, device: torch.device) -> None:
        """Refuse an engine that cannot search for a model on this device.

        Raises:
            UserError: it needs a package that is not installed.
        """
        for memory in [self[number] for number in self if self[number].slots]:
            check_engine(memory.arch.search, memory.stored_on(device))

    def empty(self, lanes: int, like: Tensor) -> tuple[Ring, ...]:
        """An empty ring for each memory with slots."""
        return tuple(self[number].empty(lanes, like) for number in self if self[number].slots)


def build_memories(
    shape: Shape, arch: PairArch, *, slots: int, cache: int, stride: int, sinks: int = 0
) -> PairMemories:
    """Memories of `slots` pairs for `arch.knn_layers`; if that is empty, for the layer at three quarters (9th of 12).

    Args:
        cache, stride, sinks: as in `PairMemory`.
    """
    chosen = sorted(arch.knn_layers) or [max(1, int(shape.layers * 0.75))]
    return PairMemories(
        {
            str(number): PairMemory(shape, arch, slots=slots, cache=cache, stride=stride, sinks=sinks)
            for number in chosen
        }
    )


class PairPass:
    """One pass of tokens through the layers, in which the memories are read and then written."""

    def __init__(
        self,
        memories: PairMemories,
        rings: tuple[Ring, ...],
        *,
        recent: tuple[cross_batch.Recent, ...] = (),
        negatives: int = 0,
    ) -> None:
        """
        Args:
            recent: the last segment of each memory with slots, which is read instead of its ring, with those of as many other lanes
                as `negatives` says; empty: the rings are read.
        """
        self.memories, self.negatives = memories, negatives
        self.recent = dict(zip(memories, recent, strict=False))
        self.rings = dict(zip(memories, rings, strict=False))  # memories without slots have no rings
        self.gauges: Gauges = {}
        self._seen: dict[str, tuple[Heads, Sight]] = {}
        self._readings: dict[str, Reading] = {}

    def attend(self, index: int, attention: Attention, heads: Heads, sight: Sight, mask: Mask) -> Tensor:
        """The output of the heads of layer `index`, counted from 0, B H T K; without a ring only local attention."""
        number = str(index + 1)
        if number not in self.rings:
            return attend(sight, mask)
        memory, ring = self.memories[number], self.rings[number]
        suffix = f"_layer{number}" if len(self.rings) > 1 else ""
        if number in self.recent:
            crossed = cross_batch.read(heads, sight, mask, self.recent[number], self.negatives)
            self.gauges["memory_fill" + suffix] = ring.count_B.max() / memory.slots
            self.gauges |= {name + suffix: value for name, value in crossed.gauges.items()}
            self._seen[number] = heads, sight
            return crossed.read_BHTK
        reading = memory.read(attention, heads, sight, mask, ring)
        self.gauges |= {name + suffix: value for name, value in memory.gauges(reading, ring, attention).items()}
        self._seen[number], self._readings[number] = (heads, sight), reading
        return reading.read_BHTK

    def write(self, cache: Cache, there_BT: Tensor) -> tuple[Ring, ...]:
        """Write the pairs of this pass to the rings, in place.

        Args:
            cache: the cache before this pass.
            there_BT: which tokens are not padding.
        """
        return tuple(
            self.memories[number].write(ring, *self._seen[number], cache, there_BT)
            for number, ring in self.rings.items()
        )

    def newest(self, recent: tuple[cross_batch.Recent, ...], valid_BT: Tensor) -> tuple[cross_batch.Recent, ...]:
        """The last segment of each memory with slots after this pass, with gradient."""
        pairs = zip(self.rings, recent, strict=True)
        return tuple(cross_batch.newest(old, self._seen[number][0], valid_BT) for number, old in pairs)

    def retrieval(self) -> Retrieval | None:
        """What each token retrieved; None if no layer has a ring."""
        if not self.rings:
            return None
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
