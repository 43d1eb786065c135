"""Which documents are trained on, which are for validation and which for the test."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

from memexp.errors import UserError

SPLITS = ("train", "valid", "test")
HELD_OUT = ("valid", "test")

GIANT = 0.1
"""A group is a giant if it has more than this share of all text, or as many documents as a split needs. Giants are held
out last. So most text stays for training, and no held-out split consists of one group alone."""


class Sized(Protocol):
    """What the splits need to know of a document."""

    @property
    def group(self) -> str: ...

    @property
    def bytes(self) -> int: ...


def hashed(name: str) -> bytes:
    """A sort key that does not depend on what documents contain and is the same on every machine."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def assign(documents: Sequence[Sized], *, valid: int, test: int) -> dict[str, str]:
    """The split of every group.

    Groups are sorted by a hash of their names, giants last. The first groups are for the test, until it has at least
    `test` documents. The next groups are for validation, until it has at least `valid`. All others are for training.

    Args:
        documents: all of them, in any order.
        valid, test: how many documents to hold out, at least.

    Raises:
        UserError: nothing is left to train on.
    """
    count: dict[str, int] = {}
    size: dict[str, int] = {}
    for document in documents:
        count[document.group] = count.get(document.group, 0) + 1
        size[document.group] = size.get(document.group, 0) + document.bytes
    total = sum(size.values())

    def giant(group: str) -> bool:
        return size[group] > GIANT * total or count[group] >= max(valid, test)

    order = sorted(count, key=lambda group: (giant(group), hashed(group)))
    splits: dict[str, str] = {}
    held = {"test": 0, "valid": 0}
    for group in order:
        split = "test" if held["test"] < test else "valid" if held["valid"] < valid else "train"
        splits[group] = split
        if split != "train":
            held[split] += count[group]
    if "train" not in splits.values():
        raise UserError(
            f"there are {len(documents)} documents in {len(count)} groups; expected {test} for the test, {valid} for "
            "validation and more to train on. Give more, or set data.test_documents and data.valid_documents lower"
        )
    return splits
