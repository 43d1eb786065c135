"""The state that each lane (row of the batch) carries from segment to segment, and operations on it.

Shapes: B lanes.
"""

from collections import Counter
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

Tree = Any
"""Nested tuples and named tuples of tensors. The first axis of every tensor is the lane."""


AnyTree = TypeVar("AnyTree")


class State(NamedTuple):
    """The state of all lanes between two segments; an argument and a result, never stored on a module."""

    cache: Tree
    """Exact keys and values of the recent past."""
    memory: Tree
    """Everything else that is carried."""


def detach(tree: AnyTree) -> AnyTree:
    """The tree without gradient: its tensors are outside the graph."""
    result: AnyTree = pytree.tree_map(lambda leaf: leaf.detach(), tree)
    return result


def fork(tree: AnyTree) -> AnyTree:
    """A copy without shared storage, so that writing to one tree never changes the other."""
    result: AnyTree = pytree.tree_map(lambda leaf: leaf.detach().clone(), tree)
    return result


def state_bytes(tree: Tree) -> int:
    """The size of all tensors in bytes."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(tree))


def pack(tree: Tree) -> list[Tensor]:
    """The tensors as a flat list for a checkpoint, which must be written before anything writes to the tree.

    A tensor with storage of its own, such as a ring, is not copied, because it may be as large as the memory that is left.
    The others are copied, so that they are stored without the rest of the storage that they share.
    """
    leaves = [leaf.detach() for leaf in pytree.tree_leaves(tree)]
    shared = Counter(leaf.untyped_storage()._cdata for leaf in leaves)
    return [leaf if shared[leaf.untyped_storage()._cdata] == 1 and _whole(leaf) else leaf.clone() for leaf in leaves]


def _whole(leaf: Tensor) -> bool:
    """Whether the tensor takes all of its storage, in order."""
    return leaf.is_contiguous() and leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size()


def unpack(leaves: list[Tensor], like: AnyTree, *, lanes: int) -> AnyTree:
    """The tree that `pack` made flat, with the structure and devices of `like`.

    Args:
        like: a state of any number of lanes. 0 lanes are enough, so that no second state is held beside this one.
        lanes: how many lanes the tensors must have.

    Raises:
        ValueError: the number, shapes or types of the tensors differ, so this is the state of another model.
    """
    own, structure = pytree.tree_flatten(like)
    stored_forms = [(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
    own_forms = [((lanes, *leaf.shape[1:]), leaf.dtype) for leaf in own]
    if stored_forms != own_forms:
        pairs = enumerate(zip(stored_forms, own_forms, strict=False))
        first = next((i for i, (stored, ours) in pairs if stored != ours), min(len(stored_forms), len(own_forms)))
        stored, ours = (str(forms[first]) if first < len(forms) else "absent" for forms in (stored_forms, own_forms))
        raise ValueError(
            f"its state has {len(stored_forms)} tensors and the model's has {len(own_forms)}; tensor {first + 1} is {stored} in "
            f"the file and {ours} in the model"
        )
    result: AnyTree = pytree.tree_unflatten([a.to(b.device) for a, b in zip(leaves, own, strict=True)], structure)
    return result


def zero_lanes(tensor: Tensor, reset_B: Tensor) -> Tensor:
    """`tensor` with zeros in the lanes where `reset_B` is true."""
    return tensor.masked_fill(reset_B.view(-1, *[1] * (tensor.dim() - 1)), 0)
