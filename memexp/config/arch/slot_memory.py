"""Options of architectures whose memory is a fixed number of vectors."""

from dataclasses import dataclass
from typing import ClassVar

from memexp.config.arch.base import AttentionArch, Beside, check_layers, class_name
from memexp.config.arch.knn_memory import PairArch
from memexp.config.field import MOST_LAYERS, setting
from memexp.errors import UserError


@dataclass
class CompressiveArch(AttentionArch):
    """Group `arch`, Compressive Transformer."""

    mem_unit: ClassVar[str] = "compressed pairs in every layer"
    resizable: ClassVar[bool] = True

    _target_: str = class_name("compressive.Compressive")

    cache: int = setting(
        512, "length of the cache of exact recent keys and values that every layer attends to", unit="tokens", low=1
    )
    factor: int = setting(
        2, "compression rate: so many tokens that leave the cache become one compressed slot", unit="tokens", low=1
    )
    compress: str = setting(
        "convolution",
        "how tokens are compressed: by a convolution trained to keep what attention reads, by their mean, or by the maximum "
        "of each channel",
        choices=("convolution", "mean", "max"),
        of_memory=True,
    )

    def tokens_to_fill(self, mem: int) -> int:
        """A full cache, and `factor` tokens for each slot."""
        return mem * self.factor + self.cache if mem else 0

    def check(self, beside: Beside) -> None:
        """Check too that tokens leave the cache in whole groups."""
        super().check(beside)
        for name, tokens in (("segment", beside.segment), ("arch.cache", self.cache)):
            if tokens % self.factor:
                raise UserError(
                    f"{name} is {tokens} and arch.factor {self.factor}; expected {name} to be a multiple of arch.factor, "
                    "because tokens leave the cache in whole groups"
                )


