"""Which scores of a data set can be compared: those of the same tokens or, for a metric per byte, of the same text."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from memexp.errors import UserError
from memexp.report.metrics import Metric
from memexp.report.table.entries import Entry

_FIRST_TOKEN_BYTES = 64
"""How many bytes two tokenizers may differ in on one document, because its first token is never scored."""


@dataclass(frozen=True)
class Unlike:
    """Why two scores cannot be compared: what was seen, what was expected, and what can be done."""

    seen: str
    expected: str
    remedy: str


def refuse_twice(entries: Sequence[Entry]) -> None:
    """Refuse two runs of one row and column with the same seed. `entries` are sorted by seed."""
    for before, entry in itertools.pairwise(entries):
        if before.run.seed == entry.run.seed:
            raise UserError(
                f"{before.run.name} and {entry.run.name} have the same settings and the same seed {entry.run.seed}; "
                "expected one run for each seed. Likely cause: the corpus was prepared again between them, or a folder was "
                "copied; name the runs to compare"
            )


def refuse_unlike(entries: Sequence[Entry], metric: Metric) -> None:
    """Refuse a column whose scores are of different tokens or, for a metric per byte, of different text."""
    for entry in entries[1:]:
        if found := unlike(entries[0], entry, metric):
            raise UserError(f"{found.seen}; {found.expected}. {found.remedy}")


@dataclass(frozen=True)
class Text:
    """The scores of a data set that can be compared with each other.

    Attributes:
        name: what tells this text apart from others of the data set, in a few characters; empty if there is no other.
        unlike: why its scores cannot be compared with those of the data set's first text; None for this one.
    """

    name: str
    entries: list[Entry]
    unlike: Unlike | None = None


def texts_of(entries: Sequence[Entry], metric: Metric) -> list[Text]:
    """The scores of one data set, sorted into texts; the one with most scores comes first."""
    groups: list[list[Entry]] = []
    for entry in entries:
        alike = (group for group in groups if unlike(group[0], entry, metric) is None)
        if (group := next(alike, None)) is None:
            groups.append([entry])
        else:
            group.append(entry)
    groups.sort(key=len, reverse=True)
    firsts = [group[0] for group in groups]
    return [
        Text(name, group, unlike(firsts[0], group[0], metric))
        for name, group in zip(_names(firsts), groups, strict=True)
    ]


def _names(entries: Sequence[Entry]) -> list[str]:
    """A name for each of these scores of different text: of what they differ in."""
    if len(entries) < 2:
        return [""] * len(entries)
    parts = [
        [f"{entry.run.asked.documents}x{entry.run.asked.max_document}" for entry in entries],
        [f"tokenizer {entry.tokenizer[:8]}" for entry in entries],
        [f"tokens {str(entry.summary['tokens_hash'])[:8]}" for entry in entries],
    ]
    chosen: list[list[str]] = []
    for part in parts:
        if len(set(part)) > 1 and len(set(zip(*chosen, strict=True))) < len(entries):
            chosen.append(part)
    return [" ".join(words) for words in zip(*chosen, strict=True)] or [f"text {at}" for at in range(len(entries))]


def unlike(first: Entry, entry: Entry, metric: Metric) -> Unlike | None:
    """Why the two scores of a data set cannot be compared; None if they can."""
    runs, data = f"{first.run.name} and {entry.run.name}", entry.run.data
    same_tokenizer = entry.tokenizer == first.tokenizer
    if not same_tokenizer and metric.field != "bits_per_byte":
        return Unlike(
            f"{runs} read {data} with different tokenizers ({first.tokenizer[:8]}, {entry.tokenizer[:8]}), so their {metric.name} "
            "cannot be compared",
            "expected one tokenizer for each data set",
            "metric=bits_per_byte compares them",
        )
    if not same_tokenizer:
        return _other_text(first, entry, f"{runs} scored")
    if entry.summary["tokens_hash"] == first.summary["tokens_hash"]:
        return None
    sizes = f"{first.summary['tokens']:,} and {entry.summary['tokens']:,}"
    remedy = (
        "Likely cause: the corpus was prepared again between them, or made with other settings; score again with "
        "`memexp eval RUN force=true`, or give the other corpus a data.name of its own (metric=bits_per_byte helps only where "
        "tokenizers differ on the same text)"
    )
    if first.asked != entry.asked:
        remedy = (
            f"Each was scored on the documents of its own training settings, on {first.asked} and on {entry.asked}. Choose them with "
            "eval.documents and eval.max_document; the table then says how to score what is missing"
        )
    return Unlike(f"{runs} scored different tokens of {data} ({sizes})", "expected the same", remedy)


def _other_text(first: Entry, entry: Entry, runs_scored: str) -> Unlike | None:
    ids, other_ids = ([str(item["id"]) for item in scored.score.documents] for scored in (first, entry))
    if ids != other_ids:
        return Unlike(
            f"{runs_scored} different documents of {entry.run.data} ({len(ids)} and {len(other_ids)})",
            "expected the same",
            "Choose them with eval.documents",
        )
    sizes = [int(scored.summary["bytes"]) for scored in (first, entry)]
    if abs(sizes[0] - sizes[1]) > _FIRST_TOKEN_BYTES * len(ids):
        return Unlike(
            f"{runs_scored} {sizes[0]:,} and {sizes[1]:,} bytes of {entry.run.data}",
            "expected the same text",
            "Likely cause: eval.max_document counts tokens, and the tokens of the two differ in length; score whole documents with "
            "eval.max_document=0",
        )
    return None
