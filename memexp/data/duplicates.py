"""Documents that are for the most part in another one, found by the runs of words that they share."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

WORDS = 13
"""Length of a run."""

SHARE = 0.3
"""A document with more than this share of its runs in one longer document is its near-duplicate."""


class Overlap(NamedTuple):
    """What a document has in common with a longer one."""

    other: str
    share: float
    """Of its own different runs of words."""


def near_duplicates(texts: Mapping[str, str]) -> dict[str, Overlap]:
    """Which documents are near-duplicates, and of which one they have the most. Words are what white space separates."""
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
        # Cheap, and enough for nearly all: with all longer documents together it shares no less than with one.
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
    """SplitMix64's finish: numbers in a row become numbers that look drawn at random."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
