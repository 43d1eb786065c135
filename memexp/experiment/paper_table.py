"""A paper's table at one scale, before any run is looked at: loaded and composed once, for what fills and what shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memexp.experiment.cells import cells, chosen_columns, data_of
from memexp.experiment.definition import Experiment, load
from memexp.experiment.published import Published, load_published
from memexp.experiment.settings import Wanted, wanted


@dataclass(frozen=True)
class PaperTable:
    """A table as it is to be filled.

    Attributes:
        data: of each column chosen the name of our data, in the order of the columns.
        cells: with their settings, in the order that makes the table informative soonest.
    """

    experiment: Experiment
    scale: str
    data: dict[str, str]
    cells: list[Wanted]
    published: Published

    @cached_property
    def places(self) -> dict[tuple[str, str], Wanted]:
        """By row and column the first cell there; those of other seeds are `Wanted.with_seed`."""
        places: dict[tuple[str, str], Wanted] = {}
        for one in self.cells:
            places.setdefault((one.cell.row, one.cell.column), one)
        return places


def open_table(name: str, *, scale: str, data: Sequence[str] = (), seeds: Sequence[int] = ()) -> PaperTable:
    """The table of an experiment.

    Args:
        data: only the columns with this data; empty: all.
        seeds: empty: the experiment's.

    Raises:
        UserError: no such experiment, scale or data, or a cell that cannot be composed.
    """
    experiment = load(name)
    composed = wanted(cells(experiment, scale, data=data, seeds=seeds))
    columns = {label: data_of(experiment, scale, label) for label in chosen_columns(experiment, scale, data)}
    return PaperTable(experiment, scale, columns, composed, load_published(experiment.paper, experiment.table))
