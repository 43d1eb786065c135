"""`memexp table`: compare runs, or a paper's table with our numbers."""

import re
import shlex
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from memexp.config.commands import ReproduceConfig, TableConfig
from memexp.config.field import AUTO
from memexp.config.groups import Scored
from memexp.config.introspection import TYPED_AS, settings_of
from memexp.errors import UserError, did_you_mean
from memexp.experiment import overview
from memexp.experiment.definition import ALL, experiments, means_experiment
from memexp.experiment.files import path_of, show_filled
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import open_table
from memexp.files import SUMMARY, find_root, refuse_as_output
from memexp.report.escape import console, escape
from memexp.report.table.comparison import compare
from memexp.report.table.entries import POSITION
from memexp.report.table.figure import panels_of, plot
from memexp.report.table.files import show, write
from memexp.report.table.formats import to_csv, to_latex, to_markdown
from memexp.report.table.text import lay_out
from memexp.store.folder import Run
from memexp.store.select import select_runs

OF_EXPERIMENTS = ("scale", "corpora", "checkpoint", "out", "root")
"""Settings that can be used with an experiment; the others need runs."""


def run(config: TableConfig) -> None:
    """Print the table; with `out`, also write it as Markdown, CSV and LaTeX, and a paper's table as HTML."""
    root = find_root(config.root)
    folder = None if config.out is None else Path(config.out).expanduser()
    if folder is not None:
        refuse_as_output(folder, folder=True)
    if ALL in config.runs:
        _refuse_with_an_experiment(config, ALL)
        _show_all(config, root, folder)
        return
    if named := [word for word in config.runs if means_experiment(word)]:
        _refuse_with_an_experiment(config, named[0])
        table = open_table(config.runs[0], scale=config.scale, data=config.corpora, checkpoint=config.checkpoint)
        show_filled(fill(table, Library(root)), None if folder is None else path_of(table, folder, config.corpora))
        return
    _refuse_without_an_experiment(config)
    comparison = compare(
        root,
        _runs(config, root),
        metric=_metric(config),
        scored=config.eval,
        by=config.by,
        gauges=config.gauges,
        baseline=config.baseline,
        data=config.corpora,
    )
    grid = lay_out(comparison)
    show(grid)
    if folder is not None:
        name = re.sub(r"[^\w-]+", "-", config.tag).strip("-") if config.tag else ""
        texts: dict[str, str | bytes] = {"md": to_markdown(grid), "csv": to_csv(comparison), "tex": to_latex(grid)}
        write(folder / (name or "runs"), texts | (plot(panels_of(comparison)) if config.by == POSITION else {}))


def _metric(config: TableConfig) -> str:
    """The metric that is asked for; without one what rates answers if their properties are columns."""
    if config.metric != AUTO:
        return config.metric
    return "exact_match" if config.by not in ("", POSITION) else "perplexity"


def _show_all(config: TableConfig, root: Path, folder: Path | None) -> None:
    """Print how far every paper's table is; with `folder`, also write it as Markdown, and a chart of it."""
    asked = ReproduceConfig(table=ALL, scale=config.scale, corpora=config.corpora, checkpoint=config.checkpoint)
    found = overview.by_worth(overview.standings(overview.all_work(asked, Library(root))))
    grid = overview.lay_out(found, config.scale)
    show(grid)
    if folder is not None:
        write(folder / f"overview-{config.scale}", {"md": to_markdown(grid), **overview.chart(found, config.scale)})


def show_finished(folders: Sequence[Path]) -> None:
    """Print the table of the runs of a sweep, or why there is none."""
    runs = [Run(path) for path in dict.fromkeys(folders) if (path / SUMMARY).exists()]
    if not runs:
        return
    try:
        show(lay_out(compare(runs[0].path.parents[2], runs, metric="perplexity", scored=Scored())))
    except UserError as error:
        console().print(f"no table: {escape(error)}", markup=False, highlight=False, soft_wrap=True)
        return
    if (pair := _to_compare(runs)) is not None:
        found_by_name = find_root(None) == runs[0].path.parents[2]
        words = (run.name if found_by_name else str(run.path) for run in pair)
        command = shlex.join(["memexp", "diff", *words])
        console().print(f"which tokens gain: {escape(command)}", markup=False, highlight=False, soft_wrap=True)


def _to_compare(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """The runs with the smallest and the largest memory among those that differ in nothing else from the first; None without two."""
    alike = [run for run in runs if _without_memory(run) == _without_memory(runs[0])]
    smallest, largest = (choose(alike, key=lambda run: run.config["mem"]) for choose in (min, max))
    return (smallest, largest) if smallest.config["mem"] < largest.config["mem"] else None


def _without_memory(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.config.items() if name not in ("mem", "largest_mem", "tag", "threads")}


def _runs(config: TableConfig, root: Path) -> list[Run]:
    try:
        return select_runs(root, config.runs, tag=config.tag)
    except UserError as error:
        meant = next(filter(None, (did_you_mean(word, experiments()) for word in config.runs)), "")
        of_papers = [name for name in experiments() if name.partition("/")[0] in config.runs]
        tables = f"; the tables of this paper are {', '.join(of_papers)}" if of_papers else ""
        raise UserError(f"{error}{meant or tables}") from error


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


def _refuse_without_an_experiment(config: TableConfig) -> None:
    """Refuse settings that need an experiment.

    Raises:
        UserError: such a setting is given.
    """
    for setting in ("scale", "checkpoint"):
        if _value(config, setting) != _value(TableConfig(), setting):
            raise UserError(
                f"{setting} is {_value(config, setting)!r}, but no experiment is named, and runs have no {setting} to choose; expected "
                f"an experiment such as memorizing/table4, or no {setting}"
            )


def _value(config: TableConfig, setting: str) -> Any:
    return attrgetter(setting)(config)
