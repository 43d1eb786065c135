"""The one interface of every architecture: a segment of tokens and a state go in, activations and a state come out.

Shapes: B lanes, T tokens of a segment, D width, H heads, K head size, L layers that retrieve, k neighbours, V vocabulary.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from memexp.model.head import AdaptiveHead, Head

Tree = Any
"""Nested tuples and named tuples of tensors. The first axis of every tensor is the lane."""

AnyTree = TypeVar("AnyTree")


@dataclass(frozen=True)
class Shape:
    """What every architecture is told: the network without its memory, and what it will be fed.

    `segment` is the longest T of a step; `bptt_segments` the segment borders that a gradient may cross.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    head_size: int
    feedforward: int
    segment: int
    bptt_segments: int = 0
    cutoffs: tuple[int, ...] = ()
    """Words before each cluster of adaptive softmax; empty: one softmax over all."""
    narrowing: int = 1
    """How many times narrower a further cluster's vectors are."""


def build_head(shape: Shape) -> Head:
    """Embedding and output layer."""
    if not shape.cutoffs:
        return Head(shape.vocabulary, shape.width)
    return AdaptiveHead(shape.vocabulary, shape.width, cutoffs=shape.cutoffs, narrowing=shape.narrowing)


class State(NamedTuple):
    """What a lane carries from segment to segment; an argument and a result, never kept on a module."""

    cache: Tree
    """Exact keys and values of the recent past."""
    memory: Tree
    """Everything else."""


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


def detach(tree: AnyTree) -> AnyTree:
    """The same values outside the graph."""
    result: AnyTree = pytree.tree_map(lambda leaf: leaf.detach(), tree)
    return result


def fork(tree: AnyTree) -> AnyTree:
    """A copy that shares no storage, so that what is written to one is never seen in the other."""
    result: AnyTree = pytree.tree_map(lambda leaf: leaf.detach().clone(), tree)
    return result


def state_bytes(tree: Tree) -> int:
    """Bytes of all tensors."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(tree))


def pack(tree: Tree) -> list[Tensor]:
    """The tensors as a flat list for a checkpoint, each with storage of its own."""
    return [leaf.detach().clone() for leaf in pytree.tree_leaves(tree)]


def unpack(leaves: list[Tensor], like: AnyTree) -> AnyTree:
    """The tree of `pack`, with the form and device of `like`.

    Raises:
        ValueError: number, shapes or types differ, so this is the state of another model.
    """
    ours, form = pytree.tree_flatten(like)
    found = [(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
    expected = [(tuple(leaf.shape), leaf.dtype) for leaf in ours]
    if found != expected:
        differ = (i for i, (there, here) in enumerate(zip(found, expected, strict=False)) if there != here)
        at = next(differ, min(len(found), len(expected)))
        there, here = (str(forms[at]) if at < len(forms) else "absent" for forms in (found, expected))
        raise ValueError(
            f"its state has {len(found)} tensors and the model carries {len(expected)}; number {at + 1} is {there} there "
            f"and {here} here"
        )
    result: AnyTree = pytree.tree_unflatten([a.to(b.device) for a, b in zip(leaves, ours, strict=True)], form)
    return result


def zero_lanes(tensor: Tensor, reset_B: Tensor) -> Tensor:
    """`tensor` with the lanes where `reset_B` is true set to zero."""
    return torch.where(reset_B.view(-1, *[1] * (tensor.dim() - 1)), torch.zeros_like(tensor), tensor)
