"""`memexp table`: compare runs, or a paper's table with ours."""

import re
from collections.abc import Sequence
from pathlib import Path

from memexp.config import TableConfig
from memexp.files import write_text
from memexp.report.comparison import compare
from memexp.report.formats import html_page, records_to_csv, to_csv, to_html, to_latex, to_markdown, to_terminal
from memexp.report.grid import Grid, lay_out
from memexp.report.selection import select_runs
from memexp.report.text import console
from memexp.runs import find_root


def run(config: TableConfig) -> None:
    """Print the table and write it as Markdown, CSV and LaTeX, and a paper's also as HTML."""
    root = find_root(config.root)
    folder = Path(config.out).expanduser() if config.out is not None else root / "results" / "tables"
    if len(config.runs) == 1 and _is_experiment(config.runs[0]):
        show_experiment(root, config.runs[0], scale=config.scale, data=config.corpora, out=config.out)
        return
    comparison = compare(
        root,
        select_runs(root, config.runs, tag=config.tag),
        metric=config.metric,
        scored=config.eval,
        by=config.by,
        gauges=config.gauges,
        baseline=config.baseline,
    )
    name = re.sub(r"[^\w-]+", "-", config.tag).strip("-") if config.tag else ""
    grid = lay_out(comparison)
    _show(grid, folder / (name or "runs"), {"md": to_markdown(grid), "csv": to_csv(comparison), "tex": to_latex(grid)})


def _is_experiment(word: str) -> bool:
    """Whether a word means an experiment, known or not: no run folder is called like this."""
    return "/" in word and not (Path(word) / "config.yaml").is_file()


def show_experiment(root: Path, name: str, *, scale: str, data: Sequence[str], out: str | None = None) -> None:
    """Print a paper's table beside ours, and write it beside the runs that it is of, or to the folder `out`."""
    from memexp.cli.cells import reproduction
    from memexp.report.reproduction_grid import lay_out as lay_out_reproduction
    from memexp.report.reproduction_grid import records

    table = reproduction(root, name, scale=scale, data=data)
    grid = lay_out_reproduction(table)
    folder = root / "results" / table.experiment.name if out is None else Path(out).expanduser()
    texts = {
        "md": to_markdown(grid),
        "csv": records_to_csv(records(table)),
        "tex": to_latex(grid),
        "html": html_page(grid.title, to_html(grid)),
    }
    _show(grid, folder / "-".join([scale, *data]), texts)


def _show(grid: Grid, path: Path, texts: dict[str, str]) -> None:
    for kind, text in texts.items():
        write_text(path.with_name(f"{path.name}.{kind}"), text)
    screen = console()
    screen.print(to_terminal(grid, width=screen.width))
    others = " and ".join([", ".join(f".{kind}" for kind in list(texts)[1:-1]), f".{list(texts)[-1]}"])
    screen.print(f"written: {path}.md, {others}", markup=False, highlight=False, soft_wrap=True)
