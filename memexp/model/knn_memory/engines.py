"""Who searches a ring: engines behind one call, exact ones and approximate ones that cost less.

An engine that keeps an index keeps it beside the model's state, as a copy that can be made again from the ring at any time. That
of faiss_ivf then finds the same; a graph (faiss_hnsw) depends on the order and portions in which it was written, so a run
that is resumed, or looks at validation documents in between, finds others of the neighbours.
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
from memexp.model.knn_memory.exact_search import ACCELERATOR_BLOCK_BYTES, Neighbours, exact
from memexp.model.knn_memory.ring import Ring, newest_keys, readable_spans
from memexp.model.transformer.numerics import at_least_fp32

INDEX_FROM = 1 << 20
"""Slots from which `auto` takes an index on a CPU, if faiss is installed; below, exact search was faster in the bench."""
PROBES = 1 / 16
"""Share of an index's lists that a search looks into; with more than twice as many, exact search was faster."""
FEWEST_PROBES = 32
"""Lists looked into however few there are: in a small ring a miss costs more than a look."""
POINTS_A_LIST = 64
"""Pairs a list that its centre is learned from; faiss would take 256, and as good lists took four times as long."""


class Engine(Protocol):
    """Finds the best pairs for every query among the readable ones."""

    def __call__(self, queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours: ...


APPROXIMATE = ("bucketed", "faiss_ivf", "faiss_hnsw")
"""Engines that miss some of the true neighbours."""


def build_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UserError: it needs faiss, which is not installed.
    """
    if name.startswith("faiss") and not find_spec("faiss"):
        raise UserError(
            f"arch.search is {name}, but there is no package faiss; expected the extra `faiss` (`pip install 'memexp[faiss]'`, or "
            "[gpu] for CUDA), or arch.search=exact"
        )
    engines: dict[str, Callable[[], Engine]] = {
        "exact": lambda: exact, "bucketed": lambda: bucketed, "faiss_flat": lambda: faiss_flat,
        "faiss_ivf": lambda: Indexed("ivf"), "faiss_hnsw": lambda: Indexed("hnsw"),
    }  # fmt: skip
    return engines[name]()


def chosen_engine(name: str, *, slots: int, device: torch.device) -> str:
    """What `arch.search` asks for where the ring is; for `auto` the exact one, or from `INDEX_FROM` slots on a CPU an index, if
    there is faiss."""
    if name != "auto":
        return name
    return "faiss_ivf" if slots >= INDEX_FROM and device.type == "cpu" and find_spec("faiss") else "exact"


@torch.no_grad()
def bucketed(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Neighbours:
    """The best of each of `neighbours` buckets: a pair is missed where a better one shares its bucket.

    A bucket is every `neighbours`-th pair, counted from the newest, so that pairs written one after another do not compete
    and that which do does not depend on where the ring stands. This is the approximate search of the published code of
    Memorizing Transformers, which has one bucket a neighbour.
    """
    lanes, heads, capacity, _ = ring.keys_BHRK.shape
    keys_BHRK, readable_BR = newest_keys(ring, capacity)
    queries_BHTK = queries_BHTK.to(keys_BHRK.dtype)
    size = -(-capacity // neighbours)
    void_B1R1 = ~readable_BR[:, None, :, None]
    block = max(1, ACCELERATOR_BLOCK_BYTES // (8 * lanes * heads * capacity * keys_BHRK.element_size()))
    numbers, found = [], []
    with torch.autocast(queries_BHTK.device.type, enabled=False):
        for some_BHTK in queries_BHTK.split(block, dim=2):
            scores_BHRT = (keys_BHRK @ some_BHTK.mT).masked_fill_(void_B1R1, float("-inf"))
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
    """faiss by brute force over what is readable, on the ring's device; exact."""
    faiss = _faiss()
    result = _nothing(queries_BHTK, neighbours)
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
    """A faiss index for each lane and head that follows a ring: what was written since the last search is added first.

    Pairs are numbered as they were written, so a search can be told which numbers are readable. The index is built anew
    when another ring is searched, and each time that a quarter to a half of what is readable has been written: lists are
    chosen for so many pairs, keys drift while a model learns, and old ones must go. When that is depends on the ring alone,
    and what lists are learned from is still in it, so an index that is made again (another ring was searched, a run was
    resumed) has the same lists. Where a ring is searched as it was earlier, what came later is taken out again.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._keys: Tensor | None = None
        """Of the ring that is followed; held, so that no other one can be at its place in memory."""
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
        result = _nothing(queries_BHTK, neighbours)
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
        """Numbers of the pairs that its lists were learned from."""
        self.first, self.last = 0, 0
        """Numbers of the pairs that it holds: from the first, up to but not including the last."""

    def follow(self, keys_RK: Tensor, *, position: int, count: int) -> None:
        """Hold what is readable at this position."""
        began, learned = position - count, to_learn_from(position, count)
        if self.index is not None and position < self.last and self.kind == "ivf":
            self.index.remove_ids(_faiss().IDSelectorRange(position, self.last))
            self.last = position
        rewound = position < self.last or began < self.first
        if self.index is None or rewound or learned != self.learned or began > self.last:
            self.index, self.learned = self._empty(_numbered(keys_RK, learned)), learned
            self.first, self.last = began, began
        if position > self.last:
            numbers = range(self.last, position)
            self.index.add_with_ids(_numbered(keys_RK, numbers), np.arange(numbers.start, numbers.stop))
            self.last = position

    def search(self, queries_TK: Any, neighbours: int, start: int, stop: int) -> Any:
        """Numbers of the best pairs from `start` up to `stop`, best first; -1 where there are no more."""
        faiss = _faiss()
        if self.kind == "ivf":
            among = faiss.IDSelectorRange(start, stop, True)  # each list has its numbers in order
            probes = max(FEWEST_PROBES, math.ceil(PROBES * self.index.nlist))
            return self.index.search(
                queries_TK, neighbours, params=faiss.SearchParametersIVF(sel=among, nprobe=probes)
            )[1]
        among = faiss.IDSelectorRange(start, stop)  # translated by the map that gives the graph its numbers
        wide = max(64, 4 * neighbours)
        return self.index.search(queries_TK, neighbours, params=faiss.SearchParametersHNSW(sel=among, efSearch=wide))[1]

    def _empty(self, keys_NK: np.ndarray) -> Any:
        """An index that holds nothing, with lists learned from these keys."""
        faiss = _faiss()
        count, size = keys_NK.shape
        if self.kind == "hnsw":
            return faiss.IndexIDMap(faiss.IndexHNSWFlat(size, 32, faiss.METRIC_INNER_PRODUCT))
        lists = int(2 * (3 * count) ** 0.5)  # two to four times as many are readable
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, min(count, lists), faiss.METRIC_INNER_PRODUCT)
        index.own_fields, index.cp.min_points_per_centroid = False, 1
        index.cp.max_points_per_centroid, index.cp.niter = POINTS_A_LIST, 10
        index.train(keys_NK)
        return index


def to_learn_from(position: int, count: int) -> range:
    """The pairs that lists are learned from, by number, where `count` are readable before `position`: a quarter to a half of them,
    readable until the next ones take their place."""
    size = max(1, 1 << count.bit_length() >> 2)
    stop = position // size * size
    return range(stop - size, stop)


def _numbered(keys_RK: Tensor, numbers: range) -> np.ndarray:
    """The keys with these numbers, N K."""
    slots_N = torch.arange(numbers.start, numbers.stop) % len(keys_RK)
    array: np.ndarray = at_least_fp32(keys_RK[slots_N.to(keys_RK.device)]).cpu().contiguous().numpy()
    return array


@torch.no_grad()
def recall(found: Neighbours, queries_BHTK: Tensor, ring: Ring) -> Tensor:
    """Gauge: the part of the true neighbours of each lane's last token that was found."""
    true = exact(queries_BHTK[:, :, -1:], ring, found.slots_BHTk.shape[-1])
    last_BHk = found.slots_BHTk[:, :, -1].masked_fill(~found.found_BHTk[:, :, -1], -1)
    hit_BHk = (true.slots_BHTk[:, :, 0, :, None] == last_BHk[:, :, None]).any(-1) & true.found_BHTk[:, :, 0]
    return hit_BHk.sum() / true.found_BHTk.sum().clamp_min(1)


def _faiss() -> Any:
    """Not every installation has it, and the types that it declares are not those it has."""
    import faiss

    return faiss


@cache
def _gpu_resources() -> Any:
    """What faiss computes with on a GPU, and room that it reserves there.

    Raises:
        UserError: this faiss is for CPUs alone.
    """
    faiss = _faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise UserError(
            "arch.search is faiss_flat on CUDA, but the package faiss here is for CPUs alone; expected that of the extra [gpu] in "
            "its place (`pip uninstall faiss-cpu`, then `pip install 'memexp[gpu]'`), or arch.search=exact"
        )
    import faiss.contrib.torch_utils  # has faiss take tensors

    return faiss.StandardGpuResources()


def _nothing(queries_BHTK: Tensor, neighbours: int) -> Neighbours:
    size = (*queries_BHTK.shape[:3], neighbours)
    device = queries_BHTK.device
    return Neighbours(
        torch.zeros(size, dtype=torch.long, device=device), torch.zeros(size, dtype=torch.bool, device=device)
    )


def _readable(ring: Ring) -> list[tuple[int, int, Tensor]]:
    """Lane, head and the readable slots, for each that has any."""
    device = ring.keys_BHRK.device
    return [
        (lane, head, torch.cat([torch.arange(start, stop, device=device) for start, stop in spans]))
        for lane, spans in enumerate(readable_spans(ring))
        for head in range(ring.keys_BHRK.shape[1])
        if spans
    ]
