"""Refusals: scores that stand in one column but do not compare."""

import itertools
from collections.abc import Sequence

from memexp.errors import UserError
from memexp.report.metrics import Metric
from memexp.report.table.entries import Entry

_FIRST_TOKEN_BYTES = 64
"""How far two tokenizers' scored bytes of one document may differ: its first token is never scored."""


def refuse_twice(entries: Sequence[Entry]) -> None:
    """Refuse two runs of one row, column and seed, for they are no two seeds. `entries` are sorted by seed."""
    for before, entry in itertools.pairwise(entries):
        if before.run.seed == entry.run.seed:
            raise UserError(
                f"{before.run.name} and {entry.run.name} have the same settings and the same seed {entry.run.seed}; "
                "expected one run a seed. Likely cause: the corpus was prepared again between them, or a folder was "
                "copied; name the runs to compare"
            )


def refuse_unlike(entries: Sequence[Entry], metric: Metric) -> None:
    """Refuse a column whose scores are not of the same tokens, or per byte not of the same text."""
    first = entries[0] if entries else None
    for entry in entries[1:]:
        assert first is not None
        runs, data = f"{first.run.name} and {entry.run.name}", entry.run.data
        same_tokenizer = entry.tokenizer == first.tokenizer
        if not same_tokenizer and metric.field != "bits_per_byte":
            raise UserError(
                f"{runs} read {data} with different tokenizers ({first.tokenizer[:8]}, {entry.tokenizer[:8]}), so "
                f"their {metric.name} does not compare; expected one tokenizer a data set, or metric=bits_per_byte"
            )
        if same_tokenizer and entry.summary["tokens_hash"] != first.summary["tokens_hash"]:
            scored = (
                f"{runs} scored different tokens of {data} ({first.summary['tokens']:,} and "
                f"{entry.summary['tokens']:,}); expected the same."
            )
            if first.asked != entry.asked:
                raise UserError(
                    f"{scored} Each was scored as after its training, on {first.asked} and on {entry.asked}; say which with "
                    "eval.documents and eval.max_document, and the table says how to score what is missing"
                )
            raise UserError(
                f"{scored} Likely cause: the corpus was prepared again between them, or drawn from other settings; score "
                "again with `memexp eval RUN force=true`, or give the other corpus a data.name of its own "
                "(metric=bits_per_byte helps only where tokenizers differ on the same text)"
            )
        if not same_tokenizer:
            _refuse_other_text(first, entry, f"{runs} scored")


def _refuse_other_text(first: Entry, entry: Entry, runs_scored: str) -> None:
    ids, others = ([str(item["id"]) for item in one.score.documents] for one in (first, entry))
    if ids != others:
        raise UserError(
            f"{runs_scored} different documents of {entry.run.data} ({len(ids)} and {len(others)}); expected the same"
        )
    sizes = [int(one.summary["bytes"]) for one in (first, entry)]
    if abs(sizes[0] - sizes[1]) > _FIRST_TOKEN_BYTES * len(ids):
        raise UserError(
            f"{runs_scored} {sizes[0]:,} and {sizes[1]:,} bytes of {entry.run.data}; expected the same text. Likely "
            "cause: eval.max_document counts tokens, and theirs differ in length; score whole documents with "
            "eval.max_document=0"
        )
