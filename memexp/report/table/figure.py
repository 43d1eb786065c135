"""A table by position as a plot: what each row gains from more of a document."""

import io
import math
import warnings
from typing import Any

from memexp.report.escape import escape
from memexp.report.table.comparison import Comparison
from memexp.report.table.entries import Column


def plot(comparison: Comparison) -> dict[str, bytes]:
    """The metric of each row by position as .png and .svg, a panel for each data set; the axis of positions is logarithmic.

    A point is at the end of its range of positions.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels: dict[str, list[Column]] = {}
    for column in comparison.columns:
        panels.setdefault(column.source, []).append(column)
    style: Any = {"svg.hashsalt": "memexp", "svg.fonttype": "none", "font.size": 8}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    files = {kind: io.BytesIO() for kind in ("png", "svg")}
    with warnings.catch_warnings(), rc_context(style):
        figure = Figure(figsize=(6, 3.6 * len(panels)), dpi=130, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, (source, columns) in zip(grid.flat, panels.items(), strict=True):
            _panel(axes, comparison, source, columns)
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # dates are left out, so that equal plots are equal files
        FigureCanvasAgg(figure).print_png(files["png"], metadata={"Software": None})
        FigureCanvasSVG(figure).print_svg(files["svg"], metadata={"Date": None, "Creator": None})
    return {kind: file.getvalue() for kind, file in files.items()}


def _panel(axes: Any, comparison: Comparison, source: str, columns: list[Column]) -> None:
    for row in comparison.rows:
        spreads = [(int(column.value), spread) for column in columns if (spread := comparison.spread(row, column))]
        points = [(end, spread.mean) for end, spread in spreads if math.isfinite(spread.mean)]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=_literal(row.label))
    ends = [int(column.value) for column in columns]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ends, [f"{end:,}" for end in ends])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("tokens of the document before a token, at most")
    axes.set_ylabel(comparison.metric.name)
    axes.set_title(_literal(source), loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=7)


def _literal(text: str) -> str:
    """`text` without control characters, and with dollar signs that do not start mathematics."""
    return escape(text).replace("$", r"\$")
