"""How far back a document repeats itself: what a memory of each size could retrieve.

Shapes: N tokens of a document, G = N - n + 1 n-grams in it.
"""

import numpy as np


def distances(tokens_N: np.ndarray, n: int) -> np.ndarray:
    """Tokens from each n-gram back to its previous occurrence in the document; 0 if there is none.

    Returns:
        int64, G; overlapping n-grams count, so the smallest distance is 1.
    """
    hash_G = _hashes(tokens_N, n)
    order_G = np.argsort(hash_G, kind="stable")
    repeated = hash_G[order_G[1:]] == hash_G[order_G[:-1]]
    distance_G = np.zeros(len(hash_G), dtype=np.int64)
    distance_G[order_G[1:][repeated]] = np.diff(order_G)[repeated]
    return distance_G


def counts_by_distance(distance_G: np.ndarray) -> np.ndarray:
    """How many distances d have 2^i <= d < 2^(i+1), for i from 0 to 62; zeros are not counted."""
    exponent = np.frexp(distance_G[distance_G > 0])[1] - 1
    return np.bincount(exponent, minlength=63)


def _hashes(tokens_N: np.ndarray, n: int) -> np.ndarray:
    """A hash of 64 bits for each n-gram. Two different n-grams have the same hash with a chance of at most 2^-46."""
    factors = np.random.default_rng(0).integers(1 << 64, size=n, dtype=np.uint64) | np.uint64(1)
    count = max(0, len(tokens_N) - n + 1)
    hash_G = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(factors):
        hash_G += tokens_N[place : place + count].astype(np.uint64) * factor
    return hash_G
