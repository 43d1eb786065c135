"""Plots of tables: a metric against the positions of tokens, or another property of what was scored, with a line for each row; and
bars of shares."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memexp.report.plot import drawing, files, literal
from memexp.report.table.comparison import Comparison
from memexp.report.table.entries import POSITION, Column

WIDTH, HEIGHT = 6.0, 3.2
"""Size of a panel without its legend, in inches."""

FOLDED, LINE = 76, 0.135
"""Characters in a line of the legend, and its height in inches."""

_PART = re.compile(r"[^-+ ]*[-+ ]?")
"""What a label can be broken after."""


@dataclass(frozen=True)
class Panel:
    """The lines of one data set.

    Attributes:
        across, up: what the axes show.
        lines: the points of each row, by its label.
    """

    title: str
    across: str
    up: str
    lines: Sequence[tuple[str, Sequence[tuple[int, float]]]]


def across(by: str) -> str:
    """What an axis of this property is called."""
    return "tokens of the document before a token, at most" if by == POSITION else by


def panels_of(comparison: Comparison) -> list[Panel]:
    """A panel for each data set of a table by position; a point is at the end of its range of positions."""
    sources: dict[str, list[Column]] = {}
    for column in comparison.columns:
        sources.setdefault(column.source, []).append(column)
    return [
        Panel(
            source,
            across(comparison.by),
            comparison.metric.name,
            [
                (row.label, [(int(column.value), found.mean) for column in columns if (found := comparison.spread(row, column))])
                for row in comparison.rows
            ],
        )
        for source, columns in sources.items()
    ]  # fmt: skip


def plot(panels: Sequence[Panel]) -> dict[str, bytes]:
    """The panels below each other as .png and .svg, each with its legend below it; the axis across is logarithmic, but for 0."""
    shown = [
        [(_folded(label), points) for label, every in panel.lines if (points := _finite(every))] for panel in panels
    ]
    heights = [HEIGHT + LINE * (1 + sum(1 + label.count("\n") for label, _ in lines)) for lines in shown]
    with drawing(WIDTH, sum(heights)) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
        for axes, panel, lines in zip(grid.flat, panels, shown, strict=True):
            _draw(axes, panel, lines)
        return files(figure, "png", "svg")


def bars(title: str, across: str, shares: Mapping[str, Sequence[float]], legend: Sequence[str]) -> dict[str, bytes]:
    """A bar for each label, the first above, as .png and .svg; its parts stand behind each other and are shares of one.

    Args:
        across: what the axis shows.
        legend: what each part is.
    """
    with drawing(WIDTH, 0.9 + 0.2 * len(shares)) as figure:
        axes = figure.subplots()
        left = [0.0] * len(shares)
        for part, name in enumerate(legend):
            widths = [parts[part] for parts in shares.values()]
            axes.barh([*map(literal, shares)], widths, left=left, height=0.7, label=name, color=f"C{part}")
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel(across)
        axes.set_title(literal(title), loc="left", fontsize=9)
        figure.legend(frameon=False, fontsize=7, loc="outside lower left", ncols=len(legend))
        return files(figure, "png", "svg")


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(place, value) for place, value in points if math.isfinite(value)]


def _draw(axes: Any, panel: Panel, lines: Sequence[tuple[str, list[tuple[int, float]]]]) -> None:
    for label, points in lines:
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=label)
    places = sorted({place for _, points in panel.lines for place, _ in points})
    if places and places[0] == 0:  # of an axis that begins at none
        axes.set_xscale("symlog", base=2, linthresh=max(1, *places[1:2]))
    else:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.up)
    axes.set_title(literal(panel.title), loc="left", fontsize=9)
    if lines:
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.15), borderaxespad=0)


def _folded(label: str) -> str:
    """A label on lines that the plot has room for; what makes rows differ may be long, such as a list of layers."""
    lines = [""]
    for part in _PART.findall(literal(label)):
        if len(lines[-1]) + len(part) > FOLDED and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
