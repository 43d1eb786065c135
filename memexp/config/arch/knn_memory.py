"""Options of architectures that search pairs of keys and values."""

from dataclasses import dataclass
from typing import ClassVar

from memexp.config.arch.base import REACH, SINKS, AttentionArch, Beside, check_layers, check_sinks, class_name
from memexp.config.field import setting
from memexp.config.groups import PLACES
from memexp.errors import UserError


@dataclass
class PairArch(AttentionArch):
    """Options of a memory of key-value pairs, for every architecture that has one."""

    retrieves: ClassVar[bool] = True

    knn_layers: list[int] = setting(
        [], "layers that read the memory, counted from 1; empty: the layer at three quarters of the depth (9th of 12)"
    )
    neighbours: int = setting(
        32,
        "pairs that each token retrieves; with arch.search=routed, pairs that all tokens of a segment share",
        unit="pairs",
        low=1,
    )
    search: str = setting(
        "exact",
        "search engine that finds the nearest pairs of each token (auto chooses one by memory size and device); routed: one "
        "choice per head for all tokens of a segment, by coordinate descent",
        choices=("auto", "exact", "bucketed", "faiss_flat", "faiss_ivf", "faiss_hnsw", "routed"),
    )
    stored: str = setting("fp32", "precision of the stored keys and values", choices=("fp32", "bf16"))
    stored_on: str = setting(
        "device",
        "where keys and values are stored: on the model's device, or in the host's memory, which is larger; exact search carries "
        "the keys to the device, other engines run on the CPU",
        choices=("device", "host"),
        effect="speed",
    )
    combine: str = setting(
        "gate",
        "how retrieved and local values are combined: by a learned gate per head, or in one joint softmax",
        choices=("gate", "joint"),
    )
    gate: float = setting(
        0.0, "initial value of the gates before the sigmoid; 0 weighs memory and local attention equally"
    )
    write: str = setting(
        "all",
        "which pairs are stored: all pairs of a segment once it was read, or only those that leave the cache",
        choices=("all", "leaving"),
    )

    def at_edge(self) -> bool:
        """Whether the memory stands where the cache begins, and not at the query's own place."""
        return False

    def layers_at_edge(self) -> list[int]:
        """Those that read the memory, if it stands there."""
        return self.knn_layers if self.at_edge() else []

    def check_pairs(self, beside: Beside, *, name: str, pairs: int) -> None:
        """Refuse options that make no sense for a memory of `pairs` pairs.

        Args:
            name: the setting that gives this number.

        Raises:
            UserError: as `check` does.
        """
        check_layers("knn_layers", self.knn_layers, beside)
        if self.combine == "joint" and self.gate:
            raise UserError(
                f"arch.gate is {self.gate:g} but arch.combine is joint, which has no gate; expected arch.combine=gate"
            )
        if self.search == "routed" and self.stored_on == "host":
            raise UserError(
                "arch.stored_on is host but arch.search is routed, which scores every pair on the model's device; "
                "expected arch.stored_on=device, or arch.search=exact"
            )
        if beside.recompute and self.search == "faiss_hnsw":
            raise UserError(
                "recompute is true but arch.search is faiss_hnsw, which can find other neighbours when a segment is computed "
                "again; expected recompute=false, or arch.search=faiss_ivf"
            )
        if 0 < pairs < self.neighbours:
            raise UserError(
                f"{name} is {pairs} but arch.neighbours is {self.neighbours}; expected a memory that holds at least "
                "arch.neighbours pairs"
            )


@dataclass
class KnnArch(PairArch):
    """Group `arch`, kNN memory."""

    mem_unit: ClassVar[str] = "pairs per lane and head"
    resizable: ClassVar[bool] = True

    _target_: str = class_name("knn.Knn")

    cache: int = setting(
        512, "length of the cache of exact recent keys and values that every layer attends to", unit="tokens", low=0
    )
    knn_position: bool = setting(True, "layers that read the memory have positions in their local attention")
    reach: str = setting("all", REACH.format(cache="arch.cache"), choices=("all", "window"), later=True)
    sinks: int = setting(0, SINKS, unit="tokens", low=0, later=True)
    place: str = setting(
        "none",
        "where the memory stands for a query whose position turns it (rotary, xpos, most checkpoints): none: at the query's own place, "
        "without positions; edge: where its cache begins",
        choices=PLACES,
        later=True,
    )
    negatives: int = setting(
        0,
        "other lanes whose last segment each token of training sees besides that of its own document, so that keys of other documents "
        "become different (Focused Transformer); evaluation reads the memory. 0: training reads the memory too",
        unit="lanes",
        low=0,
        of_memory=True,
        later=True,
    )

    def tokens_to_fill(self, mem: int) -> int:
        """Each token writes one pair."""
        return mem

    def through_memory(self) -> bool:
        """Through the last segments, if training sees those of other lanes."""
        return self.negatives > 0

    def at_edge(self) -> bool:
        """As `place` says."""
        return self.place == "edge"

    def beside_a_checkpoint(self) -> str | None:
        """Routed search and negatives too, which compare heads one by one."""
        if self.search == "routed":
            return "arch.search is routed"
        return f"arch.negatives is {self.negatives}" if self.negatives else self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Check the memory of pairs too, and that a window is not empty."""
        super().check(beside)
        self.check_pairs(beside, name="mem", pairs=beside.mem)
        check_sinks(self.sinks, self.reach)
        if self.place == "edge" and self.position not in ("rotary", "xpos") and beside.size.checkpoint is None:
            raise UserError(
                f"arch.place is edge but arch.position is {self.position}, which turns no query; expected arch.place=none, or "
                "arch.position=rotary"
            )
        if self.reach == "window" and not self.cache:
            raise UserError(
                "arch.reach is window but arch.cache is 0, so a token would see only itself; expected arch.reach=all, or a larger "
                "arch.cache"
            )

    def check_training(self, beside: Beside) -> None:
        """Check that there are lanes, and gradients, for negatives."""
        super().check_training(beside)
        if not self.negatives:
            return
        if self.negatives >= beside.lanes:
            raise UserError(
                f"arch.negatives is {self.negatives} but lanes is {beside.lanes}, so there are {beside.lanes - 1} other lanes; expected "
                "fewer arch.negatives, or more lanes"
            )
        for name, value, wanted in (("combine", "gate", "joint"), ("search", "routed", "exact")):
            if getattr(self, name) == value:
                raise UserError(
                    f"arch.{name} is {value} but arch.negatives is {self.negatives}, and each token reads them in one softmax with local "
                    f"attention; expected arch.{name}={wanted}, or arch.negatives=0"
                )
        if not beside.bptt_segments:
            raise UserError(
                f"arch.negatives is {self.negatives} but bptt_segments is 0, so no gradient would reach the keys of the last segments; "
                "expected bptt_segments=1 and accumulate=2, or more"
            )
