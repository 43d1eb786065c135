"""Scores on disk: finding the score that a user names, checking it and loading its arrays."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch
from memexp.config.groups import Scored, Scoring
from memexp.errors import UserError
from memexp.files import SUMMARY
from memexp.store.folder import CONFIG_FILE, RETRIEVED, TOKEN_NATS, Run, Score, ScoreName, eval_command, find_run

_NAMED = re.compile(r"(?P<run>.+?)(@(?P<mem>\d{1,15})(?P<unit>[kmKM]?)(-(?P<memory>on|off|foreign))?)?")
_NEEDED = (
    "data", "split", "mem", "memory", "context", "cache", "memory_slots", "nats_per_token", "perplexity",
    "bits_per_token", "bits_per_byte", "tokens", "bytes", "tokenizer_hash", "tokens_hash", "memory_fill", "command",
)  # fmt: skip


def read_summary(score: Score) -> dict[str, Any]:
    """A score's summary, checked for the keys that reports need.

    Raises:
        UserError: the summary is damaged or lacks a key.
    """
    return require(score.summary, _NEEDED, score.path / SUMMARY)


def read_run_summary(run: Run) -> dict[str, Any] | None:
    """A run's summary, checked for the keys that reports need; None while the run is not done.

    Raises:
        UserError: the summary is damaged or lacks a key.
    """
    summary = run.summary
    if summary is None:
        return None
    needed = ("parameters", "tokens", "steps", "tokens_per_second", "command")
    return require(summary, needed, run.path / SUMMARY)


def require(summary: Any, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
    """Return `summary` if it is a mapping with these keys.

    Args:
        path: the file it was read from, for the message.

    Raises:
        UserError: it is not a mapping or lacks a key.
    """
    missing = list(keys) if not isinstance(summary, dict) else [key for key in keys if key not in summary]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing[:3])}; expected all keys that memexp writes. "
            "Likely cause: the file was edited or damaged, or an older version wrote it"
        )
    assert isinstance(summary, dict)
    return summary


def asked_of(run: Run, scored: Scored) -> Scoring:
    """The documents to score for a run: the settings in `scored`, completed by the run's own.

    Raises:
        UserError: the run's settings lack them.
    """
    path = run.path / CONFIG_FILE
    own = require(run.config, ("eval",), path)["eval"]
    require(own, ("documents", "max_document", "lanes"), path)
    return scored.of({item.name: own[item.name] for item in fields(Scoring) if item.name in own})


def describe(scored: Scoring) -> str:
    """The documents in words, such as 'test, first 8 documents, first 8,192 tokens of each'."""
    counted = {0: "all documents", 1: "first document"}
    documents = counted.get(scored.documents, f"first {scored.documents:,} documents")
    of_each = " of each" if scored.documents != 1 else ""
    tokens = f"first {scored.max_document:,} tokens{of_each}" if scored.max_document else "whole"
    return f"{scored.split}, {documents}, {tokens}"


def progress_of(run: Run) -> str:
    """State and step of a run that is not done, such as 'running, step 120 of 1,000'."""
    step = max((line.get("step", 0) for line in run.metrics), default=0)
    return f"{run.state}, step {step:,} of {run.config.get('steps', 0):,}"


SUMS_AGREE = 1e-11
"""Relative difference up to which two sums of the same nats can differ, since processors add in different orders."""


@dataclass(frozen=True)
class TokenScores:
    """The nats of every token of one score.

    Attributes:
        label: the run's name, followed by @mem-memory if these differ from the run's own.
        path: the score's folder.
        nats_N, tokens_N: float64 and integer, documents one after another; N scored tokens.
        documents: id and number of scored tokens of each document, in the order of the arrays.
        retrieved: `memexp.store.folder.RETRIEVED`, one row per scored token; None if it was not kept.
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
        """Whether each document read its own memory, so that it can be compared with another document's memory."""
        return bool(self.summary["memory_slots"]) and self.summary["memory"] == "on"

    @property
    def retrieves(self) -> bool:
        """Whether its architecture can say which tokens each token retrieved."""
        arch = _arch_of(Run(self.path.parents[1]))
        return arch is not None and arch.retrieves

    def command(self, *more: str, memory: str = "on") -> str:
        """The command that scores the same documents again, with the settings `more` added."""
        return Score(self.path).command(*more, memory=memory, own=Run(self.path.parents[1]).config.get("mem"))


def find_foreign(scores: TokenScores) -> TokenScores | None:
    """The score of the same tokens with another document's memory; None if there is none.

    Raises:
        UserError: that score is damaged.
    """
    name = Score(scores.path).name
    if name is None or not scores.has_memory:
        return None
    score = Run(scores.path.parents[1]).score(name._replace(memory="foreign"))
    if score is None:
        return None
    foreign = load_scores(f"{scores.label}-foreign", score)
    return foreign if foreign.summary["tokens_hash"] == scores.summary["tokens_hash"] else None


