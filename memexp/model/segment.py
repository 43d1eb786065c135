"""The one interface of every architecture: a segment of tokens and a state go in, activations and a state come out.

Shapes: B lanes, T tokens of a segment, D width, H heads, K head size, L layers that retrieve, k neighbours, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from memexp.model.state import State, Tree
from memexp.model.transformer.head import Head
from memexp.model.transformer.shape import Shape


class SegmentOutput(NamedTuple):
    """What one segment gives."""

    hidden_BTD: Tensor
    """Final activations, aligned with the tokens; `SegmentModel.head` turns them into nats or logits."""
    state: State
    """For the next segment; same tree and shapes as `init_state`."""
    aux: dict[str, Tensor]
    """Extra losses by name, already weighted; evaluation ignores them."""
    gauges: dict[str, Tensor]
    """Detached scalars that show whether the memory is alive."""


class Extension(NamedTuple):
    """What a piece of a segment gives."""

    hidden_BTD: Tensor
    """Final activations, aligned with the piece's tokens."""
    kept: Tree
    """For the segment's next piece: keys and values of all that it may attend to."""


class Retrieval(NamedTuple):
    """Where each token read; the third axis is one entry a layer that retrieves, and may be empty."""

    ages_BTLHk: Tensor
    """How many tokens before the reading token the retrieved one stands; 0 where nothing was retrieved."""
    weights_BTLHk: Tensor
    """Share of the head's attention, gate included; 0 where nothing was retrieved."""


class MemoryCost(NamedTuple):
    """What a plan of time and memory cannot tell from a model's parameters and state."""

    what: str = "memory"
    """What people call it."""
    on_host: bool = False
    """Whether it stays in the host's memory where the model is on an accelerator."""
    search_bytes: int = 0
    """What a search holds on an accelerator while it runs."""
    multiplications: float = 0.0
    """Of a token with what is stored, to find what it reads; without gradient."""


class SegmentModel(nn.Module, ABC):
    """A transformer that reads a document segment by segment.

    A document begins only at the start of a segment; `reset_B` then says so and the lane forgets, inside the graph, so
    that learned initial states get gradient. `valid_BT` is false on the padding behind a document's end, which never
    changes a score and is never read later. The model detaches what its paper calls non-differentiable; the trainer
    detaches the state at the horizon; nobody else does.
    """

    shape: Shape
    head: Head
    cache_tokens: int
    """Tokens of exact recent past that every layer sees beside the segment."""
    memory_slots: int
    """What one lane's memory can hold; 0 without memory."""

    def __init__(self, shape: Shape, *, cache: int, memory: int) -> None:
        """An architecture's own constructor takes `(shape, mem, arch)`: the network, the size of the memory, and its options.

        Args:
            cache: tokens of exact recent past.
            memory: slots of the memory.
        """
        super().__init__()
        self.shape, self.cache_tokens, self.memory_slots = shape, cache, memory

    @abstractmethod
    def init_state(self, lanes: int) -> State:
        """The state before a document's first segment, for that many lanes."""

    @abstractmethod
    def clear(self, state: State, reset_B: Tensor) -> State:
        """Set the lanes where `reset_B` is true back to the initial state."""

    @abstractmethod
    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        """Read one segment, without forgetting anything first."""

    @abstractmethod
    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        """Read the next piece of a segment without moving on: what `step` gives for these tokens, from what was kept.

        Args:
            state: where the segment begins; nothing is written to it.
            kept: of the piece before; None for a segment's first.
        """

    @property
    def stride(self) -> int:
        """Tokens after which the state moves on, so that pieces of one segment never reach further."""
        return self.shape.segment

    @property
    def positions(self) -> int:
        """What a segment takes up in every layer: its tokens, and memory tokens that stand among them."""
        return self.shape.segment

    @property
    def in_sight(self) -> int:
        """What every layer's attention reads besides the segment."""
        return self.cache_tokens

    @property
    def window(self) -> int:
        """Places that causal attention runs over at once, `in_sight` not counted; 0 without attention."""
        return 0

    @property
    def bias_heads(self) -> int:
        """Numbers that positions add to the attention of one place to another, one a head; 0 where they are no bias."""
        return 0

    @property
    def memory_cost(self) -> MemoryCost:
        """What the memory costs besides its state."""
        return MemoryCost()

    def remarks(self, device: torch.device) -> list[str]:
        """What is to be said of it on this device, to the user."""
        return []

    @final  # type: ignore[misc]  # nn.Module declares it as an attribute
    def forward(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> SegmentOutput:
        """Forget where a document begins, then read one segment."""
        return self.step(tokens_BT, valid_BT, self.clear(state, reset_B))

    def inspect(self, tokens_BT: Tensor, valid_BT: Tensor, state: State, reset_B: Tensor) -> Retrieval:
        """What each token would retrieve; an architecture that retrieves nothing has no layers in it."""
        nothing = tokens_BT.new_zeros(*tokens_BT.shape, 0, 1, 0)
        return Retrieval(nothing, nothing.float())
