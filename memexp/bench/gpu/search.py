"""What the device reaches, and exact search beside it: values against brute force on a part, and time.

Shapes: B lanes, H heads, T queries, R slots, K head size, k neighbours.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.bench.gpu.device import Rates, rates, seconds_of
from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.values import difference
from memexp.bench.measurement import Figure
from memexp.model.knn_memory import scores_fused, scores_plain
from memexp.model.knn_memory.accelerator_search import Scores, by_scores, fault_of
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.selection import Neighbours

OVER_FLOOR = 4.0
"""Largest wanted time of the fused search, relative to reading the keys or multiplying them once in half precision."""
SCORES = 1e-5
"""Largest difference of scores, relative to the largest: about what sums in fp32 round."""
KEYS_SHARE = 0.5
"""Largest share of the device's memory for the keys."""
SOME = 64
"""Queries that are compared with brute force."""
MODULES: dict[str, Scores] = {"fused": scores_fused, "plain": scores_plain}


def device_rates(ground: Ground) -> Iterator[Figure]:
    """The rates of a copy and of matrix products; nothing is wanted of them."""
    found = rates(ground)
    yield Figure("a copy reads and writes", "measured", "measured", "B/s", [found.copied], [found.copied])
    yield Figure("a matrix product", "bf16", "fp32", "FLOP/s", [found.half], [found.full])


@torch.no_grad()
def search(ground: Ground) -> Iterator[Figure]:
    """Search full memories of each size, with keys in each precision and by each module of scores."""
    measured = rates(ground)
    for slots in ground.slots:
        key_bytes = ground.heads * slots * ground.head_size * 4
        lanes = ground.lanes
        while lanes and lanes * key_bytes > KEYS_SHARE * ground.memory:
            lanes //= 2
        if not lanes:
            yield Figure.without(
                f"search of {slots:,} slots", f"left out: one lane's keys in fp32 are {key_bytes / 1e9:.1f} GB"
            )
            continue
        for kind in (torch.float32, torch.bfloat16):
            yield from _of_kind(ground, slots, lanes, kind, measured)


def _of_kind(ground: Ground, slots: int, lanes: int, kind: torch.dtype, measured: Rates) -> Iterator[Figure]:
    torch.manual_seed(0)
    on = torch.device(ground.device)
    queries_BHTK = F.normalize(torch.randn(lanes, ground.heads, ground.length, ground.head_size, device=on), dim=-1)
    keys_BHRK = torch.empty(lanes, ground.heads, slots, ground.head_size, dtype=kind, device=on)
    for keys_HRK in keys_BHRK:
        keys_HRK.copy_(F.normalize(torch.randn(keys_HRK.shape, device=on), dim=-1))
    position_B = torch.full((lanes,), slots + slots // 3, device=on)
    ring = Ring(keys_BHRK, keys_BHRK, position_B, torch.full((lanes,), slots, device=on), slots)
    name = str(kind).removeprefix("torch.")
    floor = measured.floor(
        bytes=keys_BHRK.nbytes, operations=2 * queries_BHTK.numel() * slots
    )  # every query with every key of its lane and head
    for module in ground.searches:
        scores = MODULES[module]
        what = f"search of {slots:,} slots, {lanes} lanes, {name} keys, {module}"
        fault = fault_of(scores, on, kind, ground.head_size) if module == "fused" else ""
        if fault:
            yield Figure.without(what, f"failed: {fault}", failed=True)
            continue

        def work(scores: Scores = scores) -> Neighbours:
            return by_scores(scores, queries_BHTK, ring, ground.neighbours)

        yield difference(f"scores of the {what}", _distance(queries_BHTK, ring, work()), SCORES, "brute force")
        seconds = seconds_of(work, ground)
        at_most = OVER_FLOOR if module == "fused" else None
        yield Figure(what, module, "floor", "s", seconds, [floor] * len(seconds), ratio_at_most=at_most)


def _distance(queries_BHTK: Tensor, ring: Ring, found: Neighbours) -> float:
    """The largest difference from the best scores of some queries in the first and the last lane and head; inf if a pair is missing."""
    largest = 0.0
    for place in (0, -1):
        queries_TK = queries_BHTK[place, place, :SOME].double()
        scores_TR = queries_TK @ ring.keys_BHRK[place, place].double().T
        slots_Tk = found.slots_BHTk[place, place, :SOME]
        if not found.found_BHTk[place, place, :SOME].all() or (slots_Tk.sort().values.diff() == 0).any():
            return float("inf")
        best_Tk = scores_TR.topk(slots_Tk.shape[1], dim=-1).values
        seen_Tk = scores_TR.gather(-1, slots_Tk).sort(descending=True).values
        largest = max(largest, ((best_Tk - seen_Tk).abs().amax() / best_Tk.amax()).item())
    return largest
