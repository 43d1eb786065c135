"""A paper's table beside ours before it is written down: what was published, what our runs score, and what may be said of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from memexp.experiment.definition import Experiment
from memexp.experiment.published import Number, Published
from memexp.report.metrics import Metric
from memexp.report.statistics import Agreement, Gap, Losses, SeedSpread, agreement, gap, seed_spread
from memexp.report.table.comparison import Spread
from memexp.report.table.entries import Column, Entry
from memexp.runs.archive import documents_of

Cells = dict[tuple[str, str], list[Entry]]
"""Scores by row and column."""


@dataclass
class Reproduction:
    """A table of a paper beside ours.

    Attributes:
        data: of each column shown the name of our data, in the order of the columns.
        cells: the scores of each row and column, sorted by seed; a cell without any is not there.
        missing: what each empty cell is, and the command that fills it.
        foreign: columns whose scores are light copies of another corpus than the one prepared here.
        left_out: one line for each run that cannot be read, or for those of a column that do not compare.
    """

    experiment: Experiment
    scale: str
    metric: Metric
    published: Published
    data: dict[str, str]
    cells: Cells = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _gaps: dict[tuple[str, str, str], Gap] = field(default_factory=dict)
    _spreads: dict[str, tuple[SeedSpread | None, SeedSpread | None]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """Those that have a cell in a column shown."""
        return [row for row in self.experiment.rows if any(self.has_cell(row, column) for column in self.columns)]

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    @property
    def whole_agreement(self) -> Agreement:
        """Trend agreement of all columns of which something is there."""
        return Agreement.together(map(self.agreement, self.with_filled_columns().columns))

    def with_filled_columns(self) -> "Reproduction":
        """The same without columns of which nothing is there."""
        some = {column for _, column in self.cells}
        return replace(self, data={column: data for column, data in self.data.items() if column in some})

    def has_cell(self, row: str, column: str) -> bool:
        """Whether the row has a cell there, filled or not."""
        return column in (self.experiment.rows[row].columns or self.columns)

    def baseline(self, column: str) -> str:
        """The row that differences are taken to: the experiment's, or the first that has a cell there."""
        asked = [] if self.experiment.baseline is None else [self.experiment.baseline]
        return next(row for row in [*asked, *self.rows] if self.has_cell(row, column))

    def spread(self, row: str, column: str) -> Spread | None:
        """Mean and spread of ours over seeds; None for an empty cell."""
        entries = self.cells.get((row, column))
        return Spread.of([self.value(entry, column) for entry in entries]) if entries else None

    def value(self, entry: Entry, column: str) -> float:
        """What a score says in a column: of all that was scored, or of a slice."""
        by, _, value = (self.experiment.columns[column].slice or "").partition("=")
        return entry.value(self.metric, Column(entry.run.data, by, value))

    def published_number(self, row: str, column: str) -> Number | None:
        """The paper's number of a cell, or of the cell that it stands for."""
        return self.published.numbers.get((row, self.experiment.columns[column].published or column))

    def gap(self, row: str, other: str, column: str) -> Gap | None:
        """Ours of `row` less that of `other`, in nats or in what the metric counts; None where either is missing."""
        if not all((one, column) in self._losses for one in (row, other)):
            return None
        key = (row, other, column)
        if key not in self._gaps:
            self._gaps[key] = gap(
                self._losses[row, column], self._losses[other, column], self.seed_spread(row, other, column)
            )
        return self._gaps[key]

    def gap_to_baseline(self, row: str, column: str) -> Gap | None:
        """The same to the column's baseline; None for that itself."""
        base = self.baseline(column)
        return None if row == base else self.gap(row, base, column)

    def seed_spread(self, row: str, other: str, column: str) -> SeedSpread | None:
        """How far the difference of two rows moves from seed to seed; None where no rows of the column share two seeds.

        Rows that come from the same training share what its seed did, and so have a spread of their own where it is known.
        """
        if column not in self._spreads:
            families: dict[str, list[Losses]] = {}
            for (one, there), found in self._losses.items():
                if there == column:
                    families.setdefault(self._training(one), []).append(found)
            apart = seed_spread([[max(family, key=lambda one: len(one.seeds)) for family in families.values()]])
            self._spreads[column] = (seed_spread(families.values()) or apart, apart)
        akin, apart = self._spreads[column]
        return akin if self._training(row) == self._training(other) else apart

    def _training(self, row: str) -> str:
        """The row whose training from nothing this one comes from."""
        before = self.experiment.rows[row].scores or self.experiment.rows[row].init_from
        return row if before is None else self._training(before)

    def shown(self, column: str) -> Callable[[float], float]:
        """From a gap's number to what a table shows: percent of a relative metric, else the metric's own unit."""
        if self.metric.relative:
            return lambda nats: 100 * math.expm1(nats)
        entry = next(entries[0] for (_, there), entries in self.cells.items() if there == column)
        unit = 1.0 if self.metric.of else entry.summary[self.metric.field] / entry.summary["nats_per_token"]
        return lambda nats: unit * nats

    def published_gap(self, row: str, column: str) -> float | None:
        """The paper's difference to the baseline, in the unit of ours."""
        number, base = (self.published_number(one, column) for one in (row, self.baseline(column)))
        if row == self.baseline(column) or number is None or base is None:
            return None
        return 100 * (number.value / base.value - 1) if self.metric.relative else number.value - base.value

    def share_of_gain(self, row: str, column: str) -> float | None:
        """Of the goal's difference to the baseline, the share that this row has, over the seeds that all three have if there are
        any; None without a goal or a cell."""
        goal, base = self.experiment.goal, self.baseline(column)
        if goal is None or row == base or not all((one, column) in self._losses for one in (row, goal, base)):
            return None
        losses = [self._losses[one, column] for one in (row, goal, base)]
        if common := sorted(set.intersection(*(set(one.seeds) for one in losses))):
            losses = [one.of(common) for one in losses]
        part, whole = (gap(one, losses[-1]).mean for one in losses[:2])
        return part / whole if whole else None

    def step_time(self, row: str) -> float | None:
        """Of a training step, relative to the baseline's; the mean over the columns and seeds that both have.

        Of the CPU where a baseline's is known, for other work on the machine changes it least; else of the clock.
        """
        shares = []
        for column in self.columns:
            ours, theirs = (
                {entry.run.seed: self._step_seconds(entry.run.summary) for entry in self.cells.get((one, column), [])}
                for one in (row, self.baseline(column))
            )
            for seed in ours.keys() & theirs.keys():
                time, base = ours[seed], theirs[seed]
                if time is not None and base is not None:
                    shares.append(time / base)
        return float(np.mean(shares)) if shares else None

    @cached_property
    def in_cpu_time(self) -> bool:
        """Whether step times are the CPU's: where a baseline's are known."""
        baselines = [self.cells.get((self.baseline(column), column), []) for column in self.columns]
        return any(_has_cpu_time(entry.run.summary) for entries in baselines for entry in entries)

    def _step_seconds(self, summary: Mapping[str, Any]) -> float | None:
        if not self.in_cpu_time:
            return float(summary["tokens"] / summary["steps"] / summary["tokens_per_second"])
        return float(summary["cpu_seconds"] / summary["steps"]) if _has_cpu_time(summary) else None

    def tokens(self, row: str) -> list[int]:
        """Tokens of training of the row's runs, sorted, each once."""
        entries = [entry for column in self.columns for entry in self.cells.get((row, column), [])]
        return sorted({int(entry.run.summary["tokens"]) for entry in entries})

    def agreement(self, column: str) -> Agreement:
        """How far our order of the rows is the paper's."""
        numbers = {row: one for row in self.rows if (one := self.published_number(row, column)) is not None}
        gaps = {(a, b): found for a, b in combinations(self.rows, 2) if (found := self.gap(a, b, column)) is not None}
        return agreement({row: (number.value, number.std) for row, number in numbers.items()}, gaps, self.rows)

    def close(self, column: str) -> dict[str, int]:
        """The next seed of each row that stands in a pair which the paper decides and ours do not, where the rows of the column
        have the experiment's seeds; so none is asked for twice."""
        rows = {row for pair in self.agreement(column).close for row in pair}
        asked = set(self.experiment.seeds)
        seeds = {row: {entry.run.seed for entry in self.cells[row, column]} for row in self.rows if row in rows}
        return {row: max(asked) + 1 for row, those in seeds.items() if those == asked}

    @cached_property
    def _losses(self) -> dict[tuple[str, str], Losses]:
        return {
            (row, column): _as_one_document(entries, [self.value(entry, column) for entry in entries])
            if self.experiment.columns[column].slice is not None or self.metric.of == "classes"
            else _losses(entries, self.metric)
            for (row, column), entries in self.cells.items()
        }


