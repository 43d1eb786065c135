"""The composed settings of the cells of an experiment, as `memexp train` would compose them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from memexp.config.checkpoints import with_checkpoint
from memexp.config.checks import check
from memexp.config.compose import compose
from memexp.config.groups import Scored
from memexp.config.hydra_errors import in_one_line
from memexp.config.introspection import choices_of, flatten, groups_of
from memexp.config.train import TrainConfig
from memexp.experiment.cells import Cell
from memexp.files import fingerprint
from memexp.store.folder import ScoreName
from memexp.store.identity import result_settings


@dataclass(frozen=True)
class Wanted:
    """A cell with its composed settings."""

    cell: Cell
    settings: TrainConfig
    start: "Wanted | None" = None

    @property
    def score(self) -> ScoreName:
        """The name of the cell's score."""
        asked, mem = self.settings.eval, self.cell.mem
        return ScoreName(
            asked.split,
            asked.documents,
            asked.max_document,
            self.settings.mem if mem is None else mem,
            self.cell.memory,
        )

    @property
    def scored(self) -> Scored:
        """The documents that are scored."""
        return Scored(self.score.split, self.score.documents, self.score.max_document)

    @property
    def changed_mem(self) -> int | None:
        """The size of the memory in scoring, if it differs from the run's; else None."""
        return self.score.mem if self.score.mem != self.settings.mem else None

    def with_seed(self, seed: int) -> "Wanted":
        """The cell of the same row and column with another seed."""
        start = self.start and self.start.with_seed(seed)
        return Wanted(self.cell.with_seed(seed), replace(self.settings, seed=seed), start)

    @property
    def result(self) -> str:
        """A hash of what determines the run; cells that share a run have the same hash."""
        start = None if self.start is None else self.start.result
        return fingerprint([determining(asdict(self.settings)), asdict(self.settings.data), start])


def determining(config: dict[str, Any]) -> dict[str, Any]:
    """What determines a run, without the content of its corpus and the run that it started from."""
    content = result_settings(config)
    return content | {"data": content["data"] | {"name": config["data"]["name"]}, "init_from": None}


def wanted(cells: Sequence[Cell]) -> list[Wanted]:
    """The cells with their settings, in the same order.

    Raises:
        UserError: a cell cannot be composed, or its settings are refused.
    """
    known: dict[tuple[str, ...], TrainConfig] = {}
    return [_wanted(cell, known) for cell in cells]


def _wanted(cell: Cell, known: dict[tuple[str, ...], TrainConfig]) -> Wanted:
    key = tuple(word for word in cell.overrides if not word.startswith("seed="))
    if key not in known:  # seeds are composed once
        with in_one_line("train", f"{cell.row} on {cell.column}: "):
            known[key] = _composed(cell)
    start = None if cell.start is None else _wanted(cell.start, known)
    return Wanted(cell, replace(known[key], seed=cell.seed), start)


def _composed(cell: Cell) -> TrainConfig:
    """The settings of a cell as Hydra composes them.

    Composing is slow. The settings of the data and the other settings do not refer to each other, so both parts are
    composed and cached separately, and not once for each combination.
    """
    groups = {name: value for name, value in cell.settings.items() if name in _groups()}
    values = _fit(groups["data"]) | {name: value for name, value in cell.settings.items() if name not in groups}
    of_data = {name: value for name, value in values.items() if name.startswith("data.")}
    data = _part(_without(groups, "arch"), of_data).data
    settings = replace(_part(_without(groups, "data"), _without(values, *of_data)), data=data)
    if settings.size.checkpoint is not None:
        settings = with_checkpoint(deepcopy(settings), ask=False)  # parts are shared
    check(settings)
    return settings


def _without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


_parts: dict[str, TrainConfig] = {}


def _part(groups: dict[str, Any], values: dict[str, Any]) -> TrainConfig:
    """Compose a choice of groups with these values, cached and not checked; the caller uses only a part of it."""
    from omegaconf import OmegaConf

    key = repr((groups, values))
    if key not in _parts:
        config = _hydra(**groups).copy()
        for name, value in values.items():
            OmegaConf.update(config, name, value)
        _parts[key] = OmegaConf.to_object(config)  # type: ignore[assignment]
    return _parts[key]


@cache
def _fit(data: str) -> dict[str, Any]:
    """The settings that a choice of data changes beside those of its group."""
    from omegaconf import OmegaConf

    if data not in choices_of("fit"):
        return {}
    values: Any = OmegaConf.to_container(compose(f"fit/{data}", []))
    return flatten(values)


@cache
def _groups() -> frozenset[str]:
    return frozenset(groups_of("train"))


@cache
def _hydra(**groups: str) -> Any:
    return compose("train", [f"{name}={value}" for name, value in groups.items()])
