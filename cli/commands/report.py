"""`memexp report`: write one page with all results."""

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
    """Write the page, and print a warning for each result that could not be read."""
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
    """A paper's table at the small scale; if its runs cannot be compared, the reason is added to `problems`."""
    config, title = CONF / "experiment" / f"{name}.yaml", name
    try:
        table = open_table(name, scale="small")
        title = table.experiment.title
        filled = fill(table, Library(root))
        of = sum(filled.has_cell(row, column) for row in filled.rows for column in filled.columns)
        grid = lay_out(filled.with_filled_columns()) if filled.cells else None
        return Table(name, title, config, grid, len(filled.cells), of, filled.whole_agreement, filled.experiment.needs)
    except UserError as error:
        problems.append(f"{name}: {error}")
        return Table(name, title, config, None)
