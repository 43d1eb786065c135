"""Exact search of a full ring, beside other ways to find the best scores and beside its floor, the score product alone.

Shapes: B lanes (1), H heads, T queries, R slots, K head size, k neighbours, C clusters, W slots of a tile.
"""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.bench.measurement import Figure, Say, Side, in_turn, timed
from memexp.bench.others import faiss_search
from memexp.bench.workload import Work
from memexp.config.commands import BenchConfig
from memexp.model.knn_memory.exact_search import exact
from memexp.model.knn_memory.ring import Ring, empty_ring

OVER_FLOOR, OVER_TOPK, OVER_FLAT, OVER_IVF = 3.0, 1 / 8, 1 / 25, 1.0
"""Largest wanted time, relative to the score product, scores + `torch.topk`, faiss Flat and faiss IVF."""
TILE = 1024
"""Keys in each matrix product of the floor."""
ALIKE = 64
"""Keys in each cluster."""
SPREAD = 0.02
"""Standard deviation of the keys of a cluster in every coordinate, before they are brought to unit norm."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time to search every head, after a check that the search finds the correct scores.

    A search may be faster if the best keys stand out, so clustered keys, which are similar, are searched too.
    """
    queries_BHTK = some_queries(work)
    rings = {
        "random": full_ring(torch.randn(work.heads, config.slots, work.head_size)),
        "clustered": full_ring(clustered(queries_BHTK[0], slots=config.slots)),
    }
    sides: dict[str, Side] = {}
    for name, ring in rings.items():
        search = partial(exact, queries_BHTK, ring, work.neighbours)
        sort = partial(scores_topk, queries_BHTK, ring, work.neighbours)
        scores_BHTk = (queries_BHTK @ ring.keys_BHRK.transpose(-1, -2)).gather(-1, search().slots_BHTk)
        torch.testing.assert_close(scores_BHTk, sort(), rtol=0, atol=1e-5)
        sides |= {f"{name} ours": timed(search), f"{name} topk": timed(sort)}
    sides["product"] = timed(partial(product, queries_BHTK, rings["random"]))
    if faiss_search.installed():
        sides["flat"] = timed(faiss_search.flat(queries_BHTK, rings["random"], work.neighbours))
    seconds = in_turn(sides, repeats=config.repeats, say=say)
    what = f"search of {config.slots:,} slots, {work.heads} x {work.segment} queries, k {work.neighbours}"

    def figure(kind: str, other: str, side: str, at_most: float | None) -> Figure:
        return Figure(
            f"{what}, {kind} keys", "exact", other, "s", seconds[f"{kind} ours"], seconds[side], ratio_at_most=at_most
        )

    figures = [
        figure("random", "score product alone", "product", OVER_FLOOR),
        figure("random", "scores + topk", "random topk", OVER_TOPK),
        figure("clustered", "scores + topk", "clustered topk", None),
    ]
    if not faiss_search.installed():
        figures[0] = replace(figures[0], note="faiss (the extra `faiss`) is not installed, so it was not measured")
        return figures
    return [*figures, figure("random", "faiss Flat", "flat", OVER_FLAT), _against_ivf(config, work, say)]


def _against_ivf(config: BenchConfig, work: Work, say: Say) -> Figure:
    """The time at the largest size, at which an inverted-file index begins to pay off.

    The time of the index includes inserting a segment of new keys.
    """
    torch.manual_seed(1)
    queries_BHTK = some_queries(work)
    ring = full_ring(torch.randn(work.heads, config.largest, work.head_size))
    ours = partial(exact, queries_BHTK, ring, work.neighbours)
    say("building faiss's index")
    ivf = faiss_search.Ivf(queries_BHTK, ring, work.neighbours, ours().slots_BHTk)
    seconds = in_turn({"ours": timed(ours), "ivf": ivf.step}, repeats=min(3, config.repeats), say=say)
    return Figure(
        f"search of {config.largest:,} slots, random keys",
        "exact",
        "faiss IVF",
        "s",
        seconds["ours"],
        seconds["ivf"],
        ratio_at_most=OVER_IVF,
        note=f"IVF of {ivf.lists} lists, {ivf.probes} probed: recall {ivf.recall:.3f} on these keys; its time includes inserting a "
        f"segment and this segment's share of building the index ({ivf.build_seconds:.1f} s)",
    )


def some_queries(work: Work) -> Tensor:
    """Random queries of one lane, B H T K, of unit norm."""
    torch.manual_seed(0)
    return F.normalize(torch.randn(1, work.heads, work.segment, work.head_size), dim=-1)


def full_ring(keys_HRK: Tensor) -> Ring:
    """A ring of one lane, filled with these keys at unit norm."""
    heads, slots, head_size = keys_HRK.shape
    ring = empty_ring(lanes=1, heads=heads, head_size=head_size, slots=slots, slack=0, like=keys_HRK)
    ring.keys_BHRK.copy_(F.normalize(keys_HRK, dim=-1))
    return replace(ring, count_B=torch.full((1,), slots))


def clustered(queries_HTK: Tensor, *, slots: int) -> Tensor:
    """Keys in clusters around queries, H R K; a cluster has more keys than a search retrieves."""
    centres_HCK = queries_HTK[:, : max(1, slots // ALIKE)]
    keys_HRK = centres_HCK.repeat(1, -(-slots // centres_HCK.shape[1]), 1)[:, :slots]
    return keys_HRK + SPREAD * torch.randn_like(keys_HRK)


def scores_topk(queries_BHTK: Tensor, ring: Ring, neighbours: int) -> Tensor:
    """The best scores, B H T k, by the simplest code."""
    return (queries_BHTK @ ring.keys_BHRK.transpose(-1, -2)).topk(neighbours, dim=-1).values


def product(queries_BHTK: Tensor, ring: Ring) -> None:
    """Compute all scores, tile by tile into the same buffer, and do not use them."""
    for queries_TK, keys_RK in zip(queries_BHTK[0], ring.keys_BHRK[0], strict=True):
        scores_TW = queries_TK.new_empty(len(queries_TK), min(TILE, len(keys_RK)))
        for keys_WK in keys_RK.split(TILE):
            torch.mm(queries_TK, keys_WK.T, out=scores_TW[:, : len(keys_WK)])
