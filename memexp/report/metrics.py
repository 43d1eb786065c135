"""The metrics that a table can show: their names, digits and meaning."""

import math
from dataclasses import dataclass

from memexp.wording import perplexity_of


@dataclass(frozen=True)
class Metric:
    """A number that a table's cells can show.

    Attributes:
        field: its key in a score's summary.
        name: its name in a table.
        digits: decimals to print.
        relative: whether differences are in percent of the baseline; else they are absolute.
        of: "answers" or "classes" if only corpora with these have the metric, which is then better if higher; else empty.
        meaning: what such a metric measures, in words.
    """

    field: str
    name: str
    digits: int
    relative: bool
    of: str = ""
    meaning: str = ""

    def of_nats(self, nats: float) -> float:
        """The metric of so many nats a token, if that is all it needs; see `PER_TOKEN`. A perplexity may be infinite."""
        if self.field == "perplexity":
            return perplexity_of(nats)
        return nats / math.log(2) if self.field == "bits_per_token" else nats


PER_TOKEN = ("perplexity", "nats_per_token", "bits_per_token")
"""The fields of the metrics that follow from nats a token."""

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
        "f1",
        "F1",
        3,
        False,
        "classes",
        "with two classes the F1 of the class that is last by name, with more the mean over the classes",
    ),
    "f1_macro": Metric("f1_macro", "macro F1", 3, False, "classes", "mean over the classes"),
}
"""The metrics by the value of `metric=`."""