def find_score(root: Path, name: str, scored: Scored, *, tag: str | None = None) -> tuple[str, Score]:
    """The full name and the score that RUN, RUN@mem or RUN@mem-memory stands for.

    Raises:
        UserError: there is no such run or score, or the run is not done.
    """
    match = _NAMED.fullmatch(name)
    if match is None:
        raise UserError("a run's name is empty; expected RUN, RUN@mem or RUN@mem-memory")
    if "@" in name and match["mem"] is None:
        example = f"{name.split('@')[0]}@512-off"
        raise UserError(f"{name!r} does not name a score; expected RUN, RUN@mem or RUN@mem-memory, such as {example}")
    run = find_run(root, match["run"], tag=tag)
    if run.summary is None:
        raise UserError(
            f"{run.name} is not done ({progress_of(run)}); expected a finished run; train it to the end first"
        )
    own = run.config.get("mem")
    if not isinstance(own, int):
        raise UserError(
            f"{run.path / CONFIG_FILE} says mem={own!r}; expected a whole number. Likely cause: it was edited"
        )
    unit = {"": 1, "k": 1 << 10, "m": 1 << 20}[(match["unit"] or "").lower()]
    mem = own if match["mem"] is None else int(match["mem"]) * unit
    memory = match["memory"] or "on"
    asked = asked_of(run, scored)
    wanted = ScoreName(asked.split, asked.documents, asked.max_document, mem, memory)
    score = run.score(wanted)
    if score is None:
        if (arch := _arch_of(run)) is not None:
            refuse_fixed_memory(run, arch, trained=own, asked=mem)
        command = eval_command(run.name, scored, root=run.root, mem=mem if mem != own else None, memory=memory)
        existing = ", ".join(score.path.name for score in run.scores) or "none"
        raise UserError(
            f"{run.name} has no score {wanted.folder} (it has: {existing}); expected this score: `{command}` makes it"
        )
    suffix = "" if match["mem"] is None else f"@{mem}" + (f"-{memory}" if memory != "on" else "")
    return run.name + suffix, score


def _arch_of(run: Run) -> type[Arch] | None:
    """The schema of a run's architecture; None if this version has none of that name."""
    return ARCHS.get(run.config.get("arch", {}).get("name"))


def refuse_fixed_memory(run: Run, arch: type[Arch], *, trained: int, asked: int) -> None:
    """Refuse to score a run with another size of its memory than it was trained with, where that is the size of parameters.

    Raises:
        UserError: names both sizes.
    """
    if asked != trained and arch.mem_unit and not arch.resizable:
        raise UserError(
            f"mem is {asked}, but {run.name} was trained with mem={trained} and its memory consists of parameters; "
            f"expected mem={trained}. For another size, train another run with mem={asked}"
        )


def load_scores(label: str, score: Score) -> TokenScores:
    """Load the arrays of a score and check them against its list of documents.

    Raises:
        UserError: a file is absent or damaged, or its length does not fit the documents.
    """
    again = f"Likely cause: it was cut short or edited; {score.again}"
    summary = read_summary(score)
    nats, tokens = (_array(score.verified(name), again) for name in (TOKEN_NATS, "tokens.npy"))
    try:
        documents = [(str(item["id"]), int(item["tokens"])) for item in score.documents]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{score.path / 'documents.json'} is not a list of documents; expected each document's id and tokens. {again}"
        ) from error
    expected = sum(length for _, length in documents)
    for name, array in ((TOKEN_NATS, nats), ("tokens.npy", tokens)):
        if array.shape != (expected,):
            raise UserError(
                f"{score.path / name} has shape {array.shape}; expected {expected:,} numbers, as documents.json says. "
                f"{again}"
            )
    if expected == 0:
        raise UserError(f"{score.path} scored no token; expected at least one. Likely cause: its documents are empty")
    if not np.isfinite(nats).all():
        where = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise UserError(
            f"{score.path / TOKEN_NATS} holds {nats[where]} at index {where:,}; expected finite losses. {again}"
        )
    _refuse_other_sums(score, nats, again)
    retrieved = _retrieved(score.verified("retrieved.npy"), expected, again)
    return TokenScores(label, score.path, summary, nats.astype(np.float64), tokens, documents, retrieved)


def _refuse_other_sums(score: Score, nats_N: np.ndarray, again: str) -> None:
    """Compare the nats with their sums in documents.json, because scores of older versions have no checksums.

    Raises:
        UserError: the sum of a document is another.
    """
    end = 0
    for row in score.documents:
        start, end = end, end + int(row["tokens"])
        seen = float(nats_N[start:end].sum(dtype=np.float64))
        if not np.isclose(seen, row.get("nats", seen), rtol=SUMS_AGREE, atol=0):
            raise UserError(
                f"{score.path / TOKEN_NATS} holds {seen:.9g} nats for {row['id']}; expected {row['nats']:.9g}, as documents.json "
                f"says. {again}"
            )


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
        raise UserError(f"{path} holds no array of numbers; expected the numbers of a score. {again}")
    return array


def _load(path: Path, again: str) -> np.ndarray:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no ordinary file")
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected the numbers of a score. {again}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; expected a NumPy array. {again}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds no array; expected the numbers of a score. {again}")
    return array


def never_full(fill: float | None, *, slots: int, segment: int) -> bool:
    """Whether a part of a memory stayed empty, so that fewer slots would have been the same memory.

    A segment is written after it was read. So the last segment of a document as long as the memory finds one segment's slots
    empty; this counts as full.

    Args:
        fill: the largest share of the slots that was filled when a segment was read; None without a memory.
    """
    return fill is not None and fill * slots + segment < slots
