"""`memexp report`: write the pages with all results."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from memexp.config.commands import ReportConfig
from memexp.config.introspection import CONF
from memexp.errors import UserError
from memexp.experiment.definition import experiments, load
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import open_table
from memexp.experiment.reproduction import Reproduction
from memexp.experiment.text import lay_out, points
from memexp.files import find_root, refuse_as_output, write_text
from memexp.report.escape import console
from memexp.report.site import LOCAL, Table, pages
from memexp.terminal import warn


def run(config: ReportConfig) -> None:
    """Write the pages, and print a warning for each result that could not be read."""
    root = find_root(config.root)
    page = root / "results" / "index.html" if config.out is None else Path(config.out).expanduser().resolve()
    refuse_as_output(page)
    problems: list[str] = []
    tables = [_table(root, name, problems) for name in experiments()]
    texts = pages(root / "results", tables, page=page, skipped=() if config.local else LOCAL, problems=problems)
    # The start page is written last, so that it never leads to a page that is not there.
    for path, text in reversed(texts.items()):
        write_text(path, text)
    screen = console()
    for problem in problems:
        warn(problem)
    shown = sum(table.grid is not None for table in tables)
    size = sum(path.stat().st_size for path in texts)
    screen.print(
        f"written: {page}: {shown} of {len(tables)} papers' tables, and {len(texts) - 1} pages that it leads to, {size:,} bytes",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _table(root: Path, name: str, problems: list[str]) -> Table:
    """A paper's table at the small scale; if its runs cannot be compared, the reason is added to `problems`."""
    config, title = CONF / "experiment" / f"{name}.yaml", name
    try:
        if (experiment := load(name)).needs is None and experiment.lacks is not None:
            return Table(name, experiment.full_title, config, None, needs=experiment.lacks)
        table = open_table(name, scale="small")
        title = table.experiment.full_title
        filled = fill(table, Library(root))
        return of_filled(filled, config)
    except UserError as error:
        problems.append(f"{name}: {error}")
        return Table(name, title, config, None)


def of_filled(filled: Reproduction, config: Path) -> Table:
    """What the pages show of a table; columns with decided pairs come first."""
    shown = filled.with_filled_columns()
    parts = {column: shown.agreement(column) for column in shown.columns}
    gaps = [(column, gap) for row, column in shown.cells if (gap := shown.gap_to_baseline(row, column)) is not None]
    known = Counter(column for column, _ in gaps)
    decided = Counter(column for column, gap in gaps if gap.decided)
    order = sorted(shown.columns, key=lambda column: (-parts[column].decided, -decided[column], -known[column]))
    shown = replace(shown, data={column: shown.data[column] for column in order})
    return Table(
        filled.experiment.name,
        filled.experiment.full_title,
        config,
        lay_out(shown) if shown.cells else None,
        len(filled.cells),
        sum(filled.has_cell(row, column) for row in filled.rows for column in filled.columns),
        filled.whole_agreement,
        filled.experiment.needs,
        [(column, parts[column]) for column in order],
        points(shown),
    )
