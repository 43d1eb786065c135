"""What `memexp diff` writes: every token as CSV, the numbers as JSON, and a plot."""

import csv
import io
import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from memexp.files import write_atomically, write_json, write_text
from memexp.report.difference.breakdown import Breakdown
from memexp.report.difference.page import RUNNING, page
from memexp.report.difference.token_text import Pieces, Wording, token_texts
from memexp.report.difference.tokens import HELPED, Difference, by_position, interval
from memexp.report.escape import escape

_PANELS = 8
"""Documents in the plot, the first ones."""


def write_files(folder: Path, found: Difference, breakdown: Breakdown, pieces: Pieces, wording: Wording) -> list[Path]:
    """Write index.html, tokens.csv, summary.json and the plot as gain.png, .svg and .pdf into `folder`; gives their paths."""
    numbers = summary(found, breakdown)
    write_text(folder / "index.html", page(found, numbers, breakdown, wording))
    write_text(folder / "tokens.csv", tokens_csv(found, pieces))
    write_json(folder / "summary.json", numbers)
    plots = plot(found)
    for name, content in plots.items():
        write_atomically(folder / name, content)
    return [folder / name for name in ("index.html", "tokens.csv", "summary.json", *plots)]


def tokens_csv(found: Difference, pieces: Pieces) -> str:
    """One line a scored token, in order of reading. Token text is escaped as in Python, backslashes doubled."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["document", "position", "token", "nats_a", "nats_b", "gain"])
    names = [escape(name) for name, _ in found.a.documents]
    writer.writerows(
        zip(
            [names[at] for at in found.document_N.tolist()],
            found.position_N.tolist(),
            token_texts(found.a.tokens_N, pieces),
            *([f"{value:.6f}" for value in array.tolist()] for array in (found.a.nats_N, found.b.nats_N, found.gain_N)),
            strict=True,
        )
    )
    return out.getvalue()


def summary(found: Difference, breakdown: Breakdown) -> dict[str, Any]:
    """Every number that the terminal and the page show, in full."""
    sides = {}
    for side, scores in (("a", found.a), ("b", found.b)):
        nats = float(scores.nats_N.mean())
        sides[side] = {
            "score": scores.label,
            "folder": scores.path.name,
            "nats_per_token": nats,
            "perplexity": math.exp(nats),
            "command": scores.summary["command"],
        }
    lengths = found.a.lengths.tolist()
    return {
        **sides,
        "tokens": len(found.gain_N),
        "gain": found.mean,
        "gain_interval_95": interval(found),
        "helped": found.helped,
        "hurt": found.hurt,
        "threshold": HELPED,
        "documents": [
            {"id": name, "tokens": tokens, "gain": float(gain / tokens) if tokens else None}
            for (name, _), tokens, gain in zip(found.a.documents, lengths, found.gain_D, strict=True)
        ],
        "half": breakdown.half,
        "foreign_gain": breakdown.foreign,
        "by_kind": [asdict(one) for one in breakdown.kinds],
        "by_frequency": [asdict(one) for one in breakdown.frequency],
        "by_distance": [asdict(one) for one in breakdown.distance],
        "by_position": [asdict(one) for one in by_position(found)],
    }


def plot(found: Difference) -> dict[str, bytes]:
    """The gain of each token over its index, a panel a document, as gain.png, gain.svg and gain.pdf.

    Dots are the tokens that were helped or hurt; the line is the running mean. Beyond a tenth of a nat the scale is
    logarithmic, for the mean is a hundredth of what single tokens gain.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [at for at in range(len(found.a.documents)) if found.a.documents[at][1]][:_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = math.ceil(len(shown) / columns)
    spines = {"axes.spines.top": False, "axes.spines.right": False}
    style: Any = {"svg.hashsalt": "memexp", "svg.fonttype": "none", "font.size": 8, **spines}
    with warnings.catch_warnings(), rc_context(style):
        width, height = 10, 0.9 + (1.35 if columns == 2 else 2.6) * rows
        figure = Figure(figsize=(width, height), dpi=130)
        # Placed in inches: a layout that looks for what fits would draw everything twice.
        places = {"left": 0.8 / width, "right": 1 - 0.1 / width, "top": 1 - 0.5 / height, "bottom": 0.5 / height}
        places |= {"wspace": 0.06, "hspace": 0.35}
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=places)
        for axes, document in zip(grid.flat, shown, strict=False):
            _panel(axes, found, document)
        for axes in list(grid.flat)[len(shown) :]:
            axes.remove()
        of = (
            f", first {len(shown)} of {len(found.a.documents)} documents" if len(shown) < len(found.a.documents) else ""
        )
        figure.suptitle(
            f"Gain of each token from A = {_literal(found.a.label)} to B = {_literal(found.b.label)}{of}", fontsize=9
        )
        figure.supxlabel(f"index of the token in its document (line: mean of {RUNNING} tokens)", fontsize=8)
        figure.supylabel("gain in nats, A - B (logarithmic beyond 0.1)", fontsize=8)
        files = {f"gain.{kind}": io.BytesIO() for kind in ("png", "svg", "pdf")}
        # A document's name may be written in letters that the font does not have: boxes will do.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # What would make them other files every time is left out. (`savefig` would draw each twice.)
        FigureCanvasAgg(figure).print_png(files["gain.png"], metadata={"Software": None})
        FigureCanvasSVG(figure).print_svg(files["gain.svg"], metadata={"Date": None, "Creator": None})
        nothing = {"CreationDate": None, "Creator": None, "Producer": None}
        FigureCanvasPdf(figure).print_pdf(files["gain.pdf"], metadata=nothing)
    return {name: file.getvalue() for name, file in files.items()}


def _panel(axes: Any, found: Difference, document: int) -> None:
    mine = found.document_N == document
    gain, position = found.gain_N[mine], found.position_N[mine]
    moved = np.abs(gain) > HELPED
    axes.axhline(0, color="0.6", linewidth=0.6)
    # Dots as an image: as many circles would make an SVG of ten megabytes.
    axes.plot(
        position[moved],
        gain[moved],
        ".",
        color="tab:blue",
        alpha=0.5,
        markersize=2.5,
        markeredgewidth=0,
        rasterized=True,
    )
    width = min(RUNNING, len(gain))
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    axes.plot(position[width - 1 :], (sums[width:] - sums[:-width]) / width, color="tab:red", linewidth=1)
    axes.margins(x=0.01)
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.7)
    axes.set_yticks([-10, -1, -0.1, 0, 0.1, 1, 10], ["-10", "-1", "-0.1", "0", "0.1", "1", "10"])
    axes.set_yticks([], minor=True)
    title = f"{_literal(found.a.documents[document][0])}: mean {gain.mean():+.3f}"
    axes.set_title(title, fontsize=8, loc="left", y=1.0)  # with a height, no place is looked for in each drawing


def _literal(text: str) -> str:
    """Text of others is no mathematics."""
    return escape(text).replace("$", r"\$")
