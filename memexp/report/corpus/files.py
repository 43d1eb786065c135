"""What `memexp data inspect` writes and shows: the numbers as JSON, a plot, and tables for a terminal."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.files import write_atomically, write_json
from memexp.report.corpus.statistics import Inspection
from memexp.report.escape import escape
from memexp.wording import compact, plural

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_BAR = 24
"""Characters of the longest bar."""


def write_files(folder: Path, found: Inspection) -> list[Path]:
    """Write the split's .json, .png and .svg into `folder`; gives their paths."""
    paths = [folder / f"{found.split}.json"]
    write_json(paths[0], found.summary())
    for kind, content in plot(found).items():
        paths.append(folder / f"{found.split}.{kind}")
        write_atomically(paths[-1], content)
    return paths


def to_terminal(found: Inspection) -> "RenderableType":
    """Lengths, repetition and tokens, in this order."""
    from rich.console import Group
    from rich.text import Text

    quantiles = ", ".join(f"{name} {tokens:,}" for name, tokens in found.quantiles.items())
    head = (
        f"{found.name}, {found.split}: {plural(found.documents, 'document')}, {plural(found.tokens, 'token')}, "
        f"{found.bytes:,} bytes ({found.bytes / max(1, found.tokens):.2f} a token), {found.tokenizer}"
    )
    frequent = "  ".join(f"'{text}' {100 * share:.1f} %" for text, share in found.frequent)
    classes = ", ".join(f"{label} {documents:,}" for label, documents in found.classes.items())
    return Group(
        Text(head, style="bold"),
        *([Text(f"Documents of each class: {escape(classes)}")] if classes else []),
        Text(f"\nTokens of a document: {quantiles}"),
        _lengths(found),
        Text(f"\n{found.ngram}-grams that stood before in their document, by how far back; of {_sampled(found)}"),
        _distances(found) if found.distances else Text("none did"),
        Text(f"\nMost frequent tokens ({found.used:,} of {found.vocabulary:,} are used)"),
        Text(escape(frequent)),
        Text(f"\nA passage of {escape(found.passage_of)}, token by token"),
        Text(escape("│".join(found.passage))),
    )


def _sampled(found: Inspection) -> str:
    if found.sampled == found.documents:
        return "all documents"
    return (
        f"the first {found.sampled:,} of {plural(found.documents, 'document')} ({compact(found.sampled_tokens)} tokens)"
    )


def _lengths(found: Inspection) -> "RenderableType":
    table = _table("tokens", "documents", "% of tokens")
    most = max((each.share for each in found.lengths), default=0)
    for each in found.lengths:
        table.add_row(_range(each.low), f"{each.documents:,}", f"{100 * each.share:.1f}", _bar(each.share, most))
    return table


def _distances(found: Inspection) -> "RenderableType":
    table = _table("tokens back", f"% of {found.ngram}-grams", "% up to there")
    most = max(each.share for each in found.distances)
    for each in found.distances:
        shares = (f"{100 * value:.2f}" for value in (each.share, each.within))
        table.add_row(_range(each.low), *shares, _bar(each.share, most))
    return table


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


def plot(found: Inspection) -> dict[str, bytes]:
    """Lengths on the left, repetition by distance on the right, as png and svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    spines = {"axes.spines.top": False, "axes.spines.right": False}
    style: Any = {"svg.hashsalt": "memexp", "svg.fonttype": "none", "font.size": 8, **spines}
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
        left.set_title(f"{plural(found.documents, 'document')} of {found.name}, {found.split}", fontsize=8, loc="left")
        _bars(left, [(each.low, 100 * each.share) for each in found.lengths])
        left.set_xlabel(f"tokens of the document ({found.tokenizer})")
        left.set_ylabel("% of tokens")
        right.set_title(
            f"{found.ngram}-grams that stood before in their document, by how far back", fontsize=8, loc="left"
        )
        _bars(right, [(each.low, 100 * each.share) for each in found.distances])
        ends = [2 * each.low for each in found.distances]
        right.plot(ends, [100 * each.within for each in found.distances], color="tab:red", label="up to there")
        right.set_xlabel(f"tokens back, in {_sampled(found)}")
        right.set_ylabel(f"% of {found.ngram}-grams")
        if found.distances:
            right.legend(frameon=False)
        files = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=130, metadata=metadata)
            files[kind] = out.getvalue()
        plt.close(figure)
    return files


def _bars(axes: Any, bins: list[tuple[int, float]]) -> None:
    """A bar from each `low` to its double, on a logarithmic axis."""
    if bins:
        lows, heights = zip(*bins, strict=True)
        axes.bar(lows, heights, width=lows, align="edge", color="tab:blue", edgecolor="white", linewidth=0.5)
        axes.set_xscale("log", base=2)
