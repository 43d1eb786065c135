"""The finished runs and scores of a table, and the rows and columns that they belong to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.groups import Scored, Scoring
from memexp.config.introspection import flatten
from memexp.errors import UserError
from memexp.files import SUMMARY
from memexp.report.metrics import METRICS, Metric
from memexp.report.table.settings import BEFORE, Described, differing, made_before, settings_of, settings_to_show
from memexp.store.archive import positions_of
from memexp.store.folder import CONFIG_FILE, Run, Score, ScoreName
from memexp.store.identity import revisions_of
from memexp.store.scores import asked_of, describe, read_summary, require
from memexp.wording import perplexity_in

DIVERGES = math.inf
"""The perplexity of a run that has diverged; its loss is still a finite number."""

POSITION = "position"
"""The value of `by` that stands for how far a token is from its document's start, not for a property of answers."""

TOKENIZER = "data.tokenizer"
"""The name under which a row shows the hash of its tokenizer, where no setting tells tokenizers apart."""

_SHAPE = ("layers", "width", "heads", "head_size", "feedforward")

_VARIANTS = ("on", "off", "foreign")


@dataclass(frozen=True)
class Row:
    """Everything in which two runs of a table can differ, apart from data set and seed. Lengths are in tokens.

    Attributes:
        mem, trained_mem: the memory's size as scored and as trained; they differ when `eval` was given another.
        memory: slots as scored, 0 without a memory.
        variant: state of the memory in scoring: on, off (always empty) or foreign (the memory of another document).
        settings: the remaining settings in which runs of the table differ and that its presets do not imply, with their values.
        changed: how many of them have another value than the presets give.
    """

    architecture: str
    context: int
    cache: int
    memory: int
    mem: int
    trained_mem: int
    variant: str
    settings: tuple[tuple[str, str], ...]
    changed: int = field(default=0, compare=False)

    @property
    def label(self) -> str:
        """A name to type: xl-64-64-0, knn-64-64-512-off, knn-64-64-512-trained4096-optim.rate:0.003."""
        parts = [self.architecture, str(self.context), str(self.cache), str(self.memory)]
        parts += [self.variant] if self.variant != "on" else []
        parts += [f"trained{self.trained_mem}"] if self.trained_mem != self.mem else []
        return "-".join(parts + [f"{key}:{value}" for key, value in self.settings])

    @property
    def order(self) -> tuple[Any, ...]:
        """Architectures as the settings list them, then by size, then those first whose settings are as the presets give them."""
        known = list(ARCHS)
        place = known.index(self.architecture) if self.architecture in known else len(known)
        sizes = (self.context, self.cache, self.trained_mem, self.memory, _VARIANTS.index(self.variant))
        return (place, self.architecture, *sizes, self.changed, self.settings)


@dataclass(frozen=True)
class Trained:
    """A finished run, scored or not.

    Attributes:
        config: its settings.
        root: where to look for the run that it started from.
        asked: the documents that the table needs a score on.
        revisions: those that its identity names.
    """

    name: str
    seed: int
    data: str
    architecture: str
    context: int
    mem: int
    config: dict[str, Any]
    root: Path
    summary: dict[str, Any]
    scores: tuple[tuple[Score, ScoreName], ...]
    asked: Scoring
    revisions: tuple[str, ...]

    @staticmethod
    def read(run: Run, summary: dict[str, Any], root: Path, scored: Scored) -> "Trained":
        config = require(run.config, ("arch", "data", "seed", "segment", "mem"), run.path / CONFIG_FILE)
        scores = tuple((score, asked) for score in run.scores if (asked := score.name) is not None)
        try:
            seed, context, mem = (int(config[key]) for key in ("seed", "segment", "mem"))
            name, data = str(config["arch"]["name"]), str(config["data"]["name"])
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"{run.path / CONFIG_FILE} does not hold a run's settings ({error}); expected what `memexp train` wrote. "
                "Likely cause: it was edited or damaged"
            ) from error
        return Trained(
            run.name,
            seed,
            data,
            name,
            context,
            mem,
            config,
            root,
            summary,
            scores,
            asked_of(run, scored),
            tuple(revisions_of(run)),
        )

    @cached_property
    def settings(self) -> dict[str, str]:
        """The settings as text, without those that have columns of their own; see `memexp.report.table.settings`."""
        return settings_of(self.config, self.root) | {BEFORE: made_before(self.config, self.revisions)}

    @cached_property
    def described(self) -> Described:
        return Described(self.config, self.settings)

    @cached_property
    def scale(self) -> tuple[str, ...]:
        """The shape of the network, the number of positions that training read, and the run that it started from.

        Raises:
            UserError: a length or a number of steps is no number.
        """
        flat = flatten(self.config)
        counts = [flat.get(name, 1) for name in ("steps", "lanes", "segment", "accumulate")]
        if not all(isinstance(count, int) for count in counts):
            raise UserError(
                f"the config.yaml of {self.name} holds {counts} as its steps, lanes, segment and accumulate; expected whole numbers. Likely "
                "cause: it was edited or damaged"
            )
        shape = (str(flat.get(f"size.{name}")) for name in _SHAPE)
        return (*shape, str(math.prod(counts)), self.settings.get("init_from", "none"))

    def is_of(self, row: Row, keys: Sequence[str]) -> bool:
        """Whether a score of this run belongs in `row`, if its memory is set as the row says; the run shows the settings `keys`."""
        same = (self.architecture, self.context, self.mem) == (row.architecture, row.context, row.trained_mem)
        shown = [(key, value) for key, value in row.settings if key != TOKENIZER]
        return same and shown == [(key, self.settings[key]) for key in keys if key != TOKENIZER]


