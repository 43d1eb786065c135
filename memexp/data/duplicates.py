"""Near-duplicates: documents most of whose text also stands in a longer document. Both share many runs of words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

WORDS = 13
"""Length of a run."""

SHARE = 0.3
"""A document is a near-duplicate of a longer document that holds more than this share of its runs."""


class Overlap(NamedTuple):
    """What a document shares with a longer document."""

    other: str
    share: float
    """Of its own different runs of words."""


def near_duplicates(texts: Mapping[str, str]) -> dict[str, Overlap]:
    """The near-duplicates, each with the longer document that shares most with it. Words are separated by white space."""
    ids = sorted(texts, key=lambda id: (-len(texts[id]), id))
    known: dict[str, int] = {}
    runs = [_runs(texts[id], known) for id in ids]
    hashes = np.concatenate([*runs, np.empty(0, np.uint64)])
    owners = np.repeat(np.arange(len(ids)), [len(each) for each in runs])
    order = np.argsort(hashes, kind="stable")  # of equal runs, that of the longest document first
    hashes, owners = hashes[order], owners[order]
    found = {}
    for place, own in enumerate(runs):
        first = np.searchsorted(hashes, own, side="left")
        # A cheap test that settles nearly all documents: what is shared with any one longer document is at most what is
        # shared with all longer documents together.
        if not len(own) or np.mean(owners[first] < place) <= SHARE:
            continue
        count = np.searchsorted(hashes, own, side="right") - first
        starts = np.repeat(first - np.cumsum(count) + count, count)
        others = owners[starts + np.arange(len(starts))]
        shared = np.bincount(others[others < place], minlength=1)
        most = int(shared.argmax())
        if shared[most] > SHARE * len(own):
            found[ids[place]] = Overlap(ids[most], float(shared[most] / len(own)))
    return found


def _runs(text: str, known: dict[str, int]) -> np.ndarray:
    """Hashes of the different runs of words of a text, sorted, uint64.

    Args:
        known: a number for every word met so far; new ones are added.
    """
    numbers = np.array([known.setdefault(word, len(known)) for word in text.split()], dtype=np.uint64)
    length = len(numbers) - WORDS + 1
    if length < 1:
        return np.empty(0, np.uint64)
    words = _scattered(numbers)
    hashes = np.zeros(length, np.uint64)
    for place in range(WORDS):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words[place : place + length]
    return np.unique(hashes)


def _scattered(numbers: np.ndarray) -> np.ndarray:
    """The last step of SplitMix64: consecutive numbers become numbers that look random."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
