"""The cost of a search as the memory grows, and how fast it grows."""

import io
import math
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch

from memexp.bench.measurement import Figure, Say, about, in_turn, timed
from memexp.bench.search import full_ring, product, scores_topk, some_queries
from memexp.bench.workload import Work
from memexp.config.commands import BenchConfig
from memexp.model.knn_memory.exact_search import exact

ROUNDS = 3
"""At most: a search of a million slots takes seconds."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """One search of every head of one lane at five sizes, beside the score product, its floor."""
    figures = []
    queries_BHTK = some_queries(work)
    for slots in sizes(config):
        ring = full_ring(torch.randn(work.heads, slots, work.head_size))
        sides = {
            "exact": timed(partial(exact, queries_BHTK, ring, work.neighbours)),
            "score product alone": timed(partial(product, queries_BHTK, ring)),
        }
        if slots <= config.slots:  # beyond, all scores at once take gigabytes
            sides["scores + topk"] = timed(partial(scores_topk, queries_BHTK, ring, work.neighbours))
        found = in_turn(sides, repeats=min(ROUNDS, config.repeats), say=about(f"{slots:,} slots", say))
        facts = {"slots": float(slots)}
        facts["scores + topk, s"] = median(found["scores + topk"]) if "scores + topk" in found else math.nan
        figures.append(
            Figure(
                f"curve: search of {slots:,} slots",
                "exact",
                "score product alone",
                "s",
                found["exact"],
                found["score product alone"],
                facts=facts,
            )
        )
    return figures


def sizes(config: BenchConfig) -> list[int]:
    """1.5K to 1M slots with the default settings."""
    return [
        max(work, 1)
        for work in (config.slots * 3 // 128, config.smaller, config.slots, config.largest, 4 * config.largest)
    ]


def points(figures: Sequence[Figure]) -> list[tuple[int, float, float, float]]:
    """Slots, and the seconds of the search, of its floor and of `torch.topk` (nan where that was not measured)."""
    return [
        (
            int(figure.facts["slots"]),
            median(figure.ours_measured),
            median(figure.other_measured),
            figure.facts["scores + topk, s"],
        )
        for figure in figures
        if figure.what.startswith("curve: ")
    ]


def slope(figures: Sequence[Figure]) -> float:
    """Of the logarithm of the time over that of the size, by least squares: 1 is linear."""
    logs = [(math.log(slots), math.log(seconds)) for slots, seconds, _, _ in points(figures)]
    across, up = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - across) * (y - up) for x, y in logs) / sum((x - across) ** 2 for x, _ in logs)


def plot(figures: Sequence[Figure]) -> bytes:
    """Time against size as an SVG, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    slots, ours, floor, topk = zip(*points(figures), strict=True)
    with plt.rc_context({"svg.hashsalt": "memexp", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
        axes.loglog(slots, topk, "s:", color="tab:gray", label="scores + torch.topk", base=2)
        axes.loglog(slots, ours, "o-", color="tab:blue", label=f"exact search (slope {slope(figures):.2f})", base=2)
        axes.loglog(slots, floor, "^--", color="tab:orange", label="floor: the score product alone", base=2)
        axes.set_yscale("log", base=10)
        axes.set_xticks(slots, [f"{each:,}" for each in slots])
        axes.set_xlabel("slots of the memory")
        axes.set_ylabel("seconds a search")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return out.getvalue()
