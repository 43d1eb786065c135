"""From runs to the cells of a paper's table: which scores fill it, which are set aside, and what is missing."""

from collections import Counter
from collections.abc import Sequence

from memexp.errors import UserError
from memexp.experiment.commands import eval_words, reproduce_words, train_words
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable
from memexp.experiment.reproduction import Cells, Reproduction
from memexp.experiment.settings import Wanted
from memexp.report.metrics import METRICS
from memexp.report.table.compatibility import refuse_unlike
from memexp.report.table.entries import Entry, Trained, read_entry
from memexp.runs.archive import CopiedScore
from memexp.runs.folder import Run, Score
from memexp.runs.scores import progress_of, read_run_summary
from memexp.wording import plural


def fill(table: PaperTable, library: Library) -> Reproduction:
    """The table with the scores that there are, of whichever seed.

    Raises:
        UserError: a damaged file, scores of a column that do not compare, or a metric that slices do not have.
    """
    experiment, metric = table.experiment, METRICS[table.experiment.metric]
    if (slices := [one.slice for one in experiment.columns.values() if one.slice]) and not metric.of:
        raise UserError(
            f"{experiment.name} shows {metric.name} of a slice ({slices[0]}); expected a metric of answers there, such as accuracy"
        )
    filled = Reproduction(experiment, table.scale, metric, table.published, table.data)
    own, foreign = _scores(table, library)
    cells: Cells = {}
    for column in table.data:
        here, others = _of_column(own, column), _all(_of_column(foreign, column))
        if others and not here:
            here, others = _of_column(foreign, column), []
            filled.foreign.append(column)
        if all(isinstance(entry.score, CopiedScore) for entry in _all(here)):
            here, unlike = _alike(here)
            others += _all(unlike)
        refuse_unlike(_all(here), metric)
        cells |= here
        filled.left_out += _set_aside(others, column)
    filled.cells = {place: cells[place] for place in table.places if place in cells}
    filled.missing = _missing(table, filled.cells, library)
    filled.left_out += library.left_out
    return filled


def _scores(table: PaperTable, library: Library) -> tuple[Cells, Cells]:
    """Of every cell the scores of runs that read the corpora as they are here, and those of foreign light copies."""
    own: Cells = {}
    foreign: Cells = {}
    for place, first in table.places.items():
        for seed in sorted(library.seeds(first)):
            one = first.with_seed(seed)
            if found := library.score(one):
                own.setdefault(place, []).append(_entry(*found, one, library))
            elif found := library.foreign_score(one):
                foreign.setdefault(place, []).append(_entry(*found, one, library))
    return own, foreign


def _entry(run: Run, score: Score, wanted: Wanted, library: Library) -> Entry:
    summary = read_run_summary(run)
    assert summary is not None
    return read_entry(Trained.read(run, summary, library.root, wanted.scored), score)


def _of_column(cells: Cells, column: str) -> Cells:
    return {place: entries for place, entries in cells.items() if place[1] == column}


def _all(cells: Cells) -> list[Entry]:
    return [entry for entries in cells.values() for entry in entries]


def _alike(cells: Cells) -> tuple[Cells, Cells]:
    """Of copies from several machines those that scored the tokens that most of them did, and the others."""
    counts = Counter(entry.summary["tokens_hash"] for entry in _all(cells))
    most = max(counts, key=lambda tokens: counts[tokens], default=None)
    parts: tuple[Cells, Cells] = ({}, {})
    for place, entries in cells.items():
        for entry in entries:
            parts[entry.summary["tokens_hash"] != most].setdefault(place, []).append(entry)
    return parts


def _set_aside(copies: Sequence[Entry], column: str) -> list[str]:
    if not copies:
        return []
    names = sorted({entry.run.name for entry in copies})
    return [
        f"{plural(len(copies), 'score')} of light copies on {column} ({', '.join(names[:3])}{', ...' * (len(names) > 3)}), which "
        "read another corpus than the others"
    ]


def _missing(table: PaperTable, cells: Cells, library: Library) -> list[tuple[str, str]]:
    """What each empty cell is, and the command that fills it; of a column without any score that of the column."""
    if table.experiment.needs is not None:  # no command fills anything
        return []
    name, missing = table.experiment.name, []
    for column, data in table.data.items():
        here = {row: one for (row, there), one in table.places.items() if there == column}
        if not any((row, column) in cells for row in here):
            missing.append((f"all of {column}", " ".join(["memexp", *reproduce_words(name, table.scale, data)])))
            continue
        missing += [_filling(one, library, name) for row, one in here.items() if (row, column) not in cells]
    return missing


def _filling(one: Wanted, library: Library, tag: str) -> tuple[str, str]:
    """What an empty cell is, how far it is, and the command that fills it or goes on."""
    what = f"{one.cell.row} on {one.cell.column}"
    if run := library.with_weights(one):
        return what, " ".join(["memexp", *eval_words(one, run.name)])
    if run := library.unfinished(one):
        what += f" ({progress_of(run)})"
    then = [] if one.cell.trains else ["then", "memexp", *eval_words(one, "RUN")]
    return what, " ".join(["memexp", *train_words(one, library, tag=tag), *then])
