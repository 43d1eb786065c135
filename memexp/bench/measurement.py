"""Figures: our measurement beside the one it is compared with, taken in turn so that the machine is equal for both."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Say = Callable[[str], None]
"""Shows what is being measured."""
Side = Callable[[], float]
"""Measures once, and returns seconds or bytes."""


@dataclass(frozen=True)
class Figure:
    """One comparison; item i of both lists was measured in round i."""

    what: str
    ours: str
    other: str
    unit: str
    """The unit of the measurements: s, bytes, B/s or FLOP/s; empty for a count or a difference."""
    ours_measured: list[float]
    other_measured: list[float]
    ratio_at_most: float | None = None
    """Largest wanted median ratio."""
    ours_at_most: float | None = None
    """Largest wanted median of our measurements, in the unit."""
    note: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    """Further facts about our side, by name; figures with the same names are one table."""
    unmeasured: str = ""
    """Why nothing was measured; then both lists are empty."""
    failed: bool = False
    """Whether nothing was measured because of an error."""

    @classmethod
    def without(cls, what: str, why: str, *, failed: bool = False) -> "Figure":
        """A figure that says why there are no measurements."""
        return cls(what, "", "", "", [], [], unmeasured=why, failed=failed)

    @property
    def ratios(self) -> list[float]:
        """Our measurement divided by the other one, for each round."""
        return [ours / other for ours, other in zip(self.ours_measured, self.other_measured, strict=True)]

    @property
    def met(self) -> bool | None:
        """Whether the figure is as wanted; None if nothing is wanted or measured."""
        if self.unmeasured:
            return False if self.failed else None
        if self.ratio_at_most is None and self.ours_at_most is None:
            return None
        within_ratio = self.ratio_at_most is None or median(self.ratios) <= self.ratio_at_most
        return within_ratio and (self.ours_at_most is None or median(self.ours_measured) <= self.ours_at_most)

    def as_dict(self) -> dict[str, Any]:
        """All fields for JSON, with medians, ranges and whether the figure is as wanted."""
        summary = {
            name: {"median": median(values), "min": min(values), "max": max(values)}
            for name, values in (
                ("ours_summary", self.ours_measured),
                ("other_summary", self.other_measured),
                ("ratio", self.ratios),
            )
            if values
        }
        return asdict(self) | summary | {"met": self.met}


def about(subject: str, say: Say) -> Say:
    """`say` with `subject` in front of each message."""
    return lambda what: say(f"{subject}: {what}")


def clock() -> Callable[[], float]:
    """The clock to measure seconds with: CPU time if one thread does all the work, because other processes disturb it least."""
    import torch  # here, because a process that only hands on figures needs no torch

    return time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter


def timed(work: Callable[[], object], *, seconds: Callable[[], float] | None = None) -> Side:
    """A side that measures the time of `work`, which runs once now to warm up.

    Args:
        seconds: the clock; default: `clock()`.
    """
    now = seconds or clock()
    work()

    def side() -> float:
        began = now()
        work()
        return now() - began

    return side


def in_turn(sides: Mapping[str, Side], *, repeats: int, say: Say) -> dict[str, list[float]]:
    """The measurements of each side, one for each round; the order alternates, so that a drift favours no side."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        say(f"round {number + 1} of {repeats}")
        for name in list(sides)[:: -1 if number % 2 else 1]:
            measured[name].append(sides[name]())
    return measured
