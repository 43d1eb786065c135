"""The interface of every architecture: a segment of tokens and a state go in, activations and a new state come out.

Shapes: B lanes, T tokens of a segment, D width, H heads, K head size, L layers that retrieve, k neighbours, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from memexp.model.state import State, Tree
from memexp.model.transformer.head import Head
from memexp.model.transformer.kept import FULL, Kept
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges
from memexp.terminal import Remark


class SegmentOutput(NamedTuple):
    """The result of reading one segment."""

    hidden_BTD: Tensor
    """Final activations, aligned with the tokens; `SegmentModel.head` turns them into nats or logits."""
    state: State
    """The state for the next segment, with the tree and shapes of `init_state`."""
    aux: dict[str, Tensor]
    """Auxiliary losses by name, already weighted; evaluation ignores them."""
    gauges: Gauges
    """Detached scalars that show whether the memory is used; only `memory_fill...` while nobody watches them (`watching`).

    Each is an unweighted mean over lanes, so that it does not depend on how many documents are read together; only
    `memory_fill...` is the maximum over lanes, and `memory_between...`, which only training shows, compares lanes.
    """


class Extension(NamedTuple):
    """The result of reading a piece of a segment."""

    hidden_BTD: Tensor
    """Final activations, aligned with the tokens of the piece."""
    kept: Tree
    """Input of the segment's next piece: the keys and values that it may attend to."""


class Retrieval(NamedTuple):
    """What each token retrieved; the axis L has an entry for each layer that retrieves, and may be empty."""

    ages_BTLHk: Tensor
    """How many tokens before the reading token each retrieved token is; 0 where nothing was retrieved."""
    weights_BTLHk: Tensor
    """Attention weight of each retrieved token, including the gate; 0 where nothing was retrieved."""


class Activations(NamedTuple):
    """Bytes that the backward pass needs of one segment, in each lane, on an accelerator."""

    layers: float
    """Of the layers, without the next two."""
    added_to_scores: float = 0.0
    """What positions and masks add to the scores of attention, without the next."""
    by_distance: float = 0.0
    """What biases of distances add to them, with the mask."""
    by_distance_at_once: float = 0.0
    """The part of it that attention needs at once."""
    by_distance_kept: float = 0.0
    """What of it the backward pass would keep of a gradient window. It is made anew instead if that is large in all lanes."""
    by_distance_copies: int = 2
    """How often the backward pass then needs it: also its gradient, if it is learned."""
    after_attention: float = 0.0
    """What the last layer keeps after its attention, which is gone when the backward pass makes a bias anew."""
    memory: float = 0.0
    """Of reading and writing the memory."""
    in_all_lanes: float = 0.0
    """What all lanes share, of the memory."""


class Held(NamedTuple):
    """Bytes that each lane holds on an accelerator, beside the states, while one layer reads a segment and no backward pass follows."""

    feedforward: float
    """While its feed-forward layer is computed."""
    attention: float = 0.0
    """While its heads attend, without the next."""
    added: float = 0.0
    """What positions and masks add to the scores of attention."""
    padded: bool = False
    """Whether a kernel needs a copy of it with longer rows."""
    memory: float = 0.0
    """While the memory is read or written, without the scores of a search."""

    def beside(self, more: float) -> "Held":
        """With more that is there all the time."""
        return self._replace(
            feedforward=self.feedforward + more, attention=self.attention + more, memory=self.memory + more
        )


class MemoryCost(NamedTuple):
    """The part of a memory's cost that does not follow from the model's parameters and state."""

    what: str = "memory"
    """Name of the memory, shown to users."""
    in_place: bool = False
    """Whether it is written in place; else the memories before and after a segment are held at once."""
    on_host: bool = False
    """Whether the memory is in the host's memory even if the model is on an accelerator."""
    search_bytes: int = 0
    """Bytes that a search needs on an accelerator for each lane while it runs."""
    search_most: int = 0
    """The most bytes that a search needs, because it takes lanes one after another."""
    gathered: int = 0
    """Bytes for each lane of copies of what was found, while it is read."""
    search_at: float = 0.0
    """The share of the layers that have been read when the last search of a segment runs."""
    search: float = 0.0
    """Multiplications in fp32 per token to search the memory; they have no backward pass."""
    search_in_half: float = 0.0
    """Those on tensor cores, with factors in half precision; also without a backward pass."""
    search_moves: float = 0.0
    """Bytes per token that a search reads from the memory of an accelerator and writes to it."""
    recurrence: float = 0.0
    """Multiplications per token to read and write the memory in the forward pass, without those of weights and attention."""

    @property
    def copies(self) -> int:
        """How many memories are held at once: those before and after a segment, unless they are the same."""
        return 1 if self.in_place else 2

    def scratch(self, lanes: int) -> int:
        """Bytes that a search of so many lanes needs on an accelerator: its scores, or then copies of what was found."""
        return max(min(lanes * self.search_bytes, self.search_most), lanes * self.gathered)


