"""Search engines with one interface: exact engines, and approximate engines that cost less.

An index is not part of the model's state: it can be built again from the ring at any time. An index of faiss_ivf that is
built again finds the same neighbours. The graph of faiss_hnsw depends on the order and portions in which pairs were added,
so a run that is resumed, or reads validation documents in between, can find other neighbours.
Shapes: B lanes, H heads, T queries, R slots, K head size, k neighbours, N readable pairs of a lane.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.errors import UserError
from memexp.model.knn_memory.exact_search import exact
from memexp.model.knn_memory.ring import Ring, newest_keys, readable_spans
from memexp.model.knn_memory.scores_plain import BLOCK_BYTES
from memexp.model.knn_memory.selection import Neighbours
from memexp.model.transformer.numerics import at_least_fp32, full_precision

INDEX_FROM = 1 << 20
"""From this many slots, `auto` uses an index on a CPU if faiss is installed; below, exact search was faster."""
PROBES = 1 / 16
"""Share of an index's lists that a search reads; with more than twice as many, exact search was faster."""
FEWEST_PROBES = 32
"""Smallest number of lists that a search reads: in a small ring, a missed neighbour costs more than reading a list."""
POINTS_A_LIST = 64
"""Pairs from which the centre of each list is learned; faiss's default of 256 took four times as long for equal recall."""


