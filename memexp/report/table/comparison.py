"""A table as numbers, before it becomes text: the scores of each cell, their spread and their differences."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memexp.config.groups import Scored
from memexp.errors import UserError, did_you_mean
from memexp.report.metrics import METRICS, PER_TOKEN, Metric
from memexp.report.statistics import Spread
from memexp.report.table.compatibility import Text, refuse_twice, texts_of
from memexp.report.table.entries import POSITION, Column, Entry, Row, Trained, keys_to_show, read_entry, row_of
from memexp.store.folder import Run, ScoreName, command_in, eval_command
from memexp.store.scores import describe, progress_of, read_run_summary
from memexp.wording import listed


@dataclass(frozen=True)
class Difference:
    """A cell minus the baseline's cell, in percent for a relative metric.

    Attributes:
        paired: True for the mean over the seeds that both cells have, False for a difference of the two means.
    """

    spread: Spread
    paired: bool


@dataclass
class Comparison:
    """A table as numbers: rows, columns (scored texts or slices of them) and the scores of each cell, sorted by seed.

    Attributes:
        by: the slice whose values are columns; empty: none.
        gauges: names of the gauges to show.
        texts: the scored texts of each data set.
        finished: every finished run that has the metric, scored or not.
        shown: by a run's name the settings that its rows show.
        left_out: one line for each reason to leave out runs, with these.
        baselines: for each column and `Trained.scale` the row to which the differences of such rows are taken; a row that no other has
            the scale of has no entry.
    """

    metric: Metric
    scored: Scored
    by: str
    gauges: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    cells: dict[tuple[Row, Column], list[Entry]] = field(default_factory=dict)
    texts: dict[str, list[Text]] = field(default_factory=dict)
    finished: list[Trained] = field(default_factory=list)
    shown: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    baselines: dict[tuple[Column, tuple[Any, ...]], Row] = field(default_factory=dict)
    chosen: Row | None = None
    """The row that the user chose as the baseline of all; None: `baselines` hold the chosen ones."""

    def spread(self, row: Row, column: Column) -> Spread | None:
        """Mean and spread over seeds; None for a missing cell."""
        entries = self.cells.get((row, column))
        return Spread.of([entry.value(self.metric, column) for entry in entries]) if entries else None

    def gauge(self, row: Row, data: str, name: str) -> float | None:
        """Mean over the row's scores of a data set; None if no score has that gauge."""
        scores = {entry.score.path: entry for column in self.columns for entry in self.cells.get((row, column), [])}
        summaries = [entry.summary for entry in scores.values() if entry.run.data == data]
        values = [value for summary in summaries if (value := summary.get("gauges", {}).get(name)) is not None]
        return float(np.mean(values)) if values else None

    @property
    def data(self) -> list[str]:
        """The data sets, in the order of the columns."""
        return list(dict.fromkeys(column.data for column in self.columns))

    def baseline(self, row: Row, column: Column) -> Row | None:
        """The row with which a row is compared in a column, maybe itself; None if there is none."""
        if self.chosen is not None:
            return self.chosen
        entries = self.cells.get((row, column))
        return self.baselines.get((column, entries[0].run.scale)) if entries else None

    def baseline_rows(self, column: Column) -> list[Row]:
        """The baselines of a column, in the order of the rows."""
        if self.chosen is not None:
            return [self.chosen]
        return [row for row in self.rows if row in {base for (of, _), base in self.baselines.items() if of == column}]

    def difference(self, row: Row, column: Column) -> Difference | None:
        """Difference to the baseline's cell; None if either cell is missing or has diverged, and for the baseline itself."""
        baseline = self.baseline(row, column)
        if baseline is None or row == baseline:
            return None
        ours, theirs = self._by_seed(row, column), self._by_seed(baseline, column)
        if not ours or not theirs:
            return None
        if not all(math.isfinite(value) for value in [*ours.values(), *theirs.values()]):
            return None  # a diverged run has no distance to another
        if common := sorted(ours.keys() & theirs.keys()):
            return Difference(Spread.of([self._step(ours[seed], theirs[seed]) for seed in common]), True)
        means = (float(np.mean(list(values.values()))) for values in (ours, theirs))
        return Difference(Spread.of([self._step(*means)]), False)

    def _by_seed(self, row: Row, column: Column) -> dict[int, float]:
        return {entry.run.seed: entry.value(self.metric, column) for entry in self.cells.get((row, column), [])}

    def _step(self, value: float, base: float) -> float:
        return 100 * (value / base - 1) if self.metric.relative else value - base

    @property
    def unscored(self) -> list[Trained]:
        """Finished runs without the wanted score at the memory size of their training."""
        return [run for run in self.finished if not any(asked == self._own(run) for _, asked in run.scores)]

    def _own(self, run: Trained) -> ScoreName:
        return ScoreName(run.asked.split, run.asked.documents, run.asked.max_document, run.mem, "on")

    def filling(self, row: Row, data: str) -> str:
        """The command that fills a missing cell: an evaluation if the run exists, else a training run."""
        changed = row.mem if row.mem != row.trained_mem else None
        for run in self.runs_of(row):
            if run.data == data:
                return eval_command(run.name, self.scored, root=run.root, mem=changed, memory=row.variant)
        same_row = self.runs_of(row)[0]
        same_data = next(run for run in self.finished if run.data == data)
        trained = _with_data(same_row.summary["command"], same_data.summary["command"])
        training = command_in(same_row.root, trained)
        evaluation = eval_command("RUN", self.scored, root=same_row.root, mem=changed, memory=row.variant)
        return training if changed is None and row.variant == "on" else f"{training}, then {evaluation}"

    def runs_of(self, row: Row) -> list[Trained]:
        """The finished runs of a row, scored or not."""
        return [run for run in self.finished if self._is_of(run, row)]

    def _is_of(self, run: Trained, row: Row) -> bool:
        return run.is_of(row, self.shown[run.name])


