"""The files that `memexp diff` writes: a page, every token as CSV, the numbers as JSON, and a plot."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from memexp.files import write_atomically, write_json, write_text
from memexp.report.difference.breakdown import Breakdown
from memexp.report.difference.page import RUNNING, page
from memexp.report.difference.settings import Side, differing
from memexp.report.difference.token_text import Pieces, Wording, token_texts
from memexp.report.difference.tokens import HELPED, Difference, by_position, interval
from memexp.report.escape import csv_text
from memexp.report.plot import drawing, files, literal
from memexp.wording import perplexity_of

_PANELS = 8
"""Number of documents in the plot; it shows the first documents."""


def write_files(folder: Path, diff: Difference, breakdown: Breakdown, pieces: Pieces, wording: Wording) -> list[Path]:
    """Write index.html, tokens.csv, summary.json and the plot as gain.png, .svg and .pdf; return their paths."""
    numbers = summary(diff, breakdown)
    write_text(folder / "index.html", page(diff, numbers, breakdown, wording))
    write_text(folder / "tokens.csv", tokens_csv(diff, pieces))
    write_json(folder / "summary.json", numbers)
    plots = plot(diff)
    for name, content in plots.items():
        write_atomically(folder / name, content)
    return [folder / name for name in ("index.html", "tokens.csv", "summary.json", *plots)]


def tokens_csv(diff: Difference, pieces: Pieces) -> str:
    """One line for each scored token, in reading order; token text is escaped as in Python, with doubled backslashes."""
    names = [name for name, _ in diff.a.documents]
    rows = zip(
        [names[at] for at in diff.document_N.tolist()],
        diff.position_N.tolist(),
        token_texts(diff.a.tokens_N, pieces),
        *([f"{value:.6f}" for value in array.tolist()] for array in (diff.a.nats_N, diff.b.nats_N, diff.gain_N)),
        strict=True,
    )
    return csv_text([["document", "position", "token", "nats_a", "nats_b", "gain"], *rows])


def summary(diff: Difference, breakdown: Breakdown) -> dict[str, Any]:
    """Every number that the terminal and the page show, in full."""
    sides = {}
    for side, scores in (("a", diff.a), ("b", diff.b)):
        nats = float(scores.nats_N.mean())
        sides[side] = {
            "score": scores.label,
            "folder": scores.path.name,
            "nats_per_token": nats,
            "perplexity": perplexity_of(nats),
            "trained_tokens": Side(scores).tokens,
            "command": scores.summary["command"],
        }
    lengths = diff.a.lengths.tolist()
    return {
        **sides,
        "settings": {name: {"a": a, "b": b} for name, (a, b) in differing(diff).items()},
        "tokens": len(diff.gain_N),
        "gain": diff.mean,
        "gain_interval_95": interval(diff),
        "helped": diff.helped,
        "hurt": diff.hurt,
        "threshold": HELPED,
        "documents": [
            {"id": name, "tokens": tokens, "gain": float(gain / tokens) if tokens else None}
            for (name, _), tokens, gain in zip(diff.a.documents, lengths, diff.gain_D, strict=True)
        ],
        "half": breakdown.half,
        "foreign_gain": breakdown.foreign,
        "by_kind": [asdict(group) for group in breakdown.kinds],
        "by_frequency": [asdict(group) for group in breakdown.frequency],
        "by_distance": [asdict(group) for group in breakdown.distance],
        "by_position": [asdict(positions) for positions in by_position(diff)],
    }


def plot(diff: Difference) -> dict[str, bytes]:
    """The gain of each token by position, one panel for each document, as gain.png, gain.svg and gain.pdf.

    Dots are the tokens that gain or lose; the line is the running mean. Beyond a tenth of a nat the scale is logarithmic,
    because the mean is about a hundredth of the gains of single tokens.
    """
    shown = [at for at in range(len(diff.a.documents)) if diff.a.documents[at][1]][:_PANELS]
    columns = 1 if len(shown) == 1 else 2
    rows = math.ceil(len(shown) / columns)
    width, height = 10, 0.9 + (1.35 if columns == 2 else 2.6) * rows
    with drawing(width, height, layout=None) as figure:
        # Margins are set in inches, because an automatic layout would draw everything twice.
        places = {"left": 0.8 / width, "right": 1 - 0.1 / width, "top": 1 - 0.5 / height, "bottom": 0.5 / height}
        places |= {"wspace": 0.06, "hspace": 0.35}
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=places)
        for axes, document in zip(grid.flat, shown, strict=False):
            _panel(axes, diff, document)
        for axes in list(grid.flat)[len(shown) :]:
            axes.remove()
        of = f", first {len(shown)} of {len(diff.a.documents)} documents" if len(shown) < len(diff.a.documents) else ""
        figure.suptitle(
            f"Gain of each token from A = {literal(diff.a.label)} to B = {literal(diff.b.label)}{of}", fontsize=9
        )
        among = "among the scored ones of" if diff.of_answers else "in"
        figure.supxlabel(f"index of the token {among} its document (line: mean of {RUNNING} tokens)", fontsize=8)
        figure.supylabel("gain in nats, A - B (logarithmic beyond 0.1)", fontsize=8)
        return {f"gain.{kind}": content for kind, content in files(figure, "png", "svg", "pdf").items()}


def _panel(axes: Any, diff: Difference, document: int) -> None:
    mine = diff.document_N == document
    gain, position = diff.gain_N[mine], diff.position_N[mine]
    moved = np.abs(gain) > HELPED
    axes.axhline(0, color="0.6", linewidth=0.6)
    # Dots are drawn as an image, because single circles would make an SVG of ten megabytes.
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
    title = f"{literal(diff.a.documents[document][0])}: mean {gain.mean():+.3f}"
    axes.set_title(title, fontsize=8, loc="left", y=1.0)  # with a fixed y, matplotlib does not search for a place
