"""Which documents, or which parts of them, are trained on, which are for validation and which for the test.

The source may say it. Otherwise settings give numbers of documents (`assign`), or nothing is given. Then whole documents are held
out if there are enough of them (`hold_out`); if not, the text is cut by bytes (`cut`).
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from memexp.errors import UserError
from memexp.wording import plural

SPLITS = ("train", "valid", "test")
HELD_OUT = ("valid", "test")

GIANT = 0.1
"""A group is a giant if it has more than this share of all text, or as many documents as a split needs. Giants are held
out last. So most text stays for training, and no held-out split consists of one group alone."""

PERCENT = 5
"""What a held-out split gets of the text if nothing is given, as enwik8 and text8 are split."""

MOST_PERCENT = 10
"""What it gets at most, of the text and of the documents. So at least four fifths are trained on."""

DOCUMENTS = 8
"""What it gets at least, if that is within `MOST_PERCENT`: as many as are scored after training."""

FEWEST = 4
"""With fewer documents the spread between documents says little, so then documents are cut."""

NEEDED = FEWEST * 100 // MOST_PERCENT
"""The number of documents from which whole ones are held out."""

BYTES = 10_000
"""What a held-out split gets at least: about 3,000 tokens, so that a mean over them is known to a few percent."""

GAP = 1000
"""Bytes between the parts of a cut document that are in no split, or as many as its held-out part has if that is less: a sentence, a
verse or a function is not on both sides. No model reads across, for each part is a document of its own."""

SEARCHED = 1000
"""A cut is made at the last line end in so many bytes before its place, or as many as the held-out part has if that is less."""

PIECE = 16_000
"""A held-out part is cut into documents of about so many bytes or more, up to `DOCUMENTS` of them: there is a spread between documents, and
each is long enough to fill the memory that a small model has by default."""

RULE = {
    "percent": PERCENT, "most_percent": MOST_PERCENT, "documents": DOCUMENTS, "fewest": FEWEST, "bytes": BYTES, "gap": GAP,
    "searched": SEARCHED, "piece": PIECE,
}  # fmt: skip
"""What determines the splits if nothing is given. It is part of what determines a corpus."""


class Sized(Protocol):
    """What the splits need to know of a document."""

    @property
    def group(self) -> str: ...

    @property
    def bytes(self) -> int: ...


class Part(NamedTuple):
    """A part of a cut document, from byte `start` to before byte `end`; bytes of no part are left out."""

    split: str
    start: int
    end: int


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
    size = _sizes(documents)
    for document in documents:
        count[document.group] = count.get(document.group, 0) + 1
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
            "validation and more to train on. Give more, set data.test_documents and data.valid_documents lower, or set both to "
            "null, and few documents are cut by bytes"
        )
    return splits


def number_of(documents: Sequence[Sized]) -> int:
    """How many documents a split gets if a number is given for the other split only."""
    groups = len(_sizes(documents))
    return max(1, min(max(DOCUMENTS, groups * PERCENT // 100), groups * MOST_PERCENT // 100))


def hold_out(documents: Sequence[Sized]) -> dict[str, str] | None:
    """The split of every group if nothing is given; None if there are too few groups.

    Groups are sorted by a hash of their names. The first are for the test, until it has `PERCENT` of the text, `DOCUMENTS` groups and
    `BYTES`; the next are for validation, until it has as much. Neither gets more than `MOST_PERCENT` of the groups or of the text: a
    group that is too large for it is left to the next split. All others are for training.
    """
    size = _sizes(documents)
    total, order = sum(size.values()), sorted(size, key=hashed)
    splits = dict.fromkeys(size, "train")
    for split in ("test", "valid"):
        groups = held = 0
        for group in order:
            full = groups >= DOCUMENTS and held >= BYTES and held * 100 >= total * PERCENT
            if full or (groups + 1) * 100 > len(order) * MOST_PERCENT:
                break
            if splits[group] == "train" and (held + size[group]) * 100 <= total * MOST_PERCENT:
                splits[group] = split
                groups, held = groups + 1, held + size[group]
        if groups < FEWEST:
            return None
    return splits


def to_cut(sizes: Sequence[int]) -> list[bool]:
    """Which documents are cut: all but those that have less than a tenth of the longest one's bytes, which are trained on.

    Their held-out parts would be too short to say anything, and would be scored in place of longer ones.
    """
    longest = max(sizes)
    return [10 * size >= longest for size in sizes]


def held_share(total: int) -> float | None:
    """The share of each cut document that a held-out split gets: `PERCENT`, or more for `BYTES`; None if that is too large a share.

    Args:
        total: bytes of all documents that are cut.
    """
    return max(PERCENT / 100, BYTES / total) if total * MOST_PERCENT >= BYTES * 100 else None


def cut(size: int, share: float, before: Callable[[int, int], bytes]) -> list[Part]:
    """Cut a document: the first part is trained on, the next is for validation, the last for the test.

    Args:
        size: of the document, in bytes.
        share: of the document that each held-out split gets, or slightly more.
        before: gives the bytes of the document from one place to another.

    Returns:
        The parts in their order: one to train on, one or more each for validation and test.
    """
    held = int(size * share)
    reach, gap = min(SEARCHED, held), min(GAP, held)

    def border(place: int) -> int:
        return place - after_border(before(max(0, place - reach), place + 1))

    test = border(size - held)
    valid_end = border(test - gap)
    valid = border(valid_end - held)
    parts = [Part("train", 0, border(valid - gap))]
    for split, start, end in (("valid", valid, valid_end), ("test", test, size)):
        pieces = max(1, min(DOCUMENTS, (end - start) // PIECE))
        borders = [start, *(border(start + (end - start) * number // pieces) for number in range(1, pieces)), end]
        parts += [Part(split, *ends) for ends in pairwise(borders)]
    return parts


def after_border(window: bytes) -> int:
    """How many bytes before the last byte of a window the best place for a cut is: after a line end, else after white space, else
    between two characters of UTF-8.

    Args:
        window: bytes of a text, of which the last would be the first after the cut.
    """
    last = len(window) - 1
    if place := window.rfind(b"\n", 0, last) + 1 or 1 + max(
        window.rfind(white, 0, last) for white in (b" ", b"\t", b"\r")
    ):
        return last - place
    continued = 0
    while continued < min(last, 3) and window[last - continued] & 0xC0 == 0x80:
        continued += 1
    return continued


def too_little(sizes: Sequence[int]) -> str:
    """The error if there are too few documents to hold out whole ones and too few bytes to cut them."""
    whole = (
        "" if len(sizes) < 3 else
        f"; or say how many documents to hold out whole, as in data.valid_documents={max(1, len(sizes) // 10)} "
        f"data.test_documents={max(1, len(sizes) // 10)}"
    )  # fmt: skip
    return (
        f"there {'is' if len(sizes) == 1 else 'are'} {plural(len(sizes), 'document')} of {sum(sizes):,} bytes in all; expected at least "
        f"{NEEDED} different ones to hold out whole ones, or {BYTES * 100 // MOST_PERCENT:,} bytes to cut them, so that validation and test "
        f"get {BYTES:,} bytes each. Give more text{whole}"
    )


def uncuttable(groups: int) -> str:
    """The error if there are too few documents to hold out whole ones, and what they have is of the whole."""
    return (
        f"there are {groups} different documents with labels or answers, which cannot be cut; expected at least {NEEDED}. Give more, or say "
        f"how many to hold out, as in data.valid_documents={max(1, groups // 10)} data.test_documents={max(1, groups // 10)}"
    )


def said_of_numbers(*, valid: int, test: int) -> str:
    """What is said of splits by `assign`."""
    return f"split by whole documents: at least {test:,} for the test and {valid:,} for validation (data.test_documents, data.valid_documents)"


def said_of_shares() -> str:
    """What is said of splits by `hold_out`."""
    return (
        f"split by whole documents: test and valid get {PERCENT} % of the text each, at least {DOCUMENTS} documents and {BYTES:,} bytes, but "
        f"at most {MOST_PERCENT} % of the documents and of the text"
    )


def said_of_cuts(share: float, *, documents: int, groups: int, whole: int, left_out: int) -> str:
    """What is said of splits by `cut`.

    Args:
        documents: how many were cut.
        groups: how many different documents there are.
        whole: how many were too short to be cut.
        left_out: bytes between the parts.
    """
    why = (
        f"{plural(groups, 'document')}; from {NEEDED} on, whole ones are held out" if groups < NEEDED else
        f"so much do {groups:,} documents differ in size that of whole ones test or valid would get fewer than {FEWEST}"
    )  # fmt: skip
    of_each, held = ("" if documents == 1 else " of each"), f"{100 * share:.3g} %"
    short = f"; short, so trained on whole: {plural(whole, 'document')}" if whole else ""
    return (
        f"split by bytes ({why}): the last {held}{of_each} for the test, the {held} before it for valid, the rest to train on; {left_out:,} "
        f"bytes between them left out, so that no passage is on both sides{short}"
    )


def _sizes(documents: Sequence[Sized]) -> dict[str, int]:
    """Bytes of each group."""
    size: dict[str, int] = {}
    for document in documents:
        size[document.group] = size.get(document.group, 0) + document.bytes
    return size
