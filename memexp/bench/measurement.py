"""Figures: a measure of ours and of what it is held against, taken in turn so that both see the same machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

Say = Callable[[str], None]
"""Shows what is being measured."""
Side = Callable[[], float]
"""Measures once."""


@dataclass(frozen=True)
class Figure:
    """One comparison; place i of both lists was measured in round i."""

    what: str
    ours: str
    other: str
    unit: str
    """s or bytes."""
    ours_measured: list[float]
    other_measured: list[float]
    ratio_at_most: float | None = None
    """What the median ratio is wanted to be."""
    ours_at_most: float | None = None
    """What the median of ours is wanted to be, in the unit."""
    note: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    """What else is known of ours, by name; the same names in all figures of a bench."""

    @property
    def ratios(self) -> list[float]:
        """Ours over the other, round by round."""
        return [ours / other for ours, other in zip(self.ours_measured, self.other_measured, strict=True)]

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None where nothing is."""
        if self.ratio_at_most is None and self.ours_at_most is None:
            return None
        within_ratio = self.ratio_at_most is None or median(self.ratios) <= self.ratio_at_most
        return within_ratio and (self.ours_at_most is None or median(self.ours_measured) <= self.ours_at_most)

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON, with what follows from it."""
        summary = {
            name: {"median": median(values), "min": min(values), "max": max(values)}
            for name, values in (
                ("ours_summary", self.ours_measured),
                ("other_summary", self.other_measured),
                ("ratio", self.ratios),
            )
        }
        return asdict(self) | summary | {"met": self.met}


def about(subject: str, say: Say) -> Say:
    """`say` with what it is about in front."""
    return lambda what: say(f"{subject}: {what}")


def clock() -> Callable[[], float]:
    """Gives seconds: the processor's where one thread does all the work, which what else runs here lengthens least."""
    return time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter


def timed(work: Callable[[], object], *, seconds: Callable[[], float] | None = None) -> Side:
    """A side that measures the time of `work`, which runs once now to warm up.

    Args:
        seconds: the clock; by default `clock`'s.
    """
    now = seconds or clock()
    work()

    def side() -> float:
        began = now()
        work()
        return now() - began

    return side


def in_turn(sides: Mapping[str, Side], *, repeats: int, say: Say) -> dict[str, list[float]]:
    """What each side measures in each round; every other round goes backwards, so that a drift favours no side."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        say(f"round {number + 1} of {repeats}")
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(sides[name]())
    return found
