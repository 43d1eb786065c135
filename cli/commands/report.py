"""`memexp report`: all results on one page."""

from pathlib import Path

from memexp.config.commands import ReportConfig
from memexp.config.introspection import CONF
from memexp.errors import UserError
from memexp.experiment.definition import experiments
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import open_table
from memexp.experiment.text import lay_out
from memexp.files import find_root, write_text
from memexp.report.escape import console, escape
from memexp.report.site import LOCAL, Table, overview


def run(config: ReportConfig) -> None:
    """Write the page and say what could not be read."""
    root = find_root(config.root)
    page = root / "results" / "index.html" if config.out is None else Path(config.out).expanduser().resolve()
    problems: list[str] = []
    tables = [_table(root, name, problems) for name in experiments()]
    text = overview(root / "results", tables, page=page, skipped=() if config.local else LOCAL, problems=problems)
    write_text(page, text)
    screen = console()
    for problem in problems:
        screen.print(f"warning: {escape(problem)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    shown = sum(table.grid is not None for table in tables)
    screen.print(
        f"written: {page}: {shown} of {len(tables)} papers' tables, {page.stat().st_size:,} bytes",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _table(root: Path, name: str, problems: list[str]) -> Table:
    """An experiment at the small scale; one whose runs cannot be compared says so and hides no other."""
    config, title = CONF / "experiment" / f"{name}.yaml", name
    try:
        table = open_table(name, scale="small")
        title = table.experiment.title
        found = fill(table, Library(root))
        of = sum(found.has_cell(row, column) for row in found.rows for column in found.columns)
        grid = lay_out(found.with_filled_columns()) if found.cells else None
        return Table(name, title, config, grid, len(found.cells), of, found.whole_agreement, found.experiment.needs)
    except UserError as error:
        problems.append(f"{name}: {error}")
        return Table(name, title, config, None)
