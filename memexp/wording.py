"""How every command and page writes numbers and counts."""

UNKNOWN = "–"
"""Written where there is no number."""


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