def _with_data(command: str, other: str) -> str:
    """`command`, with its data settings replaced by those of the command `other`."""

    def is_data(word: str) -> bool:
        return word.lstrip("+").startswith(("data=", "data."))

    words = [word for word in shlex.split(command) if not is_data(word)]
    return shlex.join(words + [word for word in shlex.split(other) if is_data(word)])


def compare(
    root: Path,
    runs: Sequence[Run],
    *,
    metric: str,
    scored: Scored,
    by: str = "",
    gauges: Sequence[str] = (),
    baseline: str | None = None,
    data: Sequence[str] = (),
) -> Comparison:
    """Sort the scores of runs into rows and columns.

    Args:
        data: names of the corpora whose runs to show; empty: of all.
        by: a slice of the answers whose values become columns, or `POSITION`.
        gauges: names of gauges to show in columns of their own.

    Raises:
        UserError: there is nothing to show, scores cannot be compared, or the metric, slice, gauge, baseline or corpus does not exist.
    """
    if metric not in METRICS:
        raise UserError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}{did_you_mean(metric, METRICS)}")
    comparison = Comparison(METRICS[metric], scored, by, gauges)
    if by == POSITION and comparison.metric.field not in PER_TOKEN:
        raise UserError(
            f"by is {by} with metric={metric}; expected metric=nats, perplexity or bits_per_token with positions"
        )
    if by and by != POSITION and comparison.metric.of != "answers":
        raise UserError(
            f"by is {by} with metric={metric}; expected metric=accuracy or metric=exact_match with slices, or by={POSITION}"
        )
    known = _read(comparison, root, runs, data)
    entries = [entry for entry in known if entry.asked_for]
    if not entries:
        raise UserError(_nothing(comparison))
    comparison.shown = keys_to_show(comparison.finished, entries)
    _sort_into_cells(comparison, known)
    _refuse_unknown(gauges, entries)
    if baseline is None:
        comparison.baselines = _baselines(comparison)
    else:
        filled = {row for row, _ in comparison.cells}
        comparison.chosen = _starting_with(baseline, [row for row in comparison.rows if row in filled])
    return comparison


def _read(comparison: Comparison, root: Path, runs: Sequence[Run], data: Sequence[str]) -> list[Entry]:
    """The scores of the runs that were trained on these corpora; notes the runs, and why others are left out.

    Raises:
        UserError: no finished run was trained on one of the corpora.
    """
    known: list[Entry] = []
    corpora: set[str] = set()
    refused: dict[str, list[str]] = {}
    for run in runs:
        try:
            summary = read_run_summary(run)
            if summary is None:
                raise UserError(f"it is not done ({progress_of(run)})")
            trained = Trained.read(run, summary, root, comparison.scored)
            corpora.add(trained.data)
            if data and trained.data not in data:
                continue
            _ = trained.settings, trained.scale  # read now, so that what is wrong with them leaves out this run only
            read = [read_entry(trained, score) for score, _ in trained.scores]
            lacks = [(entry, entry.lacks(comparison.metric, comparison.by)) for entry in read]
            of_run = [entry for entry, lack in lacks if not lack]
            if lacks and not of_run:
                raise UserError(lacks[0][1])
            for entry, lack in lacks:
                if lack and entry.asked_for:  # a score that another version made
                    refused.setdefault(lack, []).append(f"{run.name} {entry.score.path.name}")
        except UserError as error:  # a run that cannot be read does not hide the rest
            refused.setdefault(str(error), []).append(run.name)
        else:
            comparison.finished.append(trained)
            known += of_run
    comparison.left_out = [
        f"{listed(names, most=3)} {'is' if len(names) == 1 else 'are'} left out: {reason}"
        for reason, names in refused.items()
    ]
    for name in data:
        if name not in corpora:
            raise UserError(
                f"data is {name!r}, with which no finished run here was trained; expected one of {', '.join(sorted(corpora)) or 'none'}"
                f"{did_you_mean(name, corpora)}"
            )
    return known


