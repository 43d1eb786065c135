"""The memories of pairs of all layers that have one, and one pass of tokens over them.

Shapes: B lanes, L layers with a memory, H heads, T tokens, K head size, k neighbours.
"""

import torch
from torch import Tensor, nn

from memexp.config.arch import PairArch
from memexp.model.knn_memory.exact_search import ACCELERATOR_BLOCK_BYTES
from memexp.model.knn_memory.layer import PairMemory, Reading
from memexp.model.knn_memory.ring import Ring
from memexp.model.segment import MemoryCost, Retrieval
from memexp.model.transformer.attention import Cache, Heads, Mask, SelfAttention, Sight, attend
from memexp.model.transformer.shape import Shape


class PairMemories(nn.ModuleDict):
    """The memories of the layers that have one, by the layer's number from 1; without any it does nothing."""

    def __getitem__(self, number: str) -> PairMemory:  # says what is in it
        return super().__getitem__(number)  # type: ignore[return-value]

    @property
    def cost(self) -> MemoryCost:
        """Every query is compared with every slot of its head; where search is routed, all of a segment once."""
        full = [self[number] for number in self if self[number].slots]
        if not full:
            return MemoryCost()
        return MemoryCost(
            what=f"rings, {full[0].arch.stored}",
            on_host=full[0].arch.stored_on == "host",
            search_bytes=2 * ACCELERATOR_BLOCK_BYTES,
            search=sum(memory.multiplications for memory in full),
        )

    def remarks(self, device: torch.device) -> list[str]:
        """Which engine searches, where that was left to us, and what that means."""
        found = []
        for memory in [self[number] for number in self if self[number].slots][:1]:
            search = memory.search_on(device)
            if memory.arch.search == "auto":
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


def build_memories(shape: Shape, arch: PairArch, *, slots: int, cache: int, stride: int) -> PairMemories:
    """Memories of `slots` pairs for `arch.knn_layers`; for none, the paper's: the 9th of 12, three quarters up.

    Args:
        cache, stride: as `PairMemory` takes them.
    """
    chosen = sorted(arch.knn_layers) or [max(1, int(shape.layers * 0.75))]
    return PairMemories(
        {str(number): PairMemory(shape, arch, slots=slots, cache=cache, stride=stride) for number in chosen}
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

    def retrieval(self) -> Retrieval | None:
        """Where each token read; None where no layer has a ring."""
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
