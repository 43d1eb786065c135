"""The output of `memexp data inspect`: the numbers as JSON, a plot, and tables for a terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.files import write_atomically, write_json
from memexp.report.corpus.statistics import Inspection
from memexp.report.escape import Fitting, escape
from memexp.report.plot import drawing, files
from memexp.wording import compact, plural

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_BAR = 24
"""Length of the longest bar, in characters."""


def write_files(folder: Path, inspection: Inspection) -> list[Path]:
    """Write the split's .json, .png and .svg into `folder`; return their paths."""
    paths = [folder / f"{inspection.split}.json"]
    write_json(paths[0], inspection.summary())
    for kind, content in plot(inspection).items():
        paths.append(folder / f"{inspection.split}.{kind}")
        write_atomically(paths[-1], content)
    return paths


def to_terminal(inspection: Inspection) -> "RenderableType":
    """The statistics as text for a terminal: lengths, repetition and tokens, in this order."""
    from rich.console import Group
    from rich.text import Text

    quantiles = ", ".join(f"{name} {tokens:,}" for name, tokens in inspection.quantiles.items())
    head = (
        f"{inspection.name}, {inspection.split}: {plural(inspection.documents, 'document')}, {plural(inspection.tokens, 'token')}, "
        f"{inspection.bytes:,} bytes ({inspection.bytes / max(1, inspection.tokens):.2f} a token), {inspection.tokenizer}"
    )
    frequent = "  ".join(f"'{text}' {100 * share:.1f} %" for text, share in inspection.frequent)
    classes = ", ".join(f"{label} {documents:,}" for label, documents in inspection.classes.items())
    return Group(
        Text(head, style="bold"),
        *([Text(escape(inspection.splitting))] if inspection.splitting else []),
        *([Text(f"Documents of each class: {escape(classes)}")] if classes else []),
        Text(f"\nTokens of a document: {quantiles}"),
        _lengths(inspection),
        Text(
            f"\n{inspection.ngram}-grams that occurred before in their document, by distance; in {_sampled(inspection)}"
        ),
        _distances(inspection) if inspection.distances else Text("none"),
        Text(f"\nMost frequent tokens ({inspection.used:,} of {inspection.vocabulary:,} are used)"),
        Text(escape(frequent)),
        Text(f"\nA passage of {escape(inspection.passage_of)}, token by token"),
        Text(escape("│".join(inspection.passage))),
    )


def _sampled(inspection: Inspection) -> str:
    if inspection.sampled == inspection.documents:
        return "all documents"
    return f"the first {inspection.sampled:,} of {plural(inspection.documents, 'document')} ({compact(inspection.sampled_tokens)} tokens)"


def _lengths(inspection: Inspection) -> "RenderableType":
    table = _table("tokens", "documents", "% of tokens")
    most = max((group.share for group in inspection.lengths), default=0)
    for group in inspection.lengths:
        table.add_row(_range(group.low), f"{group.documents:,}", f"{100 * group.share:.1f}", _bar(group.share, most))
    return Fitting(table)


def _distances(inspection: Inspection) -> "RenderableType":
    table = _table("tokens back", f"% of {inspection.ngram}-grams", "% up to there")
    most = max(group.share for group in inspection.distances)
    for group in inspection.distances:
        shares = (f"{100 * value:.2f}" for value in (group.share, group.within))
        table.add_row(_range(group.low), *shares, _bar(group.share, most))
    return Fitting(table)


def _table(*headings: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    return table


def _range(low: int) -> str:
    return f"{low:,}" if low == 1 else f"{low:,} to {2 * low - 1:,}"


def _bar(share: float, most: float) -> str:
    return "█" * round(_BAR * share / most) if most else ""


def plot(inspection: Inspection) -> dict[str, bytes]:
    """The plot as PNG and SVG: lengths on the left, repetition by distance on the right."""
    with drawing(9, 3) as figure:
        left, right = figure.subplots(1, 2)
        left.set_title(
            f"{plural(inspection.documents, 'document')} of {inspection.name}, {inspection.split}",
            fontsize=8,
            loc="left",
        )
        _bars(left, [(group.low, 100 * group.share) for group in inspection.lengths])
        left.set_xlabel(f"tokens of the document ({inspection.tokenizer})")
        left.set_ylabel("% of tokens")
        right.set_title(
            f"{inspection.ngram}-grams that occurred before in their document, by distance", fontsize=8, loc="left"
        )
        _bars(right, [(group.low, 100 * group.share) for group in inspection.distances])
        ends = [2 * group.low for group in inspection.distances]
        right.plot(ends, [100 * group.within for group in inspection.distances], color="tab:red", label="up to there")
        right.set_xlabel(f"tokens back, in {_sampled(inspection)}")
        right.set_ylabel(f"% of {inspection.ngram}-grams")
        if inspection.distances:
            right.legend(frameon=False)
        return files(figure, "png", "svg")


def _bars(axes: Any, bins: list[tuple[int, float]]) -> None:
    """Draw a bar from each `low` to twice that, on a logarithmic axis."""
    if bins:
        lows, heights = zip(*bins, strict=True)
        axes.bar(lows, heights, width=lows, align="edge", color="tab:blue", edgecolor="white", linewidth=0.5)
        axes.set_xscale("log", base=2)
