"""A paper's table as files beside the light copies of its runs, and on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from memexp.experiment.paper_table import PaperTable
from memexp.experiment.reproduction import Reproduction
from memexp.experiment.text import lay_out, records
from memexp.report.table.files import write_and_show
from memexp.report.table.formats import html_page, records_to_csv, to_html, to_latex, to_markdown


def path_of(table: PaperTable, root: Path, data: Sequence[str], *, out: str | None = None) -> Path:
    """The path of a paper's written table, without an ending: in the folder `out`, or beside the light copies of its runs.

    Args:
        data: the chosen columns; empty for all.
    """
    folder = root / "results" / table.experiment.name if out is None else Path(out).expanduser()
    return folder / "-".join([table.scale, *data])


def write_and_show_filled(filled: Reproduction, path: Path) -> None:
    """Write a paper's numbers beside ours to `path` with the ending of each format, and print the table."""
    grid = lay_out(filled)
    texts = {
        "md": to_markdown(grid),
        "csv": records_to_csv(records(filled)),
        "tex": to_latex(grid),
        "html": html_page(grid.title, to_html(grid)),
    }
    write_and_show(grid, path, texts)
