"""`memexp table`: compare runs, or a paper's table with our numbers."""

import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from memexp.config.commands import TableConfig
from memexp.config.introspection import TYPED_AS, settings_of
from memexp.errors import UserError
from memexp.experiment import text as paper_text
from memexp.experiment.definition import experiments
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable, open_table
from memexp.experiment.reproduction import Reproduction
from memexp.files import find_root, write_text
from memexp.report.escape import console
from memexp.report.table.comparison import compare
from memexp.report.table.formats import html_page, records_to_csv, to_csv, to_html, to_latex, to_markdown, to_terminal
from memexp.report.table.text import Grid, lay_out
from memexp.runs.folder import COPIES
from memexp.runs.select import select_runs

OF_EXPERIMENTS = ("scale", "corpora", "out", "root")
"""Settings that can be used with an experiment; the others need runs."""


def run(config: TableConfig) -> None:
    """Print the table and write it as Markdown, CSV and LaTeX; a paper's table also as HTML."""
    root = find_root(config.root)
    folder = Path(config.out).expanduser() if config.out is not None else root / "results" / "tables"
    if named := [word for word in config.runs if _is_experiment(word)]:
        _refuse_with_an_experiment(config, named[0])
        table = open_table(config.runs[0], scale=config.scale, data=config.corpora)
        show_experiment(fill(table, Library(root)), experiment_path(config.out, root, table, config.corpora))
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
    """Whether a word means an experiment, known or unknown, and not a run's folder."""
    path = Path(word).expanduser()
    named = word.count("/") == 1 and COPIES not in path.parts and not path.parent.is_dir()
    return word in experiments() or named


def _refuse_with_an_experiment(config: TableConfig, name: str) -> None:
    """Refuse settings that need runs.

    Raises:
        UserError: such a setting is given, or another name besides the experiment.
    """
    if others := [word for word in config.runs if word != name]:
        raise UserError(
            f"{name} is named together with {', '.join(others)}; expected one experiment alone, or only runs"
        )
    for setting in settings_of("table"):
        if setting not in (*OF_EXPERIMENTS, "runs") and _value(config, setting) != _value(TableConfig(), setting):
            raise UserError(
                f"{setting} is set with the experiment {name}, whose file decides what its table shows; expected {setting} with runs "
                f"only; settings for an experiment are {', '.join(TYPED_AS.get(name, name) for name in OF_EXPERIMENTS)}"
            )


def _value(config: TableConfig, setting: str) -> Any:
    return attrgetter(setting)(config)


def experiment_path(out: str | None, root: Path, table: PaperTable, data: Sequence[str]) -> Path:
    """The path of a paper's written table, without an ending: in the folder `out`, or beside the light copies of its runs.

    Args:
        data: the chosen columns; empty for all.
    """
    folder = root / "results" / table.experiment.name if out is None else Path(out).expanduser()
    return folder / "-".join([table.scale, *data])


def show_experiment(filled: Reproduction, path: Path) -> None:
    """Print a paper's numbers beside ours, and write the table to `path` with the ending of each format."""
    grid = paper_text.lay_out(filled)
    texts = {
        "md": to_markdown(grid),
        "csv": records_to_csv(paper_text.records(filled)),
        "tex": to_latex(grid),
        "html": html_page(grid.title, to_html(grid)),
    }
    _show(grid, path, texts)


def _show(grid: Grid, path: Path, texts: dict[str, str]) -> None:
    for kind, text in texts.items():
        write_text(path.with_name(f"{path.name}.{kind}"), text)
    screen = console()
    screen.print(to_terminal(grid, width=screen.width))
    others = " and ".join([", ".join(f".{kind}" for kind in list(texts)[1:-1]), f".{list(texts)[-1]}"])
    screen.print(f"written: {path}.md, {others}", markup=False, highlight=False, soft_wrap=True)
