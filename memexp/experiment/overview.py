"""All papers' tables in one view: what is done and decided, and which table is worth the next hour of training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from memexp.config.commands import ReproduceConfig
from memexp.errors import UserError
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import open_all
from memexp.experiment.queue import Work
from memexp.report.statistics import Agreement
from memexp.report.table.figure import bars
from memexp.report.table.text import Grid
from memexp.terminal import warn
from memexp.wording import UNKNOWN, compact


@dataclass(frozen=True)
class Standing:
    """How far a table is.

    Attributes:
        done, cells: cells that have a score, of all cells with the seeds that were asked for.
        agreement: agreement with the paper over all columns, also over those that were not run.
        tokens: tokens of training for the cells that are not done.
    """

    name: str
    done: int
    cells: int
    agreement: Agreement
    tokens: int

    @property
    def worth(self) -> float:
        """The pairs that differ in the paper and not yet in our runs, for each token of training; 0 if all cells are done."""
        undecided = self.agreement.published - self.agreement.decided
        return 0.0 if self.done == self.cells else undecided / max(1, self.tokens)


def standing(work: Work) -> Standing:
    """How far the table of this work is.

    Raises:
        UserError: a file is damaged, or scores of a column cannot be compared.
    """
    filled = fill(work.table, work.library)
    parts = [filled.agreement(column) for column in filled.columns]
    done = sum(work.library.score(cell) is not None for cell in work.cells)
    return Standing(work.table.experiment.name, done, len(work.cells), Agreement.together(parts), work.tokens_to_train)


def all_work(config: ReproduceConfig, library: Library) -> list[Work]:
    """The work of every table that can be run.

    Raises:
        UserError: no table has a column of the data that is asked for, a cell cannot be composed, or a checkpoint is given.
    """
    if config.checkpoint is not None:
        raise UserError(
            f"checkpoint is {config.checkpoint} with all tables; expected it with one table of a checkpoint"
        )
    tables = open_all(scale=config.scale, data=config.corpora, seeds=config.seeds)
    return [Work(table, library, config) for table in tables]


def standings(works: Iterable[Work]) -> list[Standing]:
    """How far each table is; a table whose scores cannot be compared is left out with a warning."""
    found = []
    for work in works:
        try:
            found.append(standing(work))
        except UserError as error:
            warn(f"{work.table.experiment.name}: {error}")
    return found


def by_worth(standings: Sequence[Standing]) -> list[Standing]:
    """The most informative first: those whose training decides the most pairs for each token."""
    return sorted(standings, key=lambda one: (-one.worth, one.name))


def lay_out(standings: Sequence[Standing], scale: str) -> Grid:
    """Write the tables into cells, in the given order."""
    lines = []
    for one in standings:
        agreement = one.agreement
        share, coverage = (
            UNKNOWN if value is None else f"{100 * value:.0f} %" for value in (agreement.share, agreement.coverage)
        )
        pairs = f"{agreement.agree} of {agreement.decided} of {agreement.published}"
        lines.append([one.name, f"{one.done} of {one.cells}", share, coverage, pairs, compact(one.tokens)])
    return Grid(
        title=f"Tables of papers, scale={scale}",
        headers=["table", "cells", "agreement", "coverage", "pairs", "tokens to train"],
        right=[False, True, True, True, True, True],
        lines=lines,
        notes=[
            "pairs: of rows, in the paper's order, of those that our runs decide, of those that the paper decides.",
            "The order is that in which training decides the most pairs for each token.",
        ],
        missing=[],
        commands=[],
        expendable=("pairs", "tokens to train"),
    )


def chart(standings: Sequence[Standing], scale: str) -> dict[str, bytes]:
    """A bar for each table with pairs that the paper decides, as .png and .svg."""
    shares = {}
    for one in sorted(standings, key=attrgetter("name")):
        if pairs := one.agreement.published:
            agree, decided = one.agreement.agree / pairs, one.agreement.decided / pairs
            shares[one.name] = [agree, decided - agree]
    title = f"Pairs of rows that the papers decide, scale={scale}"
    across = "share of these pairs; our runs do not decide those without a bar"
    return bars(title, across, shares, ["the paper's order", "the other order"])
