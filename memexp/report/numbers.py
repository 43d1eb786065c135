"""How numbers are named and written for people."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number that a table's cells can show.

    Attributes:
        field: its key in a score's summary.
        name: what people call it.
        digits: decimals that are worth printing.
        relative: differences are in percent of the baseline; else absolute.
        meaning: of one that only corpora with answers have and that is the better the higher; else nothing.
    """

    field: str
    name: str
    digits: int
    relative: bool
    meaning: str = ""


METRICS: dict[str, Metric] = {
    "perplexity": Metric("perplexity", "perplexity", 2, True),
    "nats": Metric("nats_per_token", "nats per token", 3, False),
    "bits_per_token": Metric("bits_per_token", "bits per token", 3, False),
    "bits_per_byte": Metric("bits_per_byte", "bits per byte", 3, False),
    "bits_per_character": Metric("bits_per_character", "bits per character", 3, False),
    "accuracy": Metric("accuracy", "accuracy", 3, False, "share of an answer's tokens that were the likeliest"),
    "exact_match": Metric("exact_match", "exact match", 3, False, "share of documents all of whose answers are right"),
}
"""By the word that `metric=` takes."""


def whole(value: float | None) -> str:
    """1,024; a dash for what is unknown."""
    return "–" if value is None else f"{round(value):,}"


def compact(value: float) -> str:
    """Three digits or so: 0.73M, 12.3M, 8,192."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if value >= size / 10:
            return f"{value / size:.{2 if value < 10 * size else 1}f}{unit}"
    return f"{round(value):,}"


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs, 1,000 tokens."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def age(seconds: float) -> str:
    """The largest unit that fits: 40 s, 3 min, 2 h, 5 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
