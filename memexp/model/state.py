"""What a lane carries from segment to segment, and what may be done with it.

Shapes: B lanes.
"""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tree = Any
"""Nested tuples and named tuples of tensors. The first axis of every tensor is the lane."""


AnyTree = TypeVar("AnyTree")


class State(NamedTuple):
    """What a lane carries from segment to segment; an argument and a result, never kept on a module."""

    cache: Tree
    """Exact keys and values of the recent past."""
    memory: Tree
    """Everything else."""


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
