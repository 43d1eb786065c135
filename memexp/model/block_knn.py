"""Block-Recurrent Transformer with a kNN memory: state vectors for a summary of the past, pairs for its exact content."""

from typing import final

from memexp.config.arch.slot_memory import BlockKnnArch
from memexp.model.knn_memory.memories import PairMemories, build_memories
from memexp.model.slot_memory.block_recurrence import BlockRecurrence
from memexp.model.transformer.shape import Shape


@final
class BlockKnn(BlockRecurrence):
    """Block recurrence (Hutchins et al. 2022, section 3) in which some layers also read the last `pairs` keys and values.

    These layers are the memory layers of `arch=knn` (Wu et al. 2022, section 3), with two differences. Their output takes
    the place of local attention next to the state vectors. The rings are written after every window, so losses do not
    depend on how a text is cut into segments. `mem` counts the state vectors; with `pairs=0` this is `arch=block`.
    """

    def __init__(self, shape: Shape, mem: int, arch: BlockKnnArch) -> None:
        memories = PairMemories()
        if arch.pairs:
            memories = build_memories(shape, arch, slots=arch.pairs, cache=arch.window, stride=arch.window)
        super().__init__(shape, mem, arch, memories=memories, pairs=arch.pairs)
