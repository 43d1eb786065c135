"""Exact search of a full ring beside scores and `torch.topk`, and beside its floor: the score product alone.

Shapes: B lanes (one), H heads, T queries, R slots, K head size, k neighbours, W slots of a tile.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.bench.figures import Figure, Say, Side, in_turn, timed
from memexp.bench.work import Work
from memexp.config import BenchConfig
from memexp.model.ring import Ring, empty_ring
from memexp.model.search import exact
TILE = 1024

RATIO = 0.4
"""2.5 times faster."""
ALIKE = 64
"""Pairs of each cluster, where keys come in clusters."""
SPREAD = 0.02
"""Standard deviation of a cluster's keys in every coordinate, against 1 in all together."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time of one search of every head; before that, whether it finds the same scores.

    A search may be faster where the best pairs stand out, so keys that are all alike are searched too.
    """
    torch.manual_seed(0)
    queries_BHTK = F.normalize(torch.randn(1, work.heads, work.segment, work.head_size), dim=-1)
    rings = {
        "random": full_ring(torch.randn(work.heads, config.slots, work.head_size)),
        "clustered": full_ring(clustered(queries_BHTK[0], slots=config.slots)),
    }
    sides: dict[str, Side] = {}
    for name, ring in rings.items():
        search = partial(exact, queries_BHTK, ring, work.neighbours)
        sort = partial(scores_topk, queries_BHTK, ring, work.neighbours)
        found_BHTk = (queries_BHTK @ ring.keys_BHRK.transpose(-1, -2)).gather(-1, search().slots_BHTk)
        torch.testing.assert_close(found_BHTk, sort(), rtol=0, atol=1e-5)
        sides |= {f"{name} ours": timed(search), f"{name} topk": timed(sort)}
    sides["product"] = timed(partial(product, queries_BHTK, rings["random"]))
    found = in_turn(sides, repeats=config.repeats, say=say)
    what = f"search of {config.slots:,} slots, {work.heads} x {work.segment} queries, k {work.neighbours}"
    measured = {name: (found[f"{name} ours"], found[f"{name} topk"]) for name in rings}
    return [
        Figure(f"{what}, random keys", "exact", "scores + topk", "s", *measured["random"], ratio_at_most=RATIO),
        Figure(f"{what}, clustered keys", "exact", "scores + topk", "s", *measured["clustered"]),
        Figure(f"{what}, random keys", "exact", "score product alone", "s", found["random ours"], found["product"]),
    ]


def full_ring(keys_HRK: Tensor) -> Ring:
    """One lane whose every slot holds one of these keys, brought to unit norm."""
    heads, slots, head_size = keys_HRK.shape
    ring = empty_ring(lanes=1, heads=heads, head_size=head_size, slots=slots, slack=0, like=keys_HRK)
    ring.keys_BHRK.copy_(F.normalize(keys_HRK, dim=-1))
    return ring._replace(count_B=torch.full((1,), slots))


def clustered(queries_HTK: Tensor, *, slots: int) -> Tensor:
    """Keys in clusters, H R K: around the queries as far as there is room, and more pairs alike than one retrieves."""
    centres_HCK = queries_HTK[:, : max(1, slots // ALIKE)]
    keys_HRK = centres_HCK.repeat(1, -(-slots // centres_HCK.shape[1]), 1)[:, :slots]
    return keys_HRK + SPREAD * torch.randn_like(keys_HRK)


def scores_topk(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Tensor:
    """The best scores, B H T k, as one would first write it."""
    return (queries_BHTK @ ring.keys_BHRK.transpose(-1, -2)).topk(neighbours, dim=-1).values


def product(queries_BHTK: Tensor, ring: Ring) -> None:
    """All scores, tile by tile into the same memory, and nothing done with them."""
    for queries_TK, keys_RK in zip(queries_BHTK[0], ring.keys_BHRK[0], strict=True):
        scores_TW = queries_TK.new_empty(len(queries_TK), min(TILE, len(keys_RK)))
        for keys_WK in keys_RK.split(TILE):
            torch.mm(queries_TK, keys_WK.T, out=scores_TW[:, : len(keys_WK)])