@dataclass(frozen=True)
class Column:
    """A data set, or only the answers of it whose slice `by` has this value.

    Attributes:
        text: which of the scored texts of the data set, in a few characters; empty if there is only one.
        place: the place of this text among them.
    """

    data: str
    by: str = ""
    value: str = ""
    text: str = ""
    place: int = 0

    @property
    def source(self) -> str:
        """The data set with its text."""
        return f"{self.data} {self.text}".strip()

    @property
    def label(self) -> str:
        if self.by == POSITION:
            return f"{self.source} to {int(self.value):,}"
        return f"{self.source} {self.by}={self.value}" if self.by else self.source

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts numbers by size, because a shorter number is a smaller number."""
        return (self.data, self.place, len(self.value), self.value)


@dataclass(frozen=True)
class Entry:
    """One score of one run."""

    run: Trained
    score: Score
    summary: dict[str, Any]

    @property
    def tokenizer(self) -> str:
        return str(self.summary["tokenizer_hash"])

    @property
    def asked(self) -> str:
        """The documents that are scored, in words."""
        return describe(self.run.asked)

    @property
    def asked_for(self) -> bool:
        """Whether the score is on the documents that the table needs."""
        asked = self.score.name
        return asked is not None and asked.matches(self.run.asked)

    @property
    def of_own_memory(self) -> bool:
        """Whether the score was made with the memory that the run was trained with."""
        asked = self.score.name
        return asked is not None and (asked.mem, asked.memory) == (self.run.mem, "on")

    def columns(self, by: str, text: str = "", place: int = 0) -> list[Column]:
        """The columns of a scored text that the score belongs to: one, or with `by` one for each value of that slice."""
        if not by:
            return [Column(self.run.data, text=text, place=place)]
        if by == POSITION:
            return [Column(self.run.data, by, str(end), text, place) for end in self.nats_to]
        return [Column(self.run.data, by, value, text, place) for value in self.summary["slices"][by]]

    def has(self, column: Column) -> bool:
        """Whether it has scored something of the column's slice."""
        if not column.by:
            return True
        if column.by == POSITION:
            return int(column.value) in self.nats_to
        return column.value in self.summary.get("slices", {}).get(column.by, {})

    def value(self, metric: Metric, column: Column) -> float:
        """Its number for the metric; infinite if it has diverged."""
        if column.by == POSITION:
            return metric.of_nats(self.nats_to[int(column.value)])
        shown = self.summary["slices"][column.by][column.value] if column.by else self.summary
        value = shown[metric.field]
        return math.inf if value is None else float(value)

    @cached_property
    def nats_to(self) -> dict[int, float]:
        """Mean nats of the scored tokens in each range of positions, by its end; see `positions_of`."""
        return {int(end): part["nats"] / part["tokens"] for end, part in positions_of(self.score).items()}

    def lacks(self, metric: Metric, by: str) -> str:
        """Why the score has no number for this metric and slice; empty if it has."""
        if metric.field not in self.summary:
            return f"{self.run.data} has no {metric.of}, so no {metric.name}"
        if by == POSITION and "accuracy" in self.summary:
            return f"only answers of {self.run.data} are scored, so there are no nats by position"
        if by == POSITION:
            return "" if self.nats_to else "the losses of its tokens are not there, so there are no nats by position"
        if by and by not in (slices := self.summary["slices"]):
            lack = f"{self.run.data} has no slice {by} (it has: {', '.join(slices) or 'none'})"
            # every score of a task has a length since there is such a slice
            older = f"{lack}. Likely cause: an older version scored it; `memexp eval RUN force=true` does it again"
            return older if by == "length" and slices else lack
        return ""


def read_entry(run: Trained, score: Score) -> Entry:
    """Read a score of `run`.

    Raises:
        UserError: its summary is damaged or holds a number that is not finite.
    """
    summary = read_summary(score)
    summary = {**summary, "perplexity": perplexity_in(summary)}
    values = [summary[metric.field] for metric in METRICS.values() if metric.field in summary]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values if value != DIVERGES):
        raise UserError(
            f"{score.path / SUMMARY} holds {values} as its means; expected finite numbers. "
            f"Likely cause: it was edited; {score.again}"
        )
    return Entry(run, score, summary)


def keys_to_show(runs: Sequence[Trained], entries: Sequence[Entry]) -> dict[str, list[str]]:
    """By a run's name the settings that it shows, and the tokenizer's hash if only that shows that tokenizers differ."""
    shown = settings_to_show([run.described for run in runs])
    if not any(key.startswith(f"{TOKENIZER}.") for keys in shown for key in keys):
        hashes = differing([(entry.run.data, {TOKENIZER: entry.tokenizer[:8]}) for entry in entries])
        shown = [[*keys, *hashes] for keys in shown]
    return {run.name: keys for run, keys in zip(runs, shown, strict=True)}


def row_of(entry: Entry, keys: Sequence[str]) -> Row:
    """The row that a score belongs to; `keys` are the settings that it shows besides what every row shows."""
    run, summary, asked = entry.run, entry.summary, entry.score.name
    assert asked is not None
    shown = tuple((key, (run.settings | {TOKENIZER: entry.tokenizer[:8]})[key]) for key in keys)
    return Row(
        architecture=run.architecture,
        context=run.context,
        cache=int(summary["cache"]),
        memory=int(summary["memory_slots"]),
        mem=asked.mem,
        trained_mem=run.mem,
        variant=asked.memory,
        settings=shown,
        changed=sum(run.described.implied(key) != value for key, value in shown),
    )