def _sort_into_cells(comparison: Comparison, known: Sequence[Entry]) -> None:
    """Sort scores into texts and cells, and these into rows and columns.

    Raises:
        UserError: scores of a corpus cannot be compared, or a cell has a seed twice.
    """
    entries = [entry for entry in known if entry.asked_for]
    keys, by = comparison.shown, comparison.by
    for corpus in dict.fromkeys(entry.run.data for entry in entries):
        texts = texts_of([entry for entry in entries if entry.run.data == corpus], comparison.metric)
        comparison.texts[corpus] = texts
        for place, text in enumerate(texts):
            for entry in text.entries:
                for column in entry.columns(by, text.name, place):
                    comparison.cells.setdefault((row_of(entry, keys[entry.run.name]), column), []).append(entry)
    for cell in comparison.cells.values():
        cell.sort(key=lambda entry: (entry.run.seed, entry.run.name))
        refuse_twice(cell)
    # A run that was scored only on other documents still has a row, with a dash.
    unscored = [run.name for run in comparison.unscored]
    on_other_documents = [entry for entry in known if entry.run.name in unscored and entry.of_own_memory]
    places = comparison.cells.keys() | {
        (row_of(entry, keys[entry.run.name]), column)
        for entry in on_other_documents
        for column in entry.columns(by, _first_text(comparison, entry.run.data))
    }
    comparison.columns = sorted({column for _, column in places}, key=lambda column: column.order)
    comparison.rows = _sorted({row for row, _ in places}, comparison)


def _first_text(comparison: Comparison, data: str) -> str:
    texts = comparison.texts.get(data)
    return texts[0].name if texts else ""


def _sorted(rows: set[Row], comparison: Comparison) -> list[Row]:
    """The rows in their order, those of one scale together; the scale that most rows have comes first."""
    scales = {row: comparison.runs_of(row)[0].scale for row in rows}
    count = Counter(scales.values())
    first = {scale: min(row.order for row in rows if scales[row] == scale) for scale in count}
    return sorted(rows, key=lambda row: (-count[scales[row]], first[scales[row]], row.order))


def _baselines(comparison: Comparison) -> dict[tuple[Column, tuple[Any, ...]], Row]:
    """For each column and scale that has several rows the one without a memory, or with the smallest."""
    alike: dict[tuple[Column, tuple[Any, ...]], list[Row]] = {}
    for row in comparison.rows:
        for column in comparison.columns:
            if entries := comparison.cells.get((row, column)):
                alike.setdefault((column, entries[0].run.scale), []).append(row)
    return {place: _plainest(rows) for place, rows in alike.items() if len(rows) > 1}


def _plainest(rows: Sequence[Row]) -> Row:
    """The first row without a memory, or with the smallest, as it was trained."""
    as_trained = [row for row in rows if row.variant == "on" and row.mem == row.trained_mem]
    return min(as_trained or rows, key=lambda row: (row.memory > 0, row.order))


def _refuse_unknown(gauges: Sequence[str], entries: Sequence[Entry]) -> None:
    known = sorted({name for entry in entries for name in entry.summary.get("gauges", {})})
    for name in gauges:
        if name not in known:
            raise UserError(
                f"gauges names {name}, which no score here has; expected one of: {', '.join(known) or 'none'}"
                f"{did_you_mean(name, known)}"
            )


def _nothing(comparison: Comparison) -> str:
    if runs := comparison.finished:
        scored = sorted({score.path.name.rsplit("-", 2)[0] for run in runs for score, _ in run.scores})
        return (
            f"no finished run is scored on {describe(runs[0].asked)} (scored are: {', '.join(scored) or 'none'}); "
            f"expected such a score. `{eval_command(runs[0].name, comparison.scored, root=runs[0].root)}` makes it"
        )
    return f"no run is left to compare; expected a finished run: {'; '.join(comparison.left_out[:3])}"


def _starting_with(start: str, rows: Sequence[Row]) -> Row:
    matches = [row for row in rows if row.label == start] or [row for row in rows if row.label.startswith(start)]
    if len(matches) == 1:
        return matches[0]
    labels = ", ".join(row.label for row in (matches or rows))
    raise UserError(
        f"baseline is {start!r}, which is the start of {len(matches)} row labels; expected the start of one of: {labels}"
    )
