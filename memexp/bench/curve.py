"""The time of a search at several sizes of the memory, and how fast it grows with the size."""

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
from memexp.report.plot import drawing, files

ROUNDS = 3
"""Largest number of rounds, because a search of a million slots takes seconds."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time to search every head of one lane at five sizes, beside its floor, the score product."""
    figures = []
    queries_BHTK = some_queries(work)
    for slots in sizes(config):
        ring = full_ring(torch.randn(work.heads, slots, work.head_size))
        sides = {
            "exact": timed(partial(exact, queries_BHTK, ring, work.neighbours)),
            "score product alone": timed(partial(product, queries_BHTK, ring)),
        }
        if slots <= config.slots:  # with more slots, all scores at once take gigabytes
            sides["scores + topk"] = timed(partial(scores_topk, queries_BHTK, ring, work.neighbours))
        seconds = in_turn(sides, repeats=min(ROUNDS, config.repeats), say=about(f"{slots:,} slots", say))
        facts = {"slots": float(slots)}
        facts["scores + topk, s"] = median(seconds["scores + topk"]) if "scores + topk" in seconds else math.nan
        figures.append(
            Figure(
                f"curve: search of {slots:,} slots",
                "exact",
                "score product alone",
                "s",
                seconds["exact"],
                seconds["score product alone"],
                facts=facts,
            )
        )
    return figures


def sizes(config: BenchConfig) -> list[int]:
    """The numbers of slots to search; 1.5K to 1M with the default settings."""
    return [
        max(slots, 1)
        for slots in (config.slots * 3 // 128, config.smaller, config.slots, config.largest, 4 * config.largest)
    ]


def points(figures: Sequence[Figure]) -> list[tuple[int, float, float, float]]:
    """For each size, the slots and the seconds of the search, of its floor and of `torch.topk` (nan if not measured)."""
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
    """The slope of log time against log size, by least squares; 1 means linear growth."""
    logs = [(math.log(slots), math.log(seconds)) for slots, seconds, _, _ in points(figures)]
    across, up = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - across) * (y - up) for x, y in logs) / sum((x - across) ** 2 for x, _ in logs)


def plot(figures: Sequence[Figure]) -> bytes:
    """Time against size as an SVG, both axes logarithmic."""
    slots, ours, floor, topk = zip(*points(figures), strict=True)
    with drawing(5, 3.4) as figure:
        axes = figure.subplots()
        axes.loglog(slots, topk, "s:", color="tab:gray", label="scores + torch.topk", base=2)
        axes.loglog(slots, ours, "o-", color="tab:blue", label=f"exact search (slope {slope(figures):.2f})", base=2)
        axes.loglog(slots, floor, "^--", color="tab:orange", label="floor: the score product alone", base=2)
        axes.set_yscale("log", base=10)
        axes.set_xticks(slots, [f"{size:,}" for size in slots])
        axes.set_xlabel("slots of the memory")
        axes.set_ylabel("seconds a search")
        axes.legend(frameon=False)
        return files(figure, "svg")["svg"]
