"""The numbers of papers: `results/published/<paper>.yaml` has a block for each table, and in it a line for each row.

A block with `like: TABLE` has the numbers of that block, in some of its columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memexp.config.introspection import CONF
from memexp.errors import UserError
from memexp.files import parse_yaml

PUBLISHED = CONF.parent / "published"
"""Folder of the papers' numbers; in a checkout it is a link to `results/published`."""


class Number(NamedTuple):
    """A published value."""

    value: float
    std: float | None = None
    recalled: bool = False
    """Whether it was recalled and not read in the source."""


@dataclass(frozen=True)
class Published:
    """The numbers of one table.

    Attributes:
        cites: the paper and its table.
        source: where the numbers were read.
        numbers: the numbers by row and column.
        step_time: time of a training step by row, relative to a row that the paper chose.
    """

    cites: str = ""
    source: str = ""
    note: str = ""
    numbers: Mapping[tuple[str, str], Number] = field(default_factory=dict)
    step_time: Mapping[str, Number] = field(default_factory=dict)


def load_published(paper: str, table: str) -> Published:
    """The published numbers of a table; empty if there are none.

    Raises:
        UserError: the file is damaged.
    """
    from yaml import YAMLError

    path = PUBLISHED / f"{paper}.yaml"
    if not path.exists():
        return Published()
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        if table not in content:
            return Published()
        block = content[table]
        if "like" not in block:
            return _published(block)
        return _published(content[block["like"]], only=block["columns"])
    except (OSError, TypeError, KeyError, ValueError, YAMLError) as error:
        raise UserError(
            f"cannot read {table} in {path}: {error}; expected cites, source, columns and rows of numbers, or which table it is like "
            "and some of its columns"
        ) from error


def _published(block: dict[str, Any], only: Sequence[str] | None = None) -> Published:
    chosen = block["columns"] if only is None else only
    if unknown := set(chosen) - set(block["columns"]):
        raise ValueError(f"there is no column {min(unknown)!r}")
    numbers = {
        (row, column): _number(cell)
        for row, cells in block["rows"].items()
        for column, cell in zip(block["columns"], cells, strict=True)
        if cell is not None and column in chosen
    }
    step_time = {row: _number(cell) for row, cell in block.get("step_time", {}).items()}
    return Published(block["cites"], block["source"], block.get("note", ""), numbers, step_time)


def _number(cell: Any) -> Number:
    if isinstance(cell, dict):
        return Number(float(cell.pop("value")), **cell)
    return Number(float(cell))
