"""Thought-and-memory: a decoder that reads memory slots before each segment, and a network that rewrites them after it.

Shapes: B lanes, T tokens, M slots, D width.
"""

from typing import final

import torch
from torch import Tensor, nn

from memexp.config.arch.slot_memory import ThoughtArch
from memexp.model.segment import Activations, Extension, SegmentOutput
from memexp.model.slot_memory.gauges import memory_gauges
from memexp.model.slot_memory.prefix import read_behind, read_unplaced
from memexp.model.slot_memory.recall import (
    Losses,
    PlacedQueries,
    PublishedQueries,
    Recalled,
    composition,
    even_cuts,
    mean_of,
    published_updater_losses,
    published_updates_of,
    recalled_embeddings,
    recalled_tokens,
    updater_losses,
    updates_of,
)
from memexp.model.slot_memory.updater import AdditiveUpdater, GatedUpdater
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import Cache
from memexp.model.transformer.decoder import DecoderModel
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched, mean_of_layers


@final
class Thought(DecoderModel):
    """Thought-and-memory (LumenPallidium 2023, published as code) on the decoder of Memorizing Transformers.

    The *predictor* (the decoder) reads a segment after `mem` slots without positions: tokens see slots and earlier tokens,
    slots see only slots. Then the *updater* rewrites the slots from the predictor's activations. The gradient of the
    prediction reaches the updater only through segment borders that `bptt_segments` allows. These losses train the updater:

    - Recall: the predictor predicts the segment's tokens from the new memory alone. It trains both networks.
    - Composition: reading a segment at once and in pieces must give the same memory. It trains only the updater.
    - Separation: variance and covariance of the slots. It trains only the updater.

    With `mem=0` this is the plain decoder.

    *Differs from the code:*

    - In the updater, slots also attend to one another, and have ids, a gate and a norm. Keys have rotary positions; the
      code's distance penalty hides late tokens.
    - The target of recall is tokens, not activations. Its queries contain their position, and slots do not see them.
    - Composition starts from the memory before the segment, and its target has no dropout.
    - Covariance does not include variance.

    `faithful=true` uses the code's formulas for all of these except the dropout, with pieces that are never empty. The
    code's weights are then recall=0.5, composition=0.125, variance=0.125 and covariance=0.000125. The decoder stays that of
    Memorizing Transformers, with `position` (the code has distance penalties, also between slots and tokens).
    """

    def __init__(self, shape: Shape, mem: int, arch: ThoughtArch) -> None:
        super().__init__(shape, cache=0, memory=mem)
        self.add_layers(arch)
        weights = {name: getattr(arch, name) for name in ("recall", "composition", "variance", "covariance")}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.recalled = recalled_tokens if arch.recall_target == "tokens" else recalled_embeddings
        self.updater_losses = published_updater_losses if arch.faithful else updater_losses
        self.updates = published_updates_of if arch.faithful else updates_of
        if not mem:
            return
        self.initial_MD = nn.Parameter(torch.randn(mem, shape.width))
        depth = arch.updater_layers or (shape.layers + 1) // 2
        self.updater = (
            AdditiveUpdater(shape, arch, layers=depth)
            if arch.faithful
            else GatedUpdater(shape, arch, mem=mem, layers=depth)
        )
        if arch.recall:
            self.recall_queries = PublishedQueries(shape) if arch.faithful else PlacedQueries(shape)

    @property
    def in_sight(self) -> int:
        """The slots."""
        return self.memory_slots

    def activations(self, *, half: bool) -> Activations:
        """With the layers once more to recall a segment, and the updater once for each of its losses and for the segment."""
        found, kept = super().activations(half=half), self.kept(half=half)
        slots, length, layers = self.memory_slots, self.shape.segment, self.shape.layers
        if not slots:
            return found
        memory = layers * kept.layer(slots, seen=slots, joined=False)
        if "recall" in self.weights:
            memory += self.recall_queries.kept(kept, layers, slots, length)
        for pieces in (1, *self.updates(set(self.weights) - {"recall"})):
            memory += self.updater.kept(kept, slots, length) + (pieces - 1) * self.updater.kept(kept, slots, 0)
        return found._replace(memory=memory)

    @property
    def fixed_shapes(self) -> bool:
        """Composition reads pieces of random lengths."""
        return not (self.memory_slots and {"composition", "variance", "covariance"} & self.weights.keys())

    def init_state(self, lanes: int) -> State:
        """The learned initial slots."""
        if not self.memory_slots:
            return State(cache=(), memory=self.head.embedding_VD.new_zeros(lanes, 0, self.shape.width))
        return State(cache=(), memory=self.initial_MD.expand(lanes, -1, -1))

    def clear(self, state: State, reset_B: Tensor) -> State:
        """Restore the initial slots in the lanes in which a document begins."""
        initial_BMD = self.init_state(len(reset_B)).memory
        return State(cache=(), memory=torch.where(reset_B[:, None, None], initial_BMD, state.memory))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment after the slots, then rewrite the slots."""
        before_BMD = state.memory
        prefix = read_unplaced(self.layers, before_BMD).prefix
        cache = self._open_cache(tokens_BT)
        hidden_BTD, _, shares = read_behind(self.layers, self.embed(tokens_BT), prefix, cache, grows=False)
        if not self.memory_slots:
            return SegmentOutput(hidden_BTD, state, aux={}, gauges={})
        after_BMD, gauges = self.updater(before_BMD, hidden_BTD, valid_BT)
        terms, of_losses = self._losses(tokens_BT, valid_BT, hidden_BTD, before_BMD=before_BMD, after_BMD=after_BMD)
        gauges = mean_of_layers(memory_share=shares) | gauges | memory_gauges(before_BMD, after_BMD) | of_losses
        aux = {name: weight * terms[name] for name, weight in self.weights.items()} if self.training else {}
        return SegmentOutput(hidden_BTD, State(cache=(), memory=after_BMD), aux, gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece after the slots and the segment so far, whose keys and values are kept."""
        if kept is None:
            kept = read_unplaced(self.layers, state.memory).prefix, self._open_cache(tokens_BT)
        prefix, cache = kept
        hidden_BTD, cache, _ = read_behind(self.layers, self.embed(tokens_BT), prefix, cache)
        return Extension(hidden_BTD, (prefix, cache))

    def _open_cache(self, tokens_BT: Tensor) -> Cache:
        return self.growing(self.empty_cache(len(tokens_BT)))

    def _losses(
        self, tokens_BT: Tensor, valid_BT: Tensor, hidden_BTD: Tensor, *, before_BMD: Tensor, after_BMD: Tensor
    ) -> Losses:
        """The losses whose weight is not 0; in evaluation only their gauges, which then use no random numbers."""
        text_BTD, old_BMD = hidden_BTD.detach(), before_BMD.detach()
        if not self.training:
            with torch.no_grad():
                cuts = even_cuts(valid_BT.shape[1])
                composed = composition(self.updater, old_BMD, text_BTD, valid_BT, cuts, whole_BMD=after_BMD)
                recall = self._recall(tokens_BT, valid_BT, hidden_BTD, after_BMD)
            return Losses({}, composed.gauges | recall.gauges)
        terms, gauges = self.updater_losses(
            self.updater,
            set(self.weights) - {"recall"},
            before_BMD=old_BMD,
            after_BMD=after_BMD.detach(),
            text_BTD=text_BTD,
            valid_BT=valid_BT,
        )
        recall = self._recall(tokens_BT, valid_BT, hidden_BTD, after_BMD)
        return Losses({**terms, **recall.terms}, {**gauges, **recall.gauges})

    def _recall(self, tokens_BT: Tensor, valid_BT: Tensor, hidden_BTD: Tensor, memory_BMD: Tensor) -> Losses:
        """The recall loss: predict the segment from the memory alone, without seeing its tokens."""
        if "recall" not in self.weights:
            return Losses({}, {})
        recalled_BTD = self.recall_queries.read(self.layers, memory_BMD, tokens_BT.shape[1])
        recalled = self.recalled(self.head, recalled_BTD, tokens_BT, hidden_BTD)
        scored_BT = self.recall_queries.scored(valid_BT)
        return Losses({"recall": mean_of(recalled.error_BT, scored_BT)}, _accuracy(recalled, scored_BT, valid_BT))


@if_watched
def _accuracy(recalled: Recalled, scored_BT: Tensor, valid_BT: Tensor) -> Gauges:
    """The share of the scored tokens that are recalled rightly, mean over lanes that read a token."""
    right_B = (recalled.right() & scored_BT).sum(-1) / scored_BT.sum(-1).clamp_min(1)
    return {"recall_accuracy": mean_of(right_B, valid_BT.any(-1))}
