"""A paper's table at one scale, loaded and composed before any run is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memexp.errors import UserError, did_you_mean
from memexp.experiment.cells import cells, chosen_columns, data_of
from memexp.experiment.definition import Experiment, Scale, experiments, load
from memexp.experiment.published import Published, load_published
from memexp.experiment.settings import Wanted, wanted


@dataclass(frozen=True)
class PaperTable:
    """A table to fill.

    Attributes:
        data: the name of our data for each chosen column, in the order of the columns.
        cells: the cells with their settings, in an order in which the table is useful early.
    """

    experiment: Experiment
    scale: str
    data: dict[str, str]
    cells: list[Wanted]
    published: Published

    @cached_property
    def places(self) -> dict[tuple[str, str], Wanted]:
        """The first cell of each row and column; `Wanted.with_seed` gives the cells of other seeds."""
        places: dict[tuple[str, str], Wanted] = {}
        for cell in self.cells:
            places.setdefault((cell.cell.row, cell.cell.column), cell)
        return places

    def as_before(self, wanted_now: Wanted) -> list[tuple[str, Wanted]]:
        """A cell with the settings that the table had before each of its changes, and what holds since then."""
        changes = [(change.since, wanted_now.cell.with_settings(change.set)) for change in self._scale.before]
        return [(since, wanted([cell])[0]) for since, cell in changes if cell != wanted_now.cell]

    @property
    def _scale(self) -> Scale:
        return self.experiment.scales[self.scale]


def open_table(
    name: str, *, scale: str, data: Sequence[str] = (), seeds: Sequence[int] = (), checkpoint: str | None = None
) -> PaperTable:
    """Load the table of an experiment.

    Args:
        data: the columns to take, by the name of the data or of the paper's column; empty: all.
        seeds: the seeds to take; empty: those of the experiment.
        checkpoint: takes the place of the experiment's.

    Raises:
        UserError: the experiment, scale or data does not exist, or a cell cannot be composed.
    """
    experiment = load(name, checkpoint=checkpoint)
    composed = wanted(cells(experiment, scale, data=data, seeds=seeds))
    columns = {label: data_of(experiment, scale, label) for label in chosen_columns(experiment, scale, data)}
    return PaperTable(experiment, scale, columns, composed, load_published(experiment.paper, experiment.table))


def open_all(*, scale: str, data: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[PaperTable]:
    """Load every table that can be run here, without those that have none of the columns in `data`; sorted by name.

    Raises:
        UserError: no table has a column of `data`, or a cell cannot be composed.
    """
    can_run = [one for one in map(load, experiments()) if one.lacks is None and scale in one.scales]
    names = {
        one.name: [word for label in chosen_columns(one, scale, ()) for word in (label, data_of(one, scale, label))]
        for one in can_run
    }
    known = {word for words in names.values() for word in words}
    for word in data:
        if word not in known:
            raise UserError(f"data is {word!r}; expected a column of some table{did_you_mean(word, known)}")
    asked = {name: [word for word in data if word in words] for name, words in names.items()}
    return [open_table(name, scale=scale, data=of, seeds=seeds) for name, of in asked.items() if of or not data]
