"""Group `arch`: the options of every architecture, and what its memory is like. A module for each kind of memory, as in `memexp/model`."""

from memexp.config.arch.base import Arch
from memexp.config.arch.knn_memory import KnnArch
from memexp.config.arch.matrix_memory import ArmtArch, DeltaArch, InfiniArch, TitansArch
from memexp.config.arch.slot_memory import BlockArch, BlockKnnArch, CompressiveArch, RmtArch, ThoughtArch
from memexp.config.arch.transformer import VanillaArch, XlArch, XlEnhancedArch

ARCHS: dict[str, type[Arch]] = {
    "vanilla": VanillaArch, "xl": XlArch, "xl_enhanced": XlEnhancedArch, "compressive": CompressiveArch,
    "knn": KnnArch, "knn_routed": KnnArch, "rmt": RmtArch, "rmt_xl": RmtArch, "armt": ArmtArch,
    "infini": InfiniArch, "delta": DeltaArch, "titans": TitansArch, "block": BlockArch, "block_knn": BlockKnnArch, "thought": ThoughtArch,
}  # fmt: skip
"""Schema of each `conf/arch` file, by the file's name."""

RETIRED = ("mem_unit", "mem_is")
"""Options under `arch` in the config.yaml of older runs that have no meaning any more."""
