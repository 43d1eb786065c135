"""A paper's table beside ours as numbers: the published numbers, our scores, and their differences and agreement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from memexp.experiment.definition import Experiment
from memexp.experiment.published import Number, Published
from memexp.report.metrics import METRICS, Metric
from memexp.report.statistics import Agreement, Gap, Losses, SeedSpread, Spread, agreement, gap, seed_spread
from memexp.report.table.entries import POSITION, Column, Entry
from memexp.store.archive import documents_of
from memexp.wording import percent_of

LEAST_GAIN = 0.0005
"""The smallest gain of which shares are shown, in nats or in the unit of the metric; a smaller one is rounding."""

Cells = dict[tuple[str, str], list[Entry]]
"""Scores by row and column."""

MadeBefore = dict[tuple[str, ...], Cells]
"""By what holds since then: the rows and columns of runs that no longer count, with those of their scores that are known."""


@dataclass
class Reproduction:
    """A paper's table beside ours.

    Attributes:
        data: the name of our data for each column to show, in the order of the columns.
        cells: the scores of each row and column, sorted by seed, without empty cells.
        missing: each empty cell, and the command that fills it.
        foreign: columns whose scores are light copies of runs on a corpus that differs from the one prepared here.
        made_before: cells with runs that are not counted, because the table or a setting's meaning changed.
        left_out: one line for each run that cannot be read, and for the scores of a column that cannot be compared.
    """

    experiment: Experiment
    scale: str
    published: Published
    data: dict[str, str]
    cells: Cells = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    made_before: MadeBefore = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    _gaps: dict[tuple[str, str, str], Gap] = field(default_factory=dict)
    _spreads: dict[str, tuple[SeedSpread | None, SeedSpread | None]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """The rows that have a cell in one of the columns."""
        return [row for row in self.experiment.rows if any(self.has_cell(row, column) for column in self.columns)]

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    @property
    def whole_agreement(self) -> Agreement:
        """Trend agreement of all columns that have a filled cell."""
        return Agreement.together(map(self.agreement, self.with_filled_columns().columns))

    def with_filled_columns(self) -> "Reproduction":
        """This table without its empty columns."""
        filled = {column for _, column in self.cells}
        return replace(self, data={column: data for column, data in self.data.items() if column in filled})

    def has_cell(self, row: str, column: str) -> bool:
        """Whether the row has a cell in the column, filled or not."""
        return column in (self.experiment.rows[row].columns or self.columns)

    def baseline(self, column: str) -> str:
        """The row that differences are taken to: the experiment's baseline, or else the first row with a cell in the column."""
        asked = [] if self.experiment.baseline is None else [self.experiment.baseline]
        return next(row for row in [*asked, *self.rows] if self.has_cell(row, column))

    def spread(self, row: str, column: str) -> Spread | None:
        """Mean and spread of our scores over seeds; None for an empty cell."""
        entries = self.cells.get((row, column))
        return Spread.of([self.value(entry, column) for entry in entries]) if entries else None

    def value(self, entry: Entry, column: str) -> float:
        """The value of a score in a column: over all that was scored, or over the column's slice."""
        return entry.value(self.experiment.metric_of(column), self.part_of(column, entry))

    def part_of(self, column: str, entry: Entry) -> Column:
        """The part of a score that a column shows: all that was scored, or the column's slice."""
        by, _, value = (self.experiment.columns[column].slice_at(self.scale) or "").partition("=")
        return Column(entry.run.data, by, value)

    def published_number(self, row: str, column: str) -> Number | None:
        """The paper's number for a cell."""
        return self.published.numbers.get((row, self.experiment.columns[column].published or column))

    def gap(self, row: str, other: str, column: str) -> Gap | None:
        """Our `row` minus our `other`, in nats or in the unit of the metric; None if either is missing."""
        if not all((label, column) in self._losses for label in (row, other)):
            return None
        key = (row, other, column)
        if key not in self._gaps:
            self._gaps[key] = gap(
                self._losses[row, column], self._losses[other, column], self.seed_spread(row, other, column)
            )
        return self._gaps[key]

    def gap_to_baseline(self, row: str, column: str) -> Gap | None:
        """The gap to the column's baseline; None for the baseline itself."""
        base = self.baseline(column)
        return None if row == base else self.gap(row, base, column)

    def seed_spread(self, row: str, other: str, column: str) -> SeedSpread | None:
        """How much the difference of two rows varies over seeds; None if no rows of the column share two seeds.

        Rows from the same training share the effect of its seed. Their spread is estimated from such rows alone, if possible.
        """
        if column not in self._spreads:
            families: dict[str, list[Losses]] = {}
            for (label, of_column), losses in self._losses.items():
                if of_column == column:
                    families.setdefault(self._training(label), []).append(losses)
            apart = seed_spread([[max(family, key=lambda losses: len(losses.seeds)) for family in families.values()]])
            self._spreads[column] = (seed_spread(families.values()) or apart, apart)
        akin, apart = self._spreads[column]
        return akin if self._training(row) == self._training(other) else apart

    def _training(self, row: str) -> str:
        """The row whose training from scratch this row goes back to."""
        origin = self.experiment.rows[row].scores or self.experiment.start_of(row, self.scale)
        return row if origin is None else self._training(origin)

    def shown(self, column: str) -> Callable[[float], float]:
        """A function from a gap to the number in the table: percent for a relative metric, else the unit of the metric."""
        metric = self.experiment.metric_of(column)
        if metric.relative:
            return percent_of
        entry = next(entries[0] for (_, of_column), entries in self.cells.items() if of_column == column)
        unit = 1.0 if metric.of else entry.summary[metric.field] / entry.summary["nats_per_token"]
        return lambda nats: unit * nats

    def published_gap(self, row: str, column: str) -> float | None:
        """The paper's difference to the baseline, in the unit of our differences."""
        number, base = (self.published_number(label, column) for label in (row, self.baseline(column)))
        if row == self.baseline(column) or number is None or base is None:
            return None
        relative = self.experiment.metric_of(column).relative
        return 100 * (number.value / base.value - 1) if relative else number.value - base.value

    def share_of_gain(self, row: str, column: str) -> float | None:
        """This row's difference to the baseline, as a share of the goal's; None without a goal or a score.

        It is over the seeds that all three rows have, or over all seeds if they share none.
        """
        goal, base = self.experiment.goal, self.baseline(column)
        if goal is None or row == base or not all((label, column) in self._losses for label in (row, goal, base)):
            return None
        models = [self._losses[label, column] for label in (row, goal, base)]
        if common := sorted(set.intersection(*(set(model.seeds) for model in models))):
            models = [model.of(common) for model in models]
        part, whole = (gap(model, models[-1]).mean for model in models[:2])
        return part / whole if abs(whole) >= LEAST_GAIN else None

    def step_time(self, row: str) -> float | None:
        """Time of a training step relative to the baseline, as the mean over the columns and seeds that both have.

        It is CPU time if that is known for a baseline, because other work on the machine changes it least; else it is
        wall-clock time.
        """
        bases = {column: self.baseline(column) for column in self.columns}
        return self._relative(row, bases, lambda entry: self._step_seconds(entry.run.summary))

    @cached_property
    def in_cpu_time(self) -> bool:
        """Whether step times are CPU time, which needs a baseline with known CPU time."""
        baselines = [self.cells.get((self.baseline(column), column), []) for column in self.columns]
        return any(_has_cpu_time(entry.run.summary) for entries in baselines for entry in entries)

    def _step_seconds(self, summary: Mapping[str, Any]) -> float | None:
        if not summary["steps"]:  # a published checkpoint that was only scored
            return None
        if not self.in_cpu_time:
            return float(summary["tokens"] / summary["steps"] / summary["tokens_per_second"])
        return float(summary["cpu_seconds"] / summary["steps"]) if _has_cpu_time(summary) else None

    def state(self, row: str) -> int | None:
        """Bytes that a lane carries from segment to segment; None if the row has no run that says it."""
        entries = [entry for column in self.columns for entry in self.cells.get((row, column), [])]
        return next(
            (int(size) for entry in entries if (size := entry.run.summary.get("state_bytes_per_lane")) is not None),
            None,
        )

    def token_time(self, row: str) -> float | None:
        """Time of scoring a token relative to the row `costs`, as the mean over the data sets and seeds that both have.

        It is CPU time where scores kept it, else wall-clock time; None if a score does not say how much it read.
        """
        costs = self.experiment.costs
        if costs is None:
            return None
        one_of_each = {data: column for column, data in self.data.items()}.values()
        return self._relative(row, dict.fromkeys(one_of_each, costs), lambda entry: _token_seconds(entry.summary))

    def _relative(self, row: str, bases: Mapping[str, str], seconds: Callable[[Entry], float | None]) -> float | None:
        """A row's time relative to that of a base row in each of these columns, as the mean over them and the seeds that both have."""
        shares = []
        for column, base in bases.items():
            ours, theirs = (
                {entry.run.seed: seconds(entry) for entry in self.cells.get((label, column), [])}
                for label in (row, base)
            )
            for seed in ours.keys() & theirs.keys():
                time, of_base = ours[seed], theirs[seed]
                if time is not None and of_base is not None:
                    shares.append(time / of_base)
        return float(np.mean(shares)) if shares else None

    def tokens(self, row: str) -> list[int]:
        """The numbers of training tokens of the row's runs, sorted, without duplicates."""
        entries = [entry for column in self.columns for entry in self.cells.get((row, column), [])]
        return sorted({int(entry.run.summary["tokens"]) for entry in entries})

    def agreement(self, column: str) -> Agreement:
        """How far our order of the rows agrees with the paper's."""
        numbers = {row: number for row in self.rows if (number := self.published_number(row, column)) is not None}
        gaps = {(a, b): ours for a, b in combinations(self.rows, 2) if (ours := self.gap(a, b, column)) is not None}
        return agreement({row: (number.value, number.std) for row, number in numbers.items()}, gaps, self.rows)

    def close(self, column: str) -> dict[str, int]:
        """The next seed of each row in a pair that differs in the paper and not in our runs, and that more seeds may decide.

        Only rows that have exactly the experiment's seeds get a seed, so that no row gets a second extra seed.
        """
        gaps = {pair: self.gap(*pair, column) for pair in self.agreement(column).close}
        # without a known spread over seeds, another seed is the only way to know it
        pairs = [
            pair for pair, gap in gaps.items() if gap is None or not gap.seeds or gap.seeds_to_decide() is not None
        ]
        rows = {row for pair in pairs for row in pair}
        asked = set(self.experiment.seeds)
        seeds = {row: {entry.run.seed for entry in self.cells[row, column]} for row in self.rows if row in rows}
        return {row: max(asked) + 1 for row, of_row in seeds.items() if of_row == asked}

    @cached_property
    def _losses(self) -> dict[tuple[str, str], Losses]:
        return {(row, column): self._losses_in(column, entries) for (row, column), entries in self.cells.items()}

    def _losses_in(self, column: str, entries: Sequence[Entry]) -> Losses:
        """The losses of a cell, in nats or in the unit of the metric, as `gap` compares them."""
        metric, parts = self.experiment.metric_of(column), [self.part_of(column, entry) for entry in entries]
        if parts[0].by or metric.of == "classes":
            # what follows from nats a token is compared in nats; `shown` makes the metric of them
            compared = METRICS["nats"] if parts[0].by == POSITION else metric
            return _as_one_document(
                entries, [entry.value(compared, part) for entry, part in zip(entries, parts, strict=True)]
            )
        return _losses(entries, metric)


