"""A paper's table as files beside the light copies of its runs, and on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from memexp.experiment.paper_table import PaperTable
from memexp.experiment.reproduction import Reproduction
from memexp.experiment.text import lay_out, panels, records
from memexp.report.table.figure import plot
from memexp.report.table.files import show, write
from memexp.report.table.formats import html_page, records_to_csv, to_html, to_latex, to_markdown


def path_of(table: PaperTable, folder: Path, data: Sequence[str]) -> Path:
    """The path of a paper's written table in `folder`, without an ending; it names a checkpoint that is not the experiment's own.

    Args:
        data: the chosen columns; empty for all.
    """
    experiment = table.experiment
    other = [] if experiment.own_checkpoint else [experiment.checkpoint_name]
    words = [word.replace("/", "-") for word in data]  # a column may have any name
    return folder / "-".join([table.scale, *other, *words])


def show_filled(filled: Reproduction, path: Path | None) -> None:
    """Print a paper's numbers beside ours, and write them to `path` with the ending of each format if there is one."""
    grid = lay_out(filled)
    show(grid)
    if path is not None:
        texts: dict[str, str | bytes] = {
            "md": to_markdown(grid),
            "csv": records_to_csv(records(filled)),
            "tex": to_latex(grid),
            "html": html_page(grid.title, to_html(grid)),
        }
        drawn = panels(filled)
        write(path, texts | (plot(drawn) if drawn else {}))
