"""Search with faiss, to measure beside our search if faiss is installed: one index for each head.

Shapes: B lanes (1), H heads, T queries, R slots, K head size, k neighbours.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from memexp.bench.measurement import clock
from memexp.model.knn_memory.ring import Ring

RECALL = 0.97
"""Share of the true neighbours that an approximate index has to find."""
PROBES = (8, 16, 32, 64, 128, 256, 512)
"""Numbers of lists to probe, tried in turn."""


def installed() -> bool:
    """Whether faiss is installed."""
    return find_spec("faiss") is not None


def flat(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Callable[[], object]:
    """A function that searches every head by brute force; its indexes already hold the keys."""
    faiss = _faiss()
    indexes = [faiss.IndexFlatIP(ring.keys_BHRK.shape[-1]) for _ in range(ring.keys_BHRK.shape[1])]
    for index, keys_RK in zip(indexes, ring.keys_BHRK[0], strict=True):
        index.add(keys_RK.numpy())
    return lambda: [
        index.search(queries.numpy(), neighbours) for index, queries in zip(indexes, queries_BHTK[0], strict=True)
    ]


class Ivf:
    """An inverted-file index, which probes as many lists as it needs to find `RECALL` of the true neighbours."""

    def __init__(self, queries_BHTK: Tensor, ring: Ring, neighbours: int, true_BHTk: Tensor) -> None:
        faiss = _faiss()
        _, _heads, slots, head_size = ring.keys_BHRK.shape
        self._queries, self._keys, self._neighbours = queries_BHTK[0], ring.keys_BHRK[0], neighbours
        self.lists = max(1, int(2 * slots**0.5))
        now = clock()
        began = now()
        self._indexes = []
        for keys_RK in self._keys:
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(head_size), head_size, self.lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.min_points_per_centroid = 1
            index.train(keys_RK.numpy())
            index.add(keys_RK.numpy())
            self._indexes.append(index)
        self.build_seconds = now() - began
        self.probes, self.recall = 0, 0.0
        for self.probes in PROBES:
            for index in self._indexes:
                index.nprobe = self.probes
            self.recall = self._recall(true_BHTk[0])
            if self.recall >= RECALL:
                break

    def step(self) -> float:
        """Seconds to search once and insert a key for each query, plus these keys' share of building the index."""
        length, now = self._queries.shape[1], clock()
        began = now()
        self._search()
        for index, keys_RK in zip(self._indexes, self._keys, strict=True):
            index.add(keys_RK[:length].numpy())
        seconds = now() - began
        for index, keys_RK in zip(self._indexes, self._keys, strict=True):  # restores the index for the next round
            index.remove_ids(_faiss().IDSelectorRange(len(keys_RK), len(keys_RK) + length))
        return seconds + self.build_seconds * length / self._keys.shape[1]

    def _search(self) -> list[Any]:
        return [
            index.search(queries.numpy(), self._neighbours)[1]
            for index, queries in zip(self._indexes, self._queries, strict=True)
        ]

    def _recall(self, true_HTk: Tensor) -> float:
        found_HTk = torch.stack([torch.from_numpy(slots) for slots in self._search()])
        return (true_HTk[..., None] == found_HTk[..., None, :]).any(-1).float().mean().item()


def _faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