class Engine(Protocol):
    """Finds the best pairs for every query among the readable pairs."""

    def __call__(self, queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours: ...


APPROXIMATE = ("bucketed", "faiss_ivf", "faiss_hnsw")
"""Engines that miss some of the true neighbours."""


def build_engine(name: str) -> Engine:
    """Build the engine `name`.

    Raises:
        UserError: the engine needs faiss, which is not installed.
    """
    if name.startswith("faiss") and not find_spec("faiss"):
        raise UserError(
            f"arch.search is {name}, but the package faiss is not installed; expected `pip install 'memexp[faiss]'` (or "
            "'memexp[gpu]' for CUDA) first, or arch.search=exact"
        )
    engines: dict[str, Callable[[], Engine]] = {
        "exact": lambda: exact, "bucketed": lambda: bucketed, "faiss_flat": lambda: faiss_flat,
        "faiss_ivf": lambda: Indexed("ivf"), "faiss_hnsw": lambda: Indexed("hnsw"),
    }  # fmt: skip
    return engines[name]()


def chosen_engine(name: str, *, slots: int, device: torch.device) -> str:
    """The engine that `arch.search` names.

    For `auto` this is exact search, or with at least `INDEX_FROM` slots on a CPU an index, if faiss is installed.

    Args:
        device: the device of the ring.
    """
    if name != "auto":
        return name
    return "faiss_ivf" if slots >= INDEX_FROM and device.type == "cpu" and find_spec("faiss") else "exact"


def check_engine(name: str, device: torch.device) -> None:
    """Refuse an engine that cannot search a ring on this device.

    Raises:
        UserError: it is faiss_flat on CUDA, and the installed faiss is only for CPUs.
    """
    if name == "faiss_flat" and device.type == "cuda" and not hasattr(_faiss(), "StandardGpuResources"):
        raise UserError(
            "arch.search is faiss_flat on CUDA, but the installed package faiss is only for CPUs; expected the one for GPUs "
            "(`pip uninstall faiss-cpu`, then `pip install 'memexp[gpu]'`), or arch.search=exact"
        )


@torch.no_grad()
def bucketed(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours:
    """Approximate search: the best pair of each of `neighbours` buckets; it misses a pair with a better one in its bucket.

    A bucket has every `neighbours`-th pair, counted from the newest. So consecutive pairs are in different buckets, and the
    buckets do not depend on the position of the ring. This is the approximate search of the published code of Memorizing
    Transformers, with one bucket per neighbour.
    """
    lanes, heads, capacity, _ = ring.keys_BHRK.shape
    keys_BHRK, readable_BR = newest_keys(ring, capacity)
    queries_BHTK = queries_BHTK.to(keys_BHRK.dtype)
    size = -(-capacity // neighbours)
    void_B1R1 = ~readable_BR[:, None, :, None]
    block = max(1, BLOCK_BYTES // (8 * lanes * heads * capacity * keys_BHRK.element_size()))
    numbers, found = [], []
    with full_precision(queries_BHTK.device):
        for block_BHTK in queries_BHTK.split(block, dim=2):
            scores_BHRT = (keys_BHRK @ block_BHTK.mT).masked_fill_(void_B1R1, float("-inf"))
            filled = F.pad(scores_BHRT, (0, 0, 0, size * neighbours - capacity), value=float("-inf"))
            best = filled.unflatten(2, (size, neighbours)).max(2)
            order = best.values.mT.sort(-1, descending=True)
            number_BHTk = (best.indices * neighbours + torch.arange(neighbours, device=filled.device)[:, None]).mT
            numbers.append(number_BHTk.gather(-1, order.indices).clamp_max(capacity - 1))
            found.append(order.values > float("-inf"))
    slots_BHTk = (ring.position_B[0] - 1 - torch.cat(numbers, dim=2)) % capacity
    return Neighbours(slots_BHTk, torch.cat(found, dim=2))


@torch.no_grad()
def faiss_flat(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours:
    """Exact search by faiss's brute force over the readable pairs, on the device of the ring."""
    faiss = _faiss()
    result = _empty_result(queries_BHTK, neighbours)
    if on_gpu := queries_BHTK.device.type == "cuda":
        resources = _gpu_resources()
    for lane, head, slots_N in _readable(ring):
        keys_NK = at_least_fp32(ring.keys_BHRK[lane, head].index_select(0, slots_N))
        queries_TK, k = at_least_fp32(queries_BHTK[lane, head]).contiguous(), min(neighbours, len(slots_N))
        if on_gpu:
            _, places = faiss.knn_gpu(resources, queries_TK, keys_NK, k, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            faiss.omp_set_num_threads(torch.get_num_threads())
            _, places = faiss.knn(queries_TK.numpy(), keys_NK.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
        result.slots_BHTk[lane, head, :, :k] = slots_N[torch.as_tensor(places, device=slots_N.device)]
        result.found_BHTk[lane, head, :, :k] = True
    return result


class Indexed:
    """A faiss index for each lane and head that follows a ring: a search first adds the pairs written since the last one.

    Pairs are numbered in the order of writing, so a search can be limited to the numbers that are readable. The index is
    rebuilt for another ring, and each time that a quarter to a half of the readable pairs are new. The reasons are that
    lists are chosen for a certain number of pairs, that keys drift while a model learns, and that old pairs must go. Only
    the ring decides when to rebuild, and it still holds the pairs from which the lists are learned. So an index that is
    built again, after a search of another ring or when a run is resumed, has the same lists. If an earlier state of the
    ring is searched, the later pairs are removed from the index.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._keys: Tensor | None = None
        """Keys of the ring that is followed; kept, so that no other ring can have the same address in memory."""
        self._indexes: dict[tuple[int, int], _Follower] = {}

    @torch.no_grad()
    def __call__(self, queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours:
        _faiss().omp_set_num_threads(torch.get_num_threads())
        if (
            self._keys is None
            or self._keys.data_ptr() != ring.keys_BHRK.data_ptr()
            or self._keys.shape != ring.keys_BHRK.shape
        ):
            self._keys, self._indexes = ring.keys_BHRK.detach(), {}
        result = _empty_result(queries_BHTK, neighbours)
        capacity = ring.keys_BHRK.shape[2]
        counts = zip(ring.position_B.tolist(), ring.count_B.tolist(), strict=True)
        for lane, (position, count) in enumerate(counts):
            for head in range(queries_BHTK.shape[1] if count else 0):
                follower = self._indexes.setdefault((lane, head), _Follower(self.kind))
                follower.follow(ring.keys_BHRK[lane, head], position=position, count=count)
                queries_TK = at_least_fp32(queries_BHTK[lane, head]).cpu().contiguous().numpy()
                numbers_Tk = torch.from_numpy(follower.search(queries_TK, neighbours, position - count, position))
                result.slots_BHTk[lane, head] = (numbers_Tk.clamp_min(0) % capacity).to(queries_BHTK.device)
                result.found_BHTk[lane, head] = (numbers_Tk >= 0).to(queries_BHTK.device)
        return result


class _Follower:
    """The index of one lane and head."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.index: Any = None
        self.learned = range(0)
        """Numbers of the pairs from which its lists were learned."""
        self.first, self.last = 0, 0
        """Numbers of the pairs in the index: from `first` up to `last`, without `last`."""

    def follow(self, keys_RK: Tensor, *, position: int, count: int) -> None:
        """Update the index so that it has the `count` pairs that are readable at this position."""
        oldest, learned = position - count, to_learn_from(position, count)
        if self.index is not None and position < self.last and self.kind == "ivf":
            self.index.remove_ids(_faiss().IDSelectorRange(position, self.last))
            self.last = position
        rewound = position < self.last or oldest < self.first
        if self.index is None or rewound or learned != self.learned or oldest > self.last:
            self.index, self.learned = self._empty_index(_numbered(keys_RK, learned)), learned
            self.first, self.last = oldest, oldest
        if position > self.last:
            numbers = range(self.last, position)
            self.index.add_with_ids(_numbered(keys_RK, numbers), np.arange(numbers.start, numbers.stop))
            self.last = position

    def search(self, queries_TK: Any, neighbours: int, start: int, stop: int) -> Any:
        """Numbers of the best pairs from `start` up to `stop`, best first; -1 if there are no more."""
        faiss = _faiss()
        if self.kind == "ivf":
            readable = faiss.IDSelectorRange(start, stop, True)  # True: numbers in each list are sorted
            probes = max(FEWEST_PROBES, math.ceil(PROBES * self.index.nlist))
            return self.index.search(
                queries_TK, neighbours, params=faiss.SearchParametersIVF(sel=readable, nprobe=probes)
            )[1]
        readable = faiss.IDSelectorRange(start, stop)  # IndexIDMap translates the numbers for the graph
        candidates = max(64, 4 * neighbours)
        parameters = faiss.SearchParametersHNSW(sel=readable, efSearch=candidates)
        return self.index.search(queries_TK, neighbours, params=parameters)[1]

    def _empty_index(self, keys_NK: np.ndarray) -> Any:
        """An index without pairs, with lists learned from these keys."""
        faiss = _faiss()
        count, size = keys_NK.shape
        if self.kind == "hnsw":
            return faiss.IndexIDMap(faiss.IndexHNSWFlat(size, 32, faiss.METRIC_INNER_PRODUCT))
        lists = int(2 * (3 * count) ** 0.5)  # two to four times `count` pairs are readable
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, min(count, lists), faiss.METRIC_INNER_PRODUCT)
        index.own_fields, index.cp.min_points_per_centroid = False, 1
        index.cp.max_points_per_centroid, index.cp.niter = POINTS_A_LIST, 10
        index.train(keys_NK)
        return index


def to_learn_from(position: int, count: int) -> range:
    """The numbers of the pairs from which lists are learned, if `count` pairs are readable before `position`.

    They are a quarter to a half of the readable pairs, and stay readable until the next pairs are chosen.
    """
    size = max(1, 1 << count.bit_length() >> 2)
    stop = position // size * size
    return range(stop - size, stop)


def _numbered(keys_RK: Tensor, numbers: range) -> np.ndarray:
    """The keys of the pairs with these numbers, N K."""
    slots_N = torch.arange(numbers.start, numbers.stop) % len(keys_RK)
    array: np.ndarray = at_least_fp32(keys_RK[slots_N.to(keys_RK.device)]).cpu().contiguous().numpy()
    return array


@torch.no_grad()
def recall(found: Neighbours, queries_BHTK: Tensor, ring: Ring) -> Tensor:
    """Gauge: the share of the true neighbours of each lane's last token that the search found."""
    true = exact(queries_BHTK[:, :, -1:], ring, found.slots_BHTk.shape[-1])
    last_BHk = found.slots_BHTk[:, :, -1].masked_fill(~found.found_BHTk[:, :, -1], -1)
    hit_BHk = (true.slots_BHTk[:, :, 0, :, None] == last_BHk[:, :, None]).any(-1) & true.found_BHTk[:, :, 0]
    return hit_BHk.sum() / true.found_BHTk.sum().clamp_min(1)


def _faiss() -> Any:
    """The package faiss; imported late because it is optional, and untyped because its type declarations are wrong."""
    import faiss

    return faiss


@cache
def _gpu_resources() -> Any:
    """The resources of faiss on a GPU, including memory that it reserves."""
    import faiss.contrib.torch_utils  # lets faiss accept tensors

    return faiss.StandardGpuResources()


def _empty_result(queries_BHTK: Tensor, neighbours: int) -> Neighbours:
    size = (*queries_BHTK.shape[:3], neighbours)
    device = queries_BHTK.device
    return Neighbours(
        torch.zeros(size, dtype=torch.long, device=device), torch.zeros(size, dtype=torch.bool, device=device)
    )


def _readable(ring: Ring) -> list[tuple[int, int, Tensor]]:
    """Lane, head and readable slots, for each lane and head with readable slots."""
    device = ring.keys_BHRK.device
    return [
        (lane, head, torch.cat([torch.arange(start, stop, device=device) for start, stop in spans]))
        for lane, spans in enumerate(readable_spans(ring))
        for head in range(ring.keys_BHRK.shape[1])
        if spans
    ]