def _has_cpu_time(summary: Mapping[str, Any]) -> bool:
    """Whether a run was trained on a CPU and kept how long that worked."""
    return summary.get("device") == "cpu" and summary.get("cpu_seconds") is not None


def _as_one_document(entries: Sequence[Entry], values: list[float]) -> Losses:
    """As of one document, where only the mean is known: of a slice, of F1, of an older score."""
    return Losses(_seeds(entries), np.array(values)[:, None], np.ones(1))


def _losses(entries: Sequence[Entry], metric: Metric) -> Losses:
    """The losses of each document, where the scores say them."""
    documents, counted = [documents_of(entry.score) for entry in entries], "correct" if metric.of else "nats"
    tokens = [[row["tokens"] for row in rows] for rows in documents]
    if not all(counted in row for rows in documents for row in rows or [{}]) or any(one != tokens[0] for one in tokens):
        field = metric.field if metric.of else "nats_per_token"
        return _as_one_document(entries, [float(entry.summary[field]) for entry in entries])
    tokens_D = np.array(tokens[0], dtype=np.float64)
    counts_SD = np.array([[row[counted] for row in rows] for rows in documents], dtype=np.float64)
    if metric.field == "exact_match":
        return Losses(_seeds(entries), (counts_SD == tokens_D).astype(np.float64), np.ones(len(tokens_D)))
    return Losses(_seeds(entries), counts_SD, tokens_D)


def _seeds(entries: Sequence[Entry]) -> tuple[int, ...]:
    return tuple(entry.run.seed for entry in entries)
