"""Charts of differences, ours beside the paper's, as SVG and lists for a page: without scripts and inline styles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from memexp.report.escape import escape, html

_SIDE, _LEFT, _BELOW, _AROUND = 320, 44, 26, 16
"""Size of a panel's square, and the room around it: for numbers on the left and below, and for the rest."""
_WIDE, _HIGH, _EDGE = 600, 20, 10
"""Size of a strip, and the room at its ends."""
_MARK = 4.5
"""Half the size of a mark."""


@dataclass(frozen=True)
class Point:
    """A difference to the baseline of a column, the paper's beside ours.

    Attributes:
        row, column: its place in the table.
        unit: the unit of the numbers; points of one unit share a panel.
        higher: whether a higher number is better.
        paper, ours: the differences.
        interval: the 95 % interval of ours.
        decided: whether ours may be called a difference.
        texts: the paper's difference, ours and the interval, as the table writes them.
    """

    row: str
    column: str
    unit: str
    higher: bool
    paper: float | None
    ours: float
    interval: tuple[float, float] | None
    decided: bool
    texts: tuple[str, str, str]

    @property
    def words(self) -> str:
        paper, ours, interval = self.texts
        known = f"paper {paper}, " if self.paper is not None else ""
        return f"{self.row}, {self.column}: {known}ours {ours}, 95 % {interval}"

    @property
    def reach(self) -> list[float]:
        """Every number that must have a place on an axis."""
        return [self.ours, *(self.interval or ()), *([] if self.paper is None else [self.paper])]


@dataclass(frozen=True)
class Series:
    """The points of a table, and the number of its colour and shape, which stand for its paper."""

    title: str
    mark: int
    points: Sequence[Point]


@dataclass(frozen=True)
class Panel:
    """The points of one unit, the paper's across and ours upwards."""

    unit: str
    count: int
    svg: str


@dataclass(frozen=True)
class Strip:
    """A row of a table: its label, its numbers, and a drawing of them."""

    point: Point
    svg: str


@dataclass(frozen=True)
class Strips:
    """The differences of one column, below each other on one axis."""

    column: str
    unit: str
    strips: Sequence[Strip]
    axis: str


def panels(series: Sequence[Series]) -> list[Panel]:
    """A panel for each unit; better is to the right and upwards, so the same direction is in two of its quarters."""
    pairs = [(one, point) for one in series for point in one.points if point.paper is not None]
    by_unit = groupby(sorted(pairs, key=lambda pair: pair[1].unit), key=lambda pair: pair[1].unit)
    found = [(unit, list(of_unit)) for unit, of_unit in by_unit]
    return [_panel(unit, of_unit) for unit, of_unit in sorted(found, key=lambda each: -len(each[1]))]


def _panel(unit: str, pairs: Sequence[tuple[Series, Point]]) -> Panel:
    higher = pairs[0][1].higher
    axis = _Axis.around([value for _, point in pairs for value in point.reach], higher, _SIDE)
    right, bottom = _LEFT + _SIDE, _AROUND + _SIDE

    def across(value: float) -> float:
        return _LEFT + axis.at(value)

    def up(value: float) -> float:
        return bottom - axis.at(value)

    x, y = across(0), up(0)
    parts = [
        f'<rect class="against" x="{_LEFT}" y="{_AROUND}" width="{x - _LEFT:.1f}" height="{y - _AROUND:.1f}"/>',
        f'<rect class="against" x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" height="{bottom - y:.1f}"/>',
    ]
    for tick in axis.ticks:
        zero = "zero" if tick == 0 else "grid"
        parts += [
            f'<path class="{zero}" d="M{across(tick):.1f} {_AROUND}V{bottom}M{_LEFT} {up(tick):.1f}H{right}"/>',
            f'<text x="{across(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{axis.text(tick)}</text>',
            f'<text x="{_LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{axis.text(tick)}</text>',
        ]
    parts.append(f'<path class="same" d="M{_LEFT} {bottom}L{right} {_AROUND}"/>')
    # What is decided is drawn last, so that nothing covers it.
    for one, point in sorted(pairs, key=lambda pair: pair[1].decided):
        assert point.paper is not None
        at, state = across(point.paper), "decided" if point.decided else "open"
        parts.append(f'<g class="m{one.mark} {state}"><title>{html(f"{one.title}. {point.words}")}</title>')
        if point.interval:
            parts.append(f'<path class="span" d="M{at:.1f} {up(point.interval[0]):.1f}V{up(point.interval[1]):.1f}"/>')
        parts.append(f"{_mark(one.mark, at, up(point.ours))}</g>")
    alike = sum(point.paper is not None and point.paper * point.ours > 0 for _, point in pairs if point.decided)
    decided = sum(point.decided for _, point in pairs)
    told = f"{unit}: the paper's difference across, ours upwards; {alike} of {decided} decided differences have the paper's sign"
    width, height = right + _AROUND, bottom + _BELOW
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html(told)}">{"".join(parts)}</svg>'
    return Panel(escape(unit), len(pairs), svg)


