"""The cells of an experiment: the settings of `memexp train` for each row, column and seed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memexp.config.checkpoints import PRESET, find_folder, shape_of
from memexp.errors import UserError, did_you_mean
from memexp.experiment.definition import Experiment

OF_EVERY_DEVICE = {"precision": "fp32"}
"""Values of settings that a device would choose. A table has cells from several machines, which must be the same runs."""


@dataclass(frozen=True)
class Cell:
    """One row and column of a table with one seed.

    Attributes:
        settings: settings of the run by dotted name: config groups and values, without `init_from`.
        start: the cell whose weights the run starts from.
        mem, memory: how the run is scored, if not with the memory of its training.
    """

    row: str
    column: str
    seed: int
    settings: dict[str, Any]
    start: "Cell | None" = None
    mem: int | None = None
    memory: str = "on"

    @property
    def overrides(self) -> list[str]:
        """The words of `memexp train`, without `init_from`."""
        return [f"{name}={_text(value)}" for name, value in self.settings.items()]

    def with_seed(self, seed: int) -> "Cell":
        """The cell of the same row and column with another seed."""
        start = self.start and self.start.with_seed(seed)
        return replace(self, seed=seed, settings=self.settings | {"seed": seed}, start=start)

    def with_settings(self, changes: Mapping[str, Any]) -> "Cell":
        """The cell with other values of settings that it has; likewise the cell that it starts from."""
        changed = {name: value for name, value in changes.items() if name in self.settings}
        return replace(self, settings=self.settings | changed, start=self.start and self.start.with_settings(changes))

    @property
    def trains(self) -> bool:
        """Whether training the run also makes the score of the cell."""
        return self.mem is None and self.memory == "on"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def cells(experiment: Experiment, scale: str, *, data: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
    """All cells at a scale, in an order in which the table is useful early.

    Seeds come one after another. For each seed, rows that are far apart come first.

    Args:
        data: the columns to take, by the name of the data or of the paper's column; empty: all.
        seeds: the seeds to take; empty: those of the experiment.

    Raises:
        UserError: the scale or a column does not exist, or a length of a row does not fit the scale.
    """
    if scale not in experiment.scales:
        raise UserError(f"scale is {scale!r}; expected one of {', '.join(experiment.scales)}")
    columns = chosen_columns(experiment, scale, data)
    rows = [list(experiment.rows)[at] for at in _spread_out(len(experiment.rows))]
    return [
        _cell(experiment, scale, row, column, seed)
        for seed in (seeds or experiment.seeds)
        for column in columns
        for row in rows
        if column in (experiment.rows[row].columns or columns)
    ]


def data_of(experiment: Experiment, scale: str, column: str) -> str:
    """The name of a column's data."""
    settings = getattr(experiment.columns[column], scale)
    return str(settings.get("data.name", settings["data"]))


def chosen_columns(experiment: Experiment, scale: str, data: Sequence[str]) -> list[str]:
    """The columns with these names or this data, in the order of the table; all if `data` is empty."""
    there = [label for label, column in experiment.columns.items() if getattr(column, scale)]
    names = {label: (label, data_of(experiment, scale, label)) for label in there}
    for word in data:
        if not any(word in pair for pair in names.values()):
            known = list(dict.fromkeys(name for _, name in names.values()))
            close = did_you_mean(word, [*known, *names])
            raise UserError(f"data is {word!r}; expected one of {', '.join(known)}, or the name of a column{close}")
    return [label for label, pair in names.items() if not data or set(pair) & set(data)]


def _spread_out(count: int) -> Iterator[int]:
    """Indices of `count` rows: the first, the last, then the middle of each gap, so that each is far from those before it."""
    seen = []
    parts = [(0, count - 1)] if count else []
    for low, high in parts:
        for at in (low, high):
            if at not in seen:
                seen.append(at)
        middle = (low + high) // 2
        if middle not in (low, high):
            parts += [(low, middle), (middle, high)]
    return iter(seen)


def _cell(experiment: Experiment, scale: str, label: str, column: str, seed: int) -> Cell:
    row = experiment.rows[label]
    if row.scores is not None:
        run = _cell(experiment, scale, row.scores, column, seed)
        mem = None if row.mem is None else _divided(experiment, scale, row.mem)
        return Cell(label, column, seed, run.settings, run.start, mem, row.memory)
    origin = experiment.start_of(label, scale)
    start = None if origin is None else _cell(experiment, scale, origin, column, seed)
    shared = experiment.scales[scale]
    settings = OF_EVERY_DEVICE | shared.set
    for name, value in row.set.items():
        settings[name] = _divided(experiment, scale, value) if name in shared.divided else value
    if shared.steps is not None:
        settings["steps"] = shared.steps
    settings |= getattr(experiment.columns[column], scale) | getattr(row, scale)
    if experiment.checkpoint is not None:
        settings |= {"size": PRESET, "size.checkpoint": experiment.checkpoint}
    if row.every:
        settings["arch.knn_layers"] = list(range(row.every, _layers(experiment) + 1, row.every))
    if length := experiment.columns[column].document:
        settings["accumulate"] = math.ceil(length / settings["segment"])
    if shared.tokens_a_step and "lanes" not in settings:
        settings["lanes"] = shared.tokens_a_step // (settings["segment"] * settings.get("accumulate", 1))
    elif shared.tokens_a_step and "accumulate" not in settings:
        settings["accumulate"] = shared.tokens_a_step // (settings["segment"] * settings["lanes"])
    return Cell(label, column, seed, settings | {"seed": seed}, start)


def _layers(experiment: Experiment) -> int:
    """How many layers the checkpoint has.

    Raises:
        UserError: it is not on this machine.
    """
    return shape_of(find_folder(str(experiment.checkpoint), None, ask=False).path)["layers"]


def _divided(experiment: Experiment, scale: str, length: int) -> int:
    shared = experiment.scales[scale]
    if length % shared.divide:
        raise UserError(
            f"{experiment.name} has a length {length}; expected a multiple of {shared.divide} at scale={scale}"
        )
    return length // shared.divide
