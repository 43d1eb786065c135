"""`memexp table`: compare runs."""

import re
from pathlib import Path

from memexp.config import TableConfig
from memexp.files import write_text
from memexp.report.comparison import compare
from memexp.report.formats import to_csv, to_latex, to_markdown, to_terminal
from memexp.report.grid import lay_out
from memexp.report.selection import select_runs
from memexp.report.text import console
from memexp.runs import find_root


def run(config: TableConfig) -> None:
    """Print the table and write it as Markdown, CSV and LaTeX."""
    root = find_root(config.root)
    runs = select_runs(root, config.runs, tag=config.tag)
    comparison = compare(
        root,
        runs,
        metric=config.metric,
        scored=config.eval,
        by=config.by,
        gauges=config.gauges,
        baseline=config.baseline,
    )
    grid = lay_out(comparison)
    folder = Path(config.out).expanduser() if config.out is not None else root / "results" / "tables"
    name = re.sub(r"[^\w-]+", "-", config.tag).strip("-") if config.tag else ""
    paths = [folder / f"{name or 'runs'}.{kind}" for kind in ("md", "csv", "tex")]
    for path, text in zip(paths, (to_markdown(grid), to_csv(comparison), to_latex(grid)), strict=True):
        write_text(path, text)
    screen = console()
    screen.print(to_terminal(grid, width=screen.width))
    screen.print(f"written: {paths[0]}, .csv and .tex", markup=False, highlight=False, soft_wrap=True)
