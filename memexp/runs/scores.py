"""Scores on disk: which a run has, which one a user means, and their arrays once they are checked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memexp.config.groups import Scored, Scoring
from memexp.errors import UserError
from memexp.runs.folder import RETRIEVED, Run, Score, ScoreName, find_run

_NAMED = re.compile(r"(?P<run>.+?)(@(?P<mem>\d+)(?P<unit>[kmKM]?)(-(?P<memory>on|off|foreign))?)?")
_NEEDED = (
    "data", "split", "mem", "memory", "context", "cache", "memory_slots", "nats_per_token", "perplexity",
    "bits_per_token", "bits_per_byte", "tokens", "bytes", "tokenizer_hash", "tokens_hash", "memory_fill", "command",
)  # fmt: skip


def read_summary(score: Score) -> dict[str, Any]:
    """A score's summary.

    Raises:
        UserError: it is damaged or lacks a number.
    """
    return require(score.summary, _NEEDED, score.path / "summary.json")


def read_run_summary(run: Run) -> dict[str, Any] | None:
    """A run's summary, or None while it is not done.

    Raises:
        UserError: it is damaged or lacks a number.
    """
    summary = run.summary
    if summary is None:
        return None
    needed = ("parameters", "tokens", "steps", "tokens_per_second", "command")
    return require(summary, needed, run.path / "summary.json")


def require(summary: Any, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
    """`summary` once it is known to be a mapping with these keys."""
    missing = list(keys) if not isinstance(summary, dict) else [key for key in keys if key not in summary]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing[:3])}; expected what memexp writes there. "
            "Likely cause: it was edited or damaged, or an older version wrote it"
        )
    assert isinstance(summary, dict)
    return summary


def asked_of(run: Run, scored: Scored) -> Scoring:
    """The documents that `scored` means for a run, which says itself what is not asked for.

    Raises:
        UserError: its settings do not say it.
    """
    path = run.path / "config.yaml"
    own = require(run.config, ("eval",), path)["eval"]
    return scored.of(require(own, ("documents", "max_document", "lanes"), path))


def describe(scored: Scoring) -> str:
    """The documents in words: 'test, first 8 documents, first 8,192 tokens of each'."""
    counted = {0: "all documents", 1: "first document"}
    documents = counted.get(scored.documents, f"first {scored.documents:,} documents")
    of_each = " of each" if scored.documents != 1 else ""
    tokens = f"first {scored.max_document:,} tokens{of_each}" if scored.max_document else "whole"
    return f"{scored.split}, {documents}, {tokens}"


def eval_command(run: str, scored: Scored, *, mem: int | None = None, memory: str = "on") -> str:
    """The command that makes a score; settings that have their default are left out, but for the split."""
    words = ["memexp", "eval", run, f"eval.split={scored.split}"]
    words += [f"eval.documents={scored.documents}"] if scored.documents is not None else []
    words += [f"eval.max_document={scored.max_document}"] if scored.max_document is not None else []
    words += [f"mem={mem}"] if mem is not None else []
    words += [f"memory={memory}"] if memory != "on" else []
    return " ".join(words)


def progress_of(run: Run) -> str:
    """'running, step 120 of 1,000', for a message about a run that is not done."""
    step = max((line.get("step", 0) for line in run.metrics), default=0)
    return f"{run.state}, step {step:,} of {run.config.get('steps', 0):,}"


@dataclass(frozen=True)
class TokenScores:
    """The nats of every token of one score.

    Attributes:
        label: the run's name, with @mem-memory where another score than the run's own is meant.
        path: the score's folder.
        nats_N, tokens_N: float64 and integer, documents one after another; N scored tokens.
        documents: id and number of scored tokens of each, in the order of the arrays.
        retrieved: `memexp.runs.folder.RETRIEVED`, a row a scored token; None where it was not kept.
    """

    label: str
    path: Path
    summary: dict[str, Any]
    nats_N: NDArray[np.float64]
    tokens_N: np.ndarray
    documents: list[tuple[str, int]]
    retrieved: np.ndarray | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([tokens for _, tokens in self.documents], dtype=np.int64)

    @property
    def has_memory(self) -> bool:
        """Whether a memory of the document's own was read, so that another's can be put in its place."""
        return bool(self.summary["memory_slots"]) and self.summary["memory"] == "on"

    def command(self, *more: str, memory: str = "on") -> str:
        """The command that scores the same documents again, with `more` settings."""
        run, name = Run(self.path.parents[1]), Score(self.path).name
        assert name is not None  # a score is found by it
        mem = None if name.mem == run.config.get("mem") else name.mem
        scored = Scored(name.split, name.documents, name.max_document)
        return " ".join([eval_command(run.name, scored, mem=mem, memory=memory), *more])


def find_foreign(scores: TokenScores) -> TokenScores | None:
    """The score of the same documents with another's memory; None where there is none, or one of other tokens.

    Raises:
        UserError: it is damaged.
    """
    name = Score(scores.path).name
    if name is None or not scores.has_memory:
        return None
    score = Run(scores.path.parents[1]).score(name._replace(memory="foreign"))
    if score is None:
        return None
    found = load_scores(f"{scores.label}-foreign", score)
    return found if found.summary["tokens_hash"] == scores.summary["tokens_hash"] else None


def find_score(root: Path, name: str, scored: Scored, *, tag: str | None = None) -> tuple[str, Score]:
    """The score that RUN, RUN@mem or RUN@mem-memory means, and its full name.

    Raises:
        UserError: no such run or score, or the run is not done.
    """
    match = _NAMED.fullmatch(name)
    if match is None:
        raise UserError("a run's name is empty; expected RUN, RUN@mem or RUN@mem-memory")
    if "@" in name and match["mem"] is None:
        example = f"{name.split('@')[0]}@512-off"
        raise UserError(f"{name!r} names no score; expected RUN, RUN@mem or RUN@mem-memory, such as {example}")
    run = find_run(root, match["run"], tag=tag)
    if run.summary is None:
        raise UserError(
            f"{run.name} is not done ({progress_of(run)}); expected a finished run: train it to its end first"
        )
    own = run.config.get("mem")
    if not isinstance(own, int):
        raise UserError(
            f"{run.path / 'config.yaml'} says mem={own!r}; expected a whole number. Likely cause: it was edited"
        )
    unit = {"": 1, "k": 1 << 10, "m": 1 << 20}[(match["unit"] or "").lower()]
    mem = own if match["mem"] is None else int(match["mem"]) * unit
    memory = match["memory"] or "on"
    asked = asked_of(run, scored)
    wanted = ScoreName(asked.split, asked.documents, asked.max_document, mem, memory)
    score = run.score(wanted)
    if score is None:
        command = eval_command(run.name, scored, mem=mem if mem != own else None, memory=memory)
        there = ", ".join(other.path.name for other in run.scores) or "none"
        raise UserError(
            f"{run.name} has no score {wanted.folder} (it has: {there}); expected one, as `{command}` makes it"
        )
    which = "" if match["mem"] is None else f"@{mem}" + (f"-{memory}" if memory != "on" else "")
    return run.name + which, score


def load_scores(label: str, score: Score) -> TokenScores:
    """The arrays of a score, checked against its list of documents.

    Raises:
        UserError: a file is absent, damaged, or as long as no other.
    """
    again = "Likely cause: it was cut short or edited; score again with force=true"
    summary = read_summary(score)
    nats, tokens = (_array(score.path / name, again) for name in ("token_nats.npy", "tokens.npy"))
    try:
        documents = [(str(item["id"]), int(item["tokens"])) for item in score.documents]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{score.path / 'documents.json'} is not as expected, a list of documents with id and tokens. {again}"
        ) from error
    expected = sum(length for _, length in documents)
    for name, array in (("token_nats.npy", nats), ("tokens.npy", tokens)):
        if array.shape != (expected,):
            raise UserError(
                f"{score.path / name} has shape {array.shape}; expected {expected:,} numbers, as documents.json says. "
                f"{again}"
            )
    if expected == 0:
        raise UserError(f"{score.path} scored no token; expected some. Likely cause: its documents are empty")
    if not np.isfinite(nats).all():
        where = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise UserError(
            f"{score.path / 'token_nats.npy'} holds {nats[where]} at number {where:,}; expected finite losses. {again}"
        )
    retrieved = _retrieved(score.path / "retrieved.npy", expected, again)
    return TokenScores(label, score.path, summary, nats.astype(np.float64), tokens, documents, retrieved)


def _retrieved(path: Path, expected: int, again: str) -> np.ndarray | None:
    if not path.exists():
        return None
    places = _load(path, again)
    if places.dtype != np.dtype(RETRIEVED) or places.ndim != 2 or len(places) != expected:
        raise UserError(
            f"{path} holds {places.dtype} of shape {places.shape}; expected {expected:,} rows of distance and weight, as "
            f"documents.json says. {again}"
        )
    return places


def _array(path: Path, again: str) -> np.ndarray:
    array = _load(path, again)
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path} holds no array of numbers; expected those of a score. {again}")
    return array


def _load(path: Path, again: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected the numbers of a score. {again}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; expected a NumPy array. {again}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds no array; expected the numbers of a score. {again}")
    return array