def strips(points: Sequence[Point]) -> list[Strips]:
    """For each column the differences of its rows; better is to the right."""
    return [_strips(column, list(of_column)) for column, of_column in groupby(points, key=lambda point: point.column)]


def _strips(column: str, points: Sequence[Point]) -> Strips:
    reach = [value for point in points for value in point.reach]
    axis = _Axis.around(reach, points[0].higher, _WIDE - 2 * _EDGE)

    def across(value: float) -> float:
        return _EDGE + axis.at(value)

    lines = "".join(
        f'<path class="{"zero" if tick == 0 else "grid"}" d="M{across(tick):.1f} 0V{_HIGH}"/>' for tick in axis.ticks
    )
    found, middle = [], _HIGH / 2
    for point in points:
        parts = [lines]
        if point.interval:
            low, high = map(across, point.interval)
            parts.append(f'<path class="span" d="M{low:.1f} {middle}H{high:.1f}"/>')
        parts.append(_mark(0, across(point.ours), middle))
        if point.paper is not None:
            at, size = across(point.paper), _MARK + 1
            parts.append(
                f'<path class="paper" d="M{at - size:.1f} {middle}l{size} {-size}l{size} {size}l{-size} {size}z"/>'
            )
        state = "decided" if point.decided else "open"
        # The numbers stand beside it as text.
        found.append(
            Strip(
                point,
                f'<svg class="m0 {state}" viewBox="0 0 {_WIDE} {_HIGH}" aria-hidden="true">{"".join(parts)}</svg>',
            )
        )
    numbers = "".join(
        f'<text x="{across(tick):.1f}" y="14" text-anchor="middle">{axis.text(tick)}</text>' for tick in axis.ticks
    )
    return Strips(
        column, points[0].unit, found, f'<svg viewBox="0 0 {_WIDE} {_HIGH}" aria-hidden="true">{numbers}</svg>'
    )


def _mark(kind: int, x: float, y: float) -> str:
    """A circle, a square or a triangle: a mark must not be known by its colour alone."""
    if kind % 3 == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{_MARK}"/>'
    size = 2 * _MARK
    if kind % 3 == 1:
        return f'<rect class="mark" x="{x - _MARK:.1f}" y="{y - _MARK:.1f}" width="{size}" height="{size}"/>'
    return f'<path class="mark" d="M{x:.1f} {y - _MARK - 1:.1f}l{_MARK + 1} {size}h{-size - 2}z"/>'


@dataclass(frozen=True)
class _Axis:
    """An axis that holds zero and runs from worse to better.

    Attributes:
        low, high: the numbers at its ends, low < high.
        higher: whether the higher number is better.
        length: its length in the drawing.
    """

    low: float
    high: float
    higher: bool
    length: float

    @staticmethod
    def around(values: Sequence[float], higher: bool, length: float) -> "_Axis":
        low, high = min(0.0, *values), max(0.0, *values)
        room = 0.04 * (high - low) or 1.0
        return _Axis(low - room, high + room, higher, length)

    def at(self, value: float) -> float:
        """The distance of a number from the start of the axis."""
        part = (value - self.low) / (self.high - self.low)
        return self.length * (part if self.higher else 1 - part)

    @property
    def _step(self) -> float:
        """The distance of two ticks: 1, 2 or 5 times a power of ten, for three to eight ticks."""
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)

    @property
    def ticks(self) -> list[float]:
        first, last = math.ceil(self.low / self._step), math.floor(self.high / self._step)
        return [at * self._step for at in range(first, last + 1)]

    def text(self, tick: float) -> str:
        digits = max(0, -math.floor(math.log10(self._step)))
        return f"{tick:+,.{digits}f}" if tick else "0"
