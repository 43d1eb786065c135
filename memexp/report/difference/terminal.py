"""A difference for the terminal: the numbers, the gain by position, and the tokens that gain and lose most."""

from typing import TYPE_CHECKING

from memexp.report.difference.breakdown import Breakdown, notes
from memexp.report.difference.settings import Side, differing, told
from memexp.report.difference.token_text import Pieces, passage
from memexp.report.difference.tokens import HELPED, Difference, bin_width, by_position, extremes, interval
from memexp.report.escape import Fitting, escape
from memexp.wording import number, perplexity_of, plural

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_LINES = 16
"""Largest number of bins by position to show; longer documents get wider bins."""
_BAR = 30
"""Length of the longest bar, in characters."""


def to_terminal(diff: Difference, breakdown: Breakdown, pieces: Pieces, *, top: int) -> "RenderableType":
    """Everything that `memexp diff` prints, with the `top` tokens that gain most and the `top` that lose most."""
    from rich.console import Group
    from rich.text import Text

    gainers, losers = extremes(diff, top)
    return Group(
        *_numbers(diff, breakdown),
        Text(""),
        Text("Gain by position among the scored tokens of a document, nats a token", style="bold"),
        *_positions(diff),
        Text(""),
        _groups(breakdown),
        Text(""),
        Text("Tokens that gain most" if gainers else "No token gains", style="bold"),
        *(_token(diff, at, pieces, "green") for at in gainers),
        Text(""),
        Text("Tokens that lose most" if losers else "No token loses", style="bold"),
        *(_token(diff, at, pieces, "red") for at in losers),
    )


def _numbers(diff: Difference, breakdown: Breakdown) -> list["Text"]:
    from rich.text import Text

    lines = [Text("Gain = nats of A - nats of B; positive: B is better", style="bold")]
    for side, scores in (("A", diff.a), ("B", diff.b)):
        nats = float(scores.nats_N.mean())
        words = f"{side}  {scores.label}: perplexity {number(perplexity_of(nats), 2)}, {nats:.4f} nats a token"
        lines.append(Text(escape(f"{words} ({scores.path.name}), {Side(scores).trained}")))
    lines += _settings(diff)
    counts = f"{plural(len(diff.gain_N), 'token')} of {plural(len(diff.a.documents), 'document')}"
    range_of = interval(diff)
    enclosed = (
        "no interval, because there is only one document"
        if range_of is None
        else f"95 % {range_of[0]:+.4f} to {range_of[1]:+.4f} over {len(diff.a.documents)} documents, as in tables with one seed"
    )
    lines.append(Text.assemble("mean gain ", (f"{diff.mean:+.4f}", "bold"), f" nats a token ({enclosed}); {counts}"))
    lines.append(
        Text(
            f"{100 * diff.helped:.1f} % of tokens gain more than {HELPED} nats, {100 * diff.hurt:.1f} % lose more; "
            f"{100 * breakdown.half:.1f} % make up half of all gains"
        )
    )
    lines += [
        Text(f"{note.text} `{escape(note.command)}`" if note.command else note.text) for note in notes(diff, breakdown)
    ]
    return lines


def _settings(diff: Difference) -> list["Text"]:
    from rich.text import Text

    differ = differing(diff)
    if not differ:
        return [Text("A and B differ in no setting besides the memory")]
    it = "it" if len(differ) == 1 else "these"
    head = f"A and B differ in {plural(len(differ), 'setting')} besides the memory, so the gain may come from {it}:"
    longest = max(map(len, differ))
    values = [f"  {name:<{longest}}  {told(a)} -> {told(b)}" for name, (a, b) in differ.items()]
    return [Text(head, style="bold yellow"), *(Text(escape(line)) for line in values)]


def _groups(breakdown: Breakdown) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("tokens", "", "mean gain", "share of the sum"):
        table.add_column(Text(column), justify="left" if column == "tokens" else "right")
    for title, _, groups in breakdown.titled():
        table.add_row(Text(title, style="bold"))
        for group in groups:
            table.add_row(f"  {group.label}", f"{group.tokens:,}", f"{group.gain:+.4f}", f"{100 * group.share:.1f} %")
    return Fitting(table)


def _positions(diff: Difference) -> list["Text"]:
    from rich.text import Text

    bins = by_position(diff, width=bin_width(diff, most=_LINES))
    largest = max(abs(positions.gain) for positions in bins) or 1.0
    digits = len(f"{bins[-1].last:,}")
    lines = []
    for positions in bins:
        gain = positions.gain
        bar = ("█" if gain >= 0 else "░") * round(_BAR * abs(gain) / largest)
        label = f"{positions.first:>{digits},} to {positions.last:>{digits},}"
        lines.append(Text.assemble(f"  {label}  {gain:+.4f} ", (bar, "green" if gain > 0 else "red")))
    return lines


def _token(diff: Difference, at: int, pieces: Pieces, colour: str) -> "Text":
    from rich.text import Text

    shown = passage(diff, at, pieces)
    name = escape(diff.a.documents[int(diff.document_N[at])][0])
    place = int(diff.known.index_R[diff.known.place_N[at]])
    return Text.assemble(
        (f"{diff.gain_N[at]:+7.3f}", f"bold {colour}"),
        f"  {diff.a.nats_N[at]:.3f} -> {diff.b.nats_N[at]:.3f}  {name}, token {place:,}\n",
        ("         " + shown.before, "dim"),
        (f"«{shown.token}»", f"bold {colour}"),
        (shown.after, "dim"),
    )