def _has_cpu_time(summary: Mapping[str, Any]) -> bool:
    """Whether a run was trained on a CPU and its CPU time was kept."""
    return summary.get("device") == "cpu" and summary.get("cpu_seconds") is not None


def _token_seconds(summary: Mapping[str, Any]) -> float | None:
    """Seconds that a score took for each token that it read; a score of an older version does not say how many it read."""
    if not summary.get("tokens_read"):
        return None
    seconds = summary.get("cpu_seconds")
    return float(summary["seconds"] if seconds is None else seconds) / int(summary["tokens_read"])


def _as_one_document(entries: Sequence[Entry], values: list[float]) -> Losses:
    """The losses as if of a single document, for scores of which only the mean is known: slices, F1, and older scores."""
    return Losses(_seeds(entries), np.array(values)[:, None], np.ones(1))


def _losses(entries: Sequence[Entry], metric: Metric) -> Losses:
    """The losses of each document if the scores have them, else of all documents together."""
    documents, counted = [documents_of(entry.score) for entry in entries], "correct" if metric.of else "nats"
    tokens = [[row["tokens"] for row in rows] for rows in documents]
    if not all(counted in row for rows in documents for row in rows or [{}]) or any(
        counts != tokens[0] for counts in tokens
    ):
        field = metric.field if metric.of else "nats_per_token"
        return _as_one_document(entries, [float(entry.summary[field]) for entry in entries])
    tokens_D = np.array(tokens[0], dtype=np.float64)
    counts_SD = np.array([[row[counted] for row in rows] for rows in documents], dtype=np.float64)
    if metric.field == "exact_match":
        return Losses(_seeds(entries), (counts_SD == tokens_D).astype(np.float64), np.ones(len(tokens_D)))
    return Losses(_seeds(entries), counts_SD, tokens_D)


def _seeds(entries: Sequence[Entry]) -> tuple[int, ...]:
    return tuple(entry.run.seed for entry in entries)
