"""Fills the cells of a paper's table with scores of runs, and says which scores are left out and which are missing."""

from collections import Counter
from collections.abc import Sequence

from memexp.errors import UserError
from memexp.experiment.cells import chosen_columns
from memexp.experiment.command_lines import data_word, eval_words, reproduce_words, train_words
from memexp.experiment.definition import Experiment
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable
from memexp.experiment.reproduction import Cells, MadeBefore, Reproduction
from memexp.experiment.settings import Wanted
from memexp.report.metrics import PER_TOKEN
from memexp.report.table.compatibility import refuse_unlike
from memexp.report.table.entries import POSITION, Entry, Trained, read_entry
from memexp.store.archive import CopiedScore
from memexp.store.folder import Run, Score, ScoreName
from memexp.store.scores import progress_of, read_run_summary
from memexp.wording import plural


def fill(table: PaperTable, library: Library) -> Reproduction:
    """The table with all existing scores, of any seed.

    Raises:
        UserError: a file is damaged, scores of a column cannot be compared, or slices do not have the metric.
    """
    experiment = table.experiment
    _check_slices(experiment, table.scale)
    filled = Reproduction(experiment, table.scale, table.published, table.data)
    own, foreign, filled.made_before = _scores(table, library)
    own, foreign = (_with_their_slice(cells, filled) for cells in (own, foreign))
    cells: Cells = {}
    for column in table.data:
        used, left_out = _of_column(own, column), _all(_of_column(foreign, column))
        if left_out and not used:
            used, left_out = _of_column(foreign, column), []
            filled.foreign.append(column)
        if all(isinstance(entry.score, CopiedScore) for entry in _all(used)):
            used, unlike = _of_most_common_tokens(used)
            left_out += _all(unlike)
        refuse_unlike(_all(used), experiment.metric_of(column))
        cells |= used
        filled.left_out += _left_out(left_out, column)
    filled.cells = {place: cells[place] for place in table.places if place in cells}
    filled.missing = _missing(table, filled.cells, library)
    filled.left_out += library.left_out
    return filled


def _check_slices(experiment: Experiment, scale: str) -> None:
    """Refuse slices that do not have their column's metric.

    Raises:
        UserError: names the slice and the metric.
    """
    for label, column in experiment.columns.items():
        metric = experiment.metric_of(label)
        of_tokens = ((part := column.slice_at(scale)) or "").startswith(f"{POSITION}=")
        if part and not (metric.field in PER_TOKEN if of_tokens else metric.of):
            raise UserError(
                f"{experiment.name} shows {metric.name} of a slice ({part}); expected a metric of "
                f"{'tokens, such as nats' if of_tokens else 'answers, such as accuracy'}"
            )


def _with_their_slice(cells: Cells, filled: Reproduction) -> Cells:
    """The cells without scores that have nothing of their column's slice, which are named as left out."""
    kept: Cells = {}
    for (row, column), entries in cells.items():
        for entry in entries:
            if entry.has(filled.part_of(column, entry)):
                kept.setdefault((row, column), []).append(entry)
            else:
                wanted_slice = filled.experiment.columns[column].slice_at(filled.scale)
                filled.left_out.append(f"{entry.run.name} on {column}, which has scored nothing of {wanted_slice}")
    return kept


def _scores(table: PaperTable, library: Library) -> tuple[Cells, Cells, MadeBefore]:
    """The scores of each cell: those of runs on the corpora as prepared here, those of foreign light copies, and no scores
    for cells whose runs were made before a revision or with the settings that the table had before."""
    own: Cells = {}
    foreign: Cells = {}
    before: MadeBefore = {}
    for place, first in table.places.items():
        for seed in sorted(library.seeds(first)):
            cell = first.with_seed(seed)
            if scored := library.score(cell):
                own.setdefault(place, []).append(_entry(*scored, cell, library))
            elif scored := library.foreign_score(cell):
                foreign.setdefault(place, []).append(_entry(*scored, cell, library))
            elif later := library.made_before(cell):
                before.setdefault(tuple(revision.since for revision in later), {}).setdefault(place, [])
            else:
                for since, earlier in table.as_before(cell):
                    if scored := library.score(earlier) or library.foreign_score(earlier):
                        entry = _entry(*scored, earlier, library)
                        before.setdefault((since,), {}).setdefault(place, []).append(entry)
    return own, foreign, before


