"""Figures as a table, for the terminal and as Markdown."""

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any

from memexp.bench.curve import slope
from memexp.bench.measurement import Figure
from memexp.report.escape import markdown

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("what", "ours", "other", "ours / other, median [range]", "wanted", "met")


_IN_TURN = "; every round measures each side once, and the ratio is computed in each round"


def to_terminal(figures: Sequence[Figure]) -> "Table":
    """A row for each figure; figures that miss a wanted value are red."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for figure in figures:
        table.add_row(*(Text(cell) for cell in cells(figure)), style="red" if figure.met is False else "")
    return table


def to_markdown(figures: Sequence[Figure], document: dict[str, Any], *, work: str) -> str:
    """The table as Markdown, with the machine above it and notes below."""
    machine = document["machine"]
    lines = [
        f"{document['date'][:10]}, {machine['cpu']} ({machine['instructions']}, {machine['cores']} cores, load "
        f"{machine['load']}), {machine['threads']} threads, {machine['clock']} time, torch {machine['torch']}, Python {machine['python']}.",
        *([f"On {machine['gpu']['name']}, CUDA or ROCm {machine['gpu']['cuda']}."] if "gpu" in machine else []),
        f"{work[0].upper()}{work[1:]}. Medians of {document['settings']['repeats']} rounds{_IN_TURN * bool(machine['floors'])}.",
        *_floors(machine["floors"]),
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * len(HEADINGS)}",
        *(f"| {' | '.join(markdown(cell) for cell in cells(figure))} |" for figure in figures),
    ]
    if any(figure.what.startswith("curve: ") for figure in figures):
        lines += ["", f"Exact search grows with the power {slope(figures):.2f} of the memory's size (curve.svg)."]
    notes = [f"{figure.what}: {figure.note}." for figure in figures if figure.note]
    return "\n".join([*lines, *_facts(figures), *(["", *notes] if notes else [])]) + "\n"


def _floors(floors: dict[str, float]) -> list[str]:
    return ["Floors: " + ", ".join(f"{name} {value:.3g}" for name, value in floors.items()) + "."] if floors else []


def _fact(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def _facts(figures: Sequence[Figure]) -> list[str]:
    """A table of the further facts for each bench that has any."""
    lines = []
    for names, group in groupby((figure for figure in figures if figure.facts), key=lambda figure: list(figure.facts)):
        lines += _table(names, list(group))
    return lines


def _table(names: list[str], figures: list[Figure]) -> list[str]:
    return [
        "",
        f"| what | {' | '.join(names)} |",
        f"|{' --- |' * (len(names) + 1)}",
        *(
            f"| {markdown(figure.what)} | {' | '.join(_fact(figure.facts[name]) for name in names)} |"
            for figure in figures
        ),
    ]


def cells(figure: Figure) -> list[str]:
    """The row of a figure, one text for each of `HEADINGS`."""
    met = {None: "", True: "yes", False: "no"}[figure.met]
    if figure.unmeasured:
        return [figure.what, figure.unmeasured, "", "", "", met]
    ours, other = (amount(median(values), figure.unit) for values in (figure.ours_measured, figure.other_measured))
    ratios = figure.ratios
    return [
        figure.what,
        f"{figure.ours}: {ours}",
        f"{figure.other}: {other}",
        f"{median(ratios):.3g} [{min(ratios):.3g}..{max(ratios):.3g}]",
        _wanted(figure),
        met,
    ]


def _wanted(figure: Figure) -> str:
    words = []
    if figure.ratio_at_most is not None:
        words.append(f"ratio <= {figure.ratio_at_most:g}")
    if figure.ours_at_most is not None:
        words.append(f"ours <= {amount(figure.ours_at_most, figure.unit)}")
    return ", ".join(words)


def amount(value: float, unit: str) -> str:
    """A measured value as text: 1.23 s, 4.5 ms, 537 MiB, 3.9 TB/s, 2e-05."""
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB"
    if unit in ("B/s", "FLOP/s"):
        return f"{value / 1e12:.3g} T{unit}"
    if not unit:
        return f"{value:.3g}"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
