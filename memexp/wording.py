"""How every command and page writes numbers and counts."""

import math
from collections.abc import Sequence
from typing import Any

UNKNOWN = "–"
"""Written where there is no number."""

DIVERGED = "diverged"
"""Written where a perplexity is larger than any number, because training failed."""

LARGE = 1e9
"""From here on, numbers are written with a power of ten."""


def perplexity_of(nats: float) -> float:
    """The perplexity of a mean loss in nats; infinite if it is larger than any floating-point number. JSON has null for it."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def perplexity_in(summary: dict[str, Any]) -> Any:
    """The perplexity in a score's summary; infinite if it is null because it is larger than any number."""
    value, nats = summary["perplexity"], summary["nats_per_token"]
    large = value is None and isinstance(nats, int | float) and perplexity_of(nats) == math.inf
    return math.inf if large else value


def percent_of(nats: float) -> float:
    """By how many percent a perplexity grows when the loss grows by `nats`."""
    try:
        return 100 * math.expm1(nats)
    except OverflowError:
        return math.inf


def number(value: float | None, digits: int, *, sign: str = "") -> str:
    """Write a number with these digits, such as 1,024.50; one that is not finite, or null in JSON, has diverged."""
    if value is None or not math.isfinite(value):
        return DIVERGED
    return f"{value:{sign}.{digits}e}" if abs(value) >= LARGE else f"{value:{sign},.{digits}f}"


def whole(value: float | None) -> str:
    """Write a whole number, such as 1,024; an unknown number is a dash."""
    return UNKNOWN if value is None else f"{round(value):,}"


def compact(value: float) -> str:
    """Write a number with about three digits: 0.73M, 12.3M, 8,192."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if value >= size / 10:
            return f"{value / size:.{2 if value < 10 * size else 1}f}{unit}"
    return f"{round(value):,}"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: 1 run, 2 runs, 1,000 tokens."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def partly(share: float) -> str:
    """Write how much of a memory was filled that never was full: 19 %, and 99 % where it was almost."""
    return f"{min(99, round(100 * share))} %"


def listed(names: Sequence[str], *, most: int) -> str:
    """Write names as a, b and c; of more than `most` the first ones and how many more: a, b, c and 9 more."""
    if len(names) == 1:
        return names[0]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def clock(seconds: float) -> str:
    """Write a time as 1:02:03, or as 2:03 if it is less than an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age(seconds: float) -> str:
    """Write a time in the largest unit that fits: 40 s, 3 min, 2 h, 5 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def duration(seconds: float) -> str:
    """Write a time that was calculated, with two digits or more, in hours, minutes or seconds: 1,234 h, 3.4 h, 12 min, 0.5 s."""
    if seconds < 0.1:
        return "under 0.1 s" if seconds > 0 else "0 s"
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        value = seconds / size
        if value >= 0.995 or unit == "s":
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    raise AssertionError