def _entry(run: Run, score: Score, wanted: Wanted, library: Library) -> Entry:
    summary = read_run_summary(run)
    assert summary is not None
    return read_entry(Trained.read(run, summary, library.root, wanted.scored), score)


def _of_column(cells: Cells, column: str) -> Cells:
    return {place: entries for place, entries in cells.items() if place[1] == column}


def _all(cells: Cells) -> list[Entry]:
    return [entry for entries in cells.values() for entry in entries]


def _of_most_common_tokens(cells: Cells) -> tuple[Cells, Cells]:
    """Split copies from several machines into those that scored the same tokens as most, and the rest."""
    counts = Counter(entry.summary["tokens_hash"] for entry in _all(cells))
    most = max(counts, key=lambda tokens: counts[tokens], default=None)
    parts: tuple[Cells, Cells] = ({}, {})
    for place, entries in cells.items():
        for entry in entries:
            parts[entry.summary["tokens_hash"] != most].setdefault(place, []).append(entry)
    return parts


def _left_out(copies: Sequence[Entry], column: str) -> list[str]:
    if not copies:
        return []
    names = sorted({entry.run.name for entry in copies})
    return [
        f"{plural(len(copies), 'score')} of light copies on {column} ({', '.join(names[:3])}{', ...' * (len(names) > 3)}), which "
        "read a different corpus than the other scores"
    ]


def _missing(table: PaperTable, cells: Cells, library: Library) -> list[tuple[str, str]]:
    """Each empty cell and the command that fills it; columns without any score are listed as a whole, and so are further seeds."""
    if table.experiment.needs is not None:  # it cannot be run
        return []
    experiment, missing = table.experiment, []
    for columns in _with_the_same_scores(table):
        cell_of = {row: cell for (row, label), cell in table.places.items() if label == columns[0]}
        filled = {row for row, column in cells if column in columns}
        if filled:
            missing += [_filling(cell, library, experiment.name) for row, cell in cell_of.items() if row not in filled]
        else:
            words = reproduce_words(experiment, table.scale, data_word(columns, table.data))
            named = columns[0] if len(columns) == 1 else ", ".join(f'"{column}"' for column in columns)
            missing.append((f"all of {named}", " ".join(["memexp", *words])))
    there = {(*place, entry.run.seed) for place, entries in cells.items() for entry in entries}
    asked = {(cell.cell.row, cell.cell.column, cell.cell.seed) for cell in table.cells}
    if behind := {(row, column) for row, column, _ in asked - there if (row, column) in cells}:
        chosen = chosen_columns(experiment, table.scale, ())
        words = [] if chosen == list(table.data) else [data_word([column], table.data) for column in table.data]
        words = reproduce_words(experiment, table.scale, *dict.fromkeys(words))
        missing.append((f"further seeds of {plural(len(behind), 'cell')}", " ".join(["memexp", *words])))
    first = {command: what for what, command in reversed(missing)}  # several rows may show parts of one score
    return [(what, command) for what, command in missing if first[command] == what]


def _with_the_same_scores(table: PaperTable) -> list[list[str]]:
    """The columns, together where they show parts of the same scores."""
    together: dict[tuple[tuple[str, str, ScoreName], ...], list[str]] = {}
    for column in table.data:
        scores = tuple((row, cell.result, cell.score) for (row, label), cell in table.places.items() if label == column)
        together.setdefault(scores, []).append(column)
    return list(together.values())


def _filling(empty: Wanted, library: Library, tag: str) -> tuple[str, str]:
    """The name and progress of an empty cell, and the command that starts or resumes what fills it."""
    name = f"{empty.cell.row} on {empty.cell.column}"
    if run := library.with_weights(empty):
        return name, " ".join(["memexp", *eval_words(empty, run.name)])
    if run := library.unfinished(empty):
        name += f" ({progress_of(run)})"
    then = [] if empty.cell.trains else ["then", "memexp", *eval_words(empty, "RUN")]
    return name, " ".join(["memexp", *train_words(empty, library, tag=tag), *then])
