"""From the cells of an experiment to the settings that their overrides make, as `memexp train` would compose them, and to
what fills the table.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from memexp.cli.compose import compose, typed
from memexp.cli.messages import explain
from memexp.cli.settings import CONF, groups_of
from memexp.config import TrainConfig
from memexp.errors import UserError
from memexp.experiment.cells import Cell, cells, chosen_columns, data_of
from memexp.experiment.definition import load
from memexp.experiment.matching import Wanted
from memexp.experiment.published import load_published
from memexp.report.reproduction import Reproduction, reproduce

PUBLISHED = next(
    folder for folder in (CONF.parent / "results" / "published", CONF.parent / "published") if folder.is_dir()
)
"""The papers' numbers: among the results in a checkout, beside `conf/` in an installation."""


def reproduction(root: Path, name: str, *, scale: str, data: Sequence[str] = ()) -> Reproduction:
    """A paper's table beside what our runs score.

    Raises:
        UserError: no such experiment, scale or data, or runs that cannot be compared.
    """
    experiment = load(CONF, name)
    columns = chosen_columns(experiment, scale, data)
    return reproduce(
        root,
        experiment,
        wanted(cells(experiment, scale, data=data)),
        load_published(PUBLISHED, experiment.paper, experiment.table),
        scale=scale,
        data={label: data_of(experiment, scale, label) for label in columns},
    )


def wanted(cells: Sequence[Cell]) -> list[Wanted]:
    """The cells with their settings, in the same order.

    Raises:
        UserError: a cell cannot be composed, or its settings are refused.
    """
    known: dict[tuple[str, ...], TrainConfig] = {}
    return [_wanted(cell, known) for cell in cells]


def _wanted(cell: Cell, known: dict[tuple[str, ...], TrainConfig]) -> Wanted:
    key = tuple(cell.overrides)
    if key not in known:
        try:
            known[key] = _composed(cell)
        except Exception as error:
            if (reason := explain(error, "train")) is None:
                raise
            raise UserError(f"{cell.row} on {cell.column}: {reason}") from error
    return Wanted(cell, known[key], None if cell.start is None else _wanted(cell.start, known))


def _composed(cell: Cell) -> TrainConfig:
    from omegaconf import OmegaConf

    groups = {name: value for name, value in cell.settings.items() if name in _groups()}
    config = _chosen(tuple(f"{name}={value}" for name, value in groups.items())).copy()
    for name, value in cell.settings.items():
        if name not in groups:
            OmegaConf.update(config, name, value)
    settings: TrainConfig = typed(config)
    return settings


@cache
def _groups() -> frozenset[str]:
    return frozenset(groups_of("train"))


@cache
def _chosen(groups: tuple[str, ...]) -> Any:
    """What Hydra makes of a choice of groups, which takes it long."""
    return compose("train", list(groups))