class SegmentModel(nn.Module, ABC):
    """A transformer that reads a document segment by segment, in each lane (row of the batch) another document.

    A document begins only at the start of a segment. `reset_B` is then true, and the lane forgets its state. This happens
    inside the graph, so that learned initial states get a gradient. `valid_BT` is false on the padding after a document's
    end; padding never changes a score and is never read later. Only two places stop gradients: the model, where its paper
    does, and the trainer, which detaches the state at the end of each gradient window.
    """

    shape: Shape
    head: Head
    cache_tokens: int
    """Tokens in the cache of each layer."""
    memory_slots: int
    """Slots in the memory of one lane; 0 without memory."""

    def __init__(self, shape: Shape, *, cache: int, memory: int) -> None:
        """Store the sizes.

        The constructor of an architecture takes `(shape, mem, arch)`: the network, the size of the memory, and the options.

        Args:
            cache: tokens in the cache of each layer.
            memory: slots in the memory of one lane.
        """
        super().__init__()
        self.shape, self.cache_tokens, self.memory_slots = shape, cache, memory

    @abstractmethod
    def init_state(self, lanes: int) -> State:
        """The state of `lanes` lanes before the first segment of a document."""

    @abstractmethod
    def clear(self, state: State, reset_B: Tensor) -> State:
        """Set the lanes where `reset_B` is true back to the initial state."""

    @abstractmethod
    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment without clearing any lane first."""

    @abstractmethod
    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece of a segment without changing the state; activations are those of `step` on the segment.

        Args:
            state: the state at the start of the segment; nothing is written to it.
            kept: `Extension.kept` of the piece before; None for the first piece.
        """

    def start_new(self, names: Collection[str]) -> None:
        """Start weights that are new in a run that began with the weights of another run; most models have nothing to do.

        Args:
            names: the names of these weights, as in `state_dict`; until now they have the values of the constructor.
        """

    @property
    def stride(self) -> int:
        """Tokens between two updates of the state; the pieces of `extend` together are at most this long."""
        return self.shape.segment

    @property
    def positions(self) -> int:
        """Positions that a segment takes in each layer: its tokens and its memory tokens."""
        return self.shape.segment

    @property
    def in_sight(self) -> int:
        """Keys outside the segment that the attention of each layer reads."""
        return self.cache_tokens

    @property
    def window(self) -> int:
        """Positions that causal attention covers at once, without those in `in_sight`; 0 without attention."""
        return 0

    @property
    def attention_layers(self) -> int:
        """Layers whose positions attend to as many keys as `attended` says."""
        return self.shape.layers

    @property
    def attended(self) -> float:
        """Keys that a position attends to, on average: half its window, and all that are `in_sight`; 0 without attention."""
        return (self.window + 1) / 2 + self.in_sight if self.window else 0.0

    @property
    def fixed_shapes(self) -> bool:
        """Whether the tensors of a training step have the same shapes in every step."""
        return True

    @property
    def memory_cost(self) -> MemoryCost:
        """The cost of the memory besides its state."""
        return MemoryCost()

    def cache_kept(self, cache: int, *, half: bool) -> float:
        """What a cache of so many bytes keeps from being released: itself, or all of what it is a part of."""
        return float(cache)

    def cache_bytes(self, cache: int, *, half: bool) -> float:
        """What the caches before and after a segment need beside the activations, if a cache of one lane has so many bytes."""
        kept = self.cache_kept(cache, half=half)
        return kept if kept > cache else 2.0 * cache  # the next one may be a part of the activations

    def kept(self, *, half: bool) -> Kept:
        """What modules of this model keep for the backward pass, with products in bf16 or in fp32."""
        return Kept(self.shape, half)

    def activations(self, *, half: bool) -> Activations:
        """What the backward pass needs of one segment, without the output layer.

        Here: of pre-norm layers, without what it is that mixes tokens in them.

        Args:
            half: whether products are in bf16.
        """
        kept, positions = self.kept(half=half), self.positions
        of_layer = kept.normed(positions, products=1) + kept.residual(positions) + kept.feedforward(positions)
        return Activations(self.shape.layers * of_layer + kept.residual(positions))

    def held(self, *, half: bool) -> Held:
        """What reading a segment holds beside the states if no backward pass follows; here of pre-norm layers alone.

        Args:
            half: whether products are in bf16.
        """
        embedded = FULL * self.positions * self.shape.width
        return Held(self.kept(half=half).held_by_feedforward(self.positions)).beside(embedded)

    def remarks(self, device: torch.device) -> list[Remark]:
        """What the user should know about the model on this device."""
        network = self.shape.pretrained
        return [Remark(network.remark)] if network is not None and network.remark else []

    def check_device(self, device: torch.device) -> None:
        """Refuse a device on which the model cannot run, before it is moved there.

        Raises:
            UserError: something that it needs there is not installed.
        """

    @final  # type: ignore[misc]  # nn.Module declares it as an attribute
    def forward(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> SegmentOutput:
        """Clear the lanes in which a document begins, then read one segment."""
        return self.step(tokens_BT, valid_BT, self.clear(state, reset_B))

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token retrieves; without any layers if the architecture does not retrieve."""
        empty_BTLHk = tokens_BT.new_zeros(*tokens_BT.shape, 0, 1, 0)
        return Retrieval(empty_BTLHk, empty_BTLHk.float())
