"""Checks that refuse scores which stand in one column but cannot be compared."""

import itertools
from collections.abc import Sequence

from memexp.errors import UserError
from memexp.report.metrics import Metric
from memexp.report.table.entries import Entry

_FIRST_TOKEN_BYTES = 64
"""How many bytes two tokenizers may differ in on one document, because its first token is never scored."""


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
    first = entries[0] if entries else None
    for entry in entries[1:]:
        assert first is not None
        runs, data = f"{first.run.name} and {entry.run.name}", entry.run.data
        same_tokenizer = entry.tokenizer == first.tokenizer
        if not same_tokenizer and metric.field != "bits_per_byte":
            raise UserError(
                f"{runs} read {data} with different tokenizers ({first.tokenizer[:8]}, {entry.tokenizer[:8]}), so "
                f"their {metric.name} cannot be compared; expected one tokenizer for each data set, or metric=bits_per_byte"
            )
        if same_tokenizer and entry.summary["tokens_hash"] != first.summary["tokens_hash"]:
            scored = (
                f"{runs} scored different tokens of {data} ({first.summary['tokens']:,} and "
                f"{entry.summary['tokens']:,}); expected the same."
            )
            if first.asked != entry.asked:
                raise UserError(
                    f"{scored} Each was scored on the documents of its own training settings, on {first.asked} and on {entry.asked}. Choose "
                    "them with eval.documents and eval.max_document; the table then says how to score what is missing"
                )
            raise UserError(
                f"{scored} Likely cause: the corpus was prepared again between them, or made with other settings; score "
                "again with `memexp eval RUN force=true`, or give the other corpus a data.name of its own "
                "(metric=bits_per_byte helps only where tokenizers differ on the same text)"
            )
        if not same_tokenizer:
            _refuse_other_text(first, entry, f"{runs} scored")


def _refuse_other_text(first: Entry, entry: Entry, runs_scored: str) -> None:
    ids, other_ids = ([str(item["id"]) for item in scored.score.documents] for scored in (first, entry))
    if ids != other_ids:
        raise UserError(
            f"{runs_scored} different documents of {entry.run.data} ({len(ids)} and {len(other_ids)}); expected the same"
        )
    sizes = [int(scored.summary["bytes"]) for scored in (first, entry)]
    if abs(sizes[0] - sizes[1]) > _FIRST_TOKEN_BYTES * len(ids):
        raise UserError(
            f"{runs_scored} {sizes[0]:,} and {sizes[1]:,} bytes of {entry.run.data}; expected the same text. Likely "
            "cause: eval.max_document counts tokens, and the tokens of the two differ in length; score whole documents with "
            "eval.max_document=0"
        )
