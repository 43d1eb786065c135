"""Block-Recurrent Transformer with a kNN memory beside: state vectors for the gist, exact pairs for the letter."""

from typing import final

from memexp.config.arch import BlockKnnArch
from memexp.model.block import BlockRecurrence
from memexp.model.knn_memory.memories import PairMemories, build_memories
from memexp.model.transformer.shape import Shape


@final
class BlockKnn(BlockRecurrence):
    """Block recurrence (Hutchins et al. 2022, section 3) in which some layers also read the last `pairs` keys and values.

    Those layers are the memory layers of `arch=knn` (Wu et al. 2022, section 3), except that what they read stands for
    local attention beside the state vectors, and that the rings are written after every window: so losses do not depend
    on how a text is cut into segments here either. `mem` counts the state vectors; with `pairs=0` this is `arch=block`.
    """

    def __init__(self, shape: Shape, mem: int, arch: BlockKnnArch) -> None:
        memories = PairMemories()
        if arch.pairs:
            memories = build_memories(shape, arch, slots=arch.pairs, cache=arch.window, stride=arch.window)
        super().__init__(shape, mem, arch, memories=memories, pairs=arch.pairs)
