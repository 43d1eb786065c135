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
        of: what only some corpora have and it is of, answers or classes; the better the higher. Else nothing.
        meaning: of such a one, in words.
    """

    field: str
    name: str
    digits: int
    relative: bool
    of: str = ""
    meaning: str = ""


METRICS: dict[str, Metric] = {
    "perplexity": Metric("perplexity", "perplexity", 2, True),
    "nats": Metric("nats_per_token", "nats per token", 3, False),
    "bits_per_token": Metric("bits_per_token", "bits per token", 3, False),
    "bits_per_byte": Metric("bits_per_byte", "bits per byte", 3, False),
    "bits_per_character": Metric("bits_per_character", "bits per character", 3, False),
    "accuracy": Metric(
        "accuracy", "accuracy", 3, False, "answers", "share of an answer's tokens that were the likeliest"
    ),
    "exact_match": Metric(
        "exact_match", "exact match", 3, False, "answers", "share of documents all of whose answers are right"
    ),
    "f1": Metric(
        "f1", "F1", 3, False, "classes", "of two classes that of the last by name, of more the mean over them"
    ),
    "f1_macro": Metric("f1_macro", "macro F1", 3, False, "classes", "mean over the classes"),
}
"""By the word that `metric=` takes."""
