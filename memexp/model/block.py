"""Block-Recurrent Transformer: attention in a sliding window, and `mem` state vectors that are rewritten after each window."""

from typing import final

from memexp.config.arch.slot_memory import BlockArch
from memexp.model.knn_memory.memories import PairMemories
from memexp.model.slot_memory.block_recurrence import BlockRecurrence
from memexp.model.transformer.shape import Shape


@final
class Block(BlockRecurrence):
    """Block-Recurrent Transformer (Hutchins et al. 2022, section 3): block recurrence alone, without a memory of pairs."""

    def __init__(self, shape: Shape, mem: int, arch: BlockArch) -> None:
        super().__init__(shape, mem, arch, memories=PairMemories(), pairs=0)