@dataclass
class RmtArch(AttentionArch):
    """Group `arch`, Recurrent Memory Transformer."""

    mem_unit: ClassVar[str] = "memory tokens"
    random_memory: ClassVar[bool] = True
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("rmt.Rmt")

    cache: int = setting(
        0, "length of the cache of exact recent keys and values that tokens also attend to", unit="tokens", low=0
    )
    aux_weight: float = setting(
        0.0,
        "weight of an auxiliary loss: memory tokens predict an extra word; the paper uses 0.01 with a cache",
        low=0.0,
        of_memory=True,
    )
    memory_sees_cache: str = setting(
        "write",
        "which memory tokens attend to the cache: none of them, as in the published runs; only the write tokens; or both read "
        "and write tokens, as with read_mem_from_cache in the published code",
        choices=("none", "write", "both"),
        of_memory=True,
        later=True,
    )
    past_memories: int = setting(
        0,
        "memories of the last segments that are kept, and from which the memory tokens also retrieve (RMT-R); 1: only the present "
        "one; 0: nothing is retrieved, as in RMT",
        unit="segments",
        low=0,
        of_memory=True,
        later=True,
    )

    adapters: bool = setting(
        False,
        "memory tokens are read through gates and written through a linear map, all of which start at zero: a decoder that was trained "
        "without memory tokens then begins as it was",
        of_memory=True,
        later=True,
    )

    def beside_a_checkpoint(self) -> str | None:
        """The auxiliary loss too, whose extra word the output layer of a checkpoint does not have."""
        return f"arch.aux_weight is {self.aux_weight:g}" if self.aux_weight else self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Refuse too to choose who sees a cache that is not there."""
        super().check(beside)
        if self.memory_sees_cache != "write" and not self.cache:
            raise UserError(
                f"arch.memory_sees_cache is {self.memory_sees_cache} but arch.cache is 0, so it has no effect; expected "
                "arch.memory_sees_cache=write, or a larger arch.cache"
            )


@dataclass
class BlockArch(AttentionArch):
    """Group `arch`, Block-Recurrent Transformer."""

    mem_unit: ClassVar[str] = "state vectors per recurrent layer"
    gradient_through_memory: ClassVar[bool] = True
    gradient_through_cache: ClassVar[bool] = True

    _target_: str = class_name("block.Block")

    window: int = setting(
        512,
        "tokens that are read at once, and tokens that each token sees before itself; must divide the segment",
        unit="tokens",
        low=1,
    )
    recurrent_layers: list[int] = setting(
        [],
        "layers with state vectors, counted from 1; empty: the layer at five sixths of the depth (10th of 12)",
        of_memory=True,
    )
    gate_kind: str = setting(
        "fixed",
        "what the gates depend on: fixed: one learned value per channel; lstm: what the state vectors read",
        choices=("fixed", "lstm"),
        of_memory=True,
    )
    gates: str = setting(
        "skip",
        "where the state vectors have gates: dual: after attention and after the feed-forward layer; single: only after the "
        "feed-forward layer; skip: after attention, without a feed-forward layer",
        choices=("dual", "single", "skip"),
        of_memory=True,
    )
    feedback: bool = setting(
        False, "every layer reads the state vectors, not only the recurrent layers", of_memory=True
    )
    state_dropout: float = setting(
        0.0,
        "not in the papers: probability that a lane starts a training segment with the initial state vectors",
        low=0.0,
        high=1.0,
        departure=True,
        of_memory=True,
    )
    cache_dropout: float = setting(
        0.0,
        "not in the papers: probability that a lane starts a training segment with an empty cache",
        low=0.0,
        high=1.0,
        departure=True,
    )
    shared_values: bool = setting(
        False,
        "not in the papers: all heads share one head of keys and values (multi-query attention, Shazeer 2019)",
        departure=True,
    )
    borrow: bool = setting(
        False,
        "not in the papers: state vectors start from what their layer's attention has learned, also that of init_from: they are "
        "read as its tokens are, and hold means of its values over up to 32 windows; pays where init_from is a trained window model",
        departure=True,
        of_memory=True,
        later=True,
    )

    def check(self, beside: Beside) -> None:
        """Check too that a segment consists of whole windows."""
        super().check(beside)
        if beside.segment % self.window:
            raise UserError(
                f"segment is {beside.segment} and arch.window {self.window}; expected segment to be a multiple of arch.window, "
                "so that results do not depend on how a text is cut into segments"
            )
        check_layers("recurrent_layers", self.recurrent_layers, beside)
        if self.borrow and self.gates != "skip" and beside.size.feedforward < 2 * beside.size.width:
            raise UserError(
                f"arch.borrow is true and arch.gates {self.gates}, but size.feedforward is {beside.size.feedforward}; expected at least "
                f"{2 * beside.size.width}, twice size.width, so that the feed-forward layer can pass on what was read as it is"
            )


@dataclass
class BlockKnnArch(BlockArch, PairArch):
    """Group `arch`, Block-Recurrent Transformer with kNN memory."""

    _target_: str = class_name("block_knn.BlockKnn")

    pairs: int = setting(8192, "pairs that the kNN memory holds per lane and head", unit="pairs", low=0)

    def tokens_to_fill(self, mem: int) -> int:
        """Each token writes one pair; state vectors are never empty."""
        return self.pairs

    def check(self, beside: Beside) -> None:
        """Check the memory of pairs too, alone and together with the state vectors."""
        super().check(beside)
        self.check_pairs(beside, name="arch.pairs", pairs=self.pairs)
        if self.cache_dropout and self.write == "leaving":
            raise UserError(
                f"arch.cache_dropout is {self.cache_dropout:g} but arch.write is leaving, and from an emptied cache no pairs "
                "leave to be stored; expected arch.write=all, or arch.cache_dropout=0"
            )


@dataclass
class ThoughtArch(AttentionArch):
    """Group `arch`, thought-and-memory."""

    mem_unit: ClassVar[str] = "memory slots"
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("thought.Thought")

    updater_layers: int = setting(
        0,
        "layers of the network that rewrites the memory (the updater); 0: half the layers of the predictor, as published "
        "(4 of 8)",
        unit="layers",
        low=0,
        high=MOST_LAYERS,
        of_memory=True,
    )
    recall: float = setting(
        0.5,
        "weight of the recall loss: the tokens of a segment are recalled from the memory alone; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    recall_target: str = setting(
        "tokens",
        "target of the recall loss: tokens: the tokens, by cross-entropy; embeddings: the predictor's activations, by squared "
        "error",
        choices=("tokens", "embeddings"),
        of_memory=True,
    )
    composition: float = setting(
        0.125,
        "weight of the composition loss: the squared difference between a memory that read a segment in pieces and one that "
        "read it at once; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    variance: float = setting(
        1.0,
        "weight of the variance loss: each channel must vary from slot to slot; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    covariance: float = setting(
        0.04,
        "weight of the covariance loss: the channels of the slots must be uncorrelated; 0: no such loss",
        low=0.0,
        of_memory=True,
    )
    faithful: bool = setting(
        False, "use the formulas of the published code for the updater and its losses", of_memory=True
    )

    def check(self, beside: Beside) -> None:
        """Check too that the options fit the published formulas and the updater's rotary positions."""
        super().check(beside)
        if beside.mem and self.faithful and self.recall_target == "tokens":
            raise UserError(
                "arch.recall_target is tokens but arch.faithful is true, and the published code recalls activations; expected "
                "arch.recall_target=embeddings with it"
            )
        if beside.mem and not self.faithful and beside.size.head_size % 2:
            raise UserError(
                f"size.head_size is {beside.size.head_size}; expected an even number, because the network that rewrites the "
                "memory has rotary positions"
            )
