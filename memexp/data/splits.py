"""Which documents are trained on, which are for validation and which for the test."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

from memexp.errors import UserError

SPLITS = ("train", "valid", "test")
HELD_OUT = ("valid", "test")

GIANT = 0.1
"""A group with more than this share of all text is a giant, and so is one of as many documents as a split needs. Giants
are the last to be held out, so that most text stays for training and no held-out split is of one group alone."""


class Sized(Protocol):
    """A document as far as the splits look at it."""

    @property
    def group(self) -> str: ...

    @property
    def bytes(self) -> int: ...


def hashed(name: str) -> bytes:
    """An order that has nothing to do with what documents hold and is the same on every machine."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def assign(documents: Sequence[Sized], *, valid: int, test: int) -> dict[str, str]:
    """The split of every group.

    Groups stand in the order of a hash of their names, giants last. The first ones are for the test, until that has at
    least `test` documents; the next ones for validation likewise; all others for training.

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
