"""A table as Markdown, LaTeX, HTML and CSV, and for the terminal."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from memexp.report.escape import Fitting, code, csv_text, escape, html, latex, markdown
from memexp.report.table.comparison import Comparison
from memexp.report.table.entries import Column, Entry, Row
from memexp.report.table.text import Grid
from memexp.wording import DIVERGED, UNKNOWN

if TYPE_CHECKING:
    from rich.console import RenderableType

_DECIMALS = 9
"""Decimals of a number in CSV; further digits differ between machines."""

_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.4 system-ui,sans-serif;margin:1rem auto;max-width:100rem;padding:0 1rem}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap}thead th{border-bottom:1px solid;vertical-align:bottom}"
    "th{font-weight:500}.groups th{text-align:left}.start{border-left:1px solid GrayText}.left{text-align:left}"
    "tr>:first-child{position:sticky;left:0;background:Canvas}li,code,h2{overflow-wrap:anywhere}"
    "@media(max-width:40rem){tbody .left{max-width:40vw;white-space:normal}}"
)

_WORD = re.compile(r"(?:\d[\d.,]*|[^\d=._+ -])+[=._+ -]?|.")
"""What a setting can be broken after; the digits of a number stay together."""

_FOLDED = 14
"""Smallest width of the column of settings, in characters."""


def to_markdown(grid: Grid) -> str:
    """The grid as a pipe table, padded so that it also reads as plain text, with notes and commands below."""
    lines = [[markdown(text) for text in line] for line in [grid.headers, *grid.lines]]
    widths = [max(3, *(len(line[at]) for line in lines)) for at in range(len(grid.headers))]

    def row(line: list[str]) -> str:
        places = zip(line, widths, grid.right, strict=True)
        return (
            "| " + " | ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in places) + " |"
        )

    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, grid.right, strict=True)]
    text = [f"# {markdown(grid.title)}", "", row(lines[0]), row(rule), *map(row, lines[1:]), ""]
    text += [f"- {markdown(note)}" for note in grid.notes]
    if grid.missing:
        text += ["", "Missing, and what fills it:", ""]
        text += [f"- {markdown(what)}: {code(command)}" for what, command in grid.missing]
    text += ["", "Commands that made these numbers:", ""]
    text += [f"- {markdown(name)}: {code(command)}" for name, command in grid.commands]
    return "\n".join(text) + "\n"


def to_latex(grid: Grid) -> str:
    """The grid as a booktabs tabular, with notes below it and commands in comments."""
    columns = "".join("r" if right else "l" for right in grid.right)
    rows = [" & ".join(latex(text) for text in line) + r" \\" for line in [grid.headers, *grid.lines]]
    text = ["% needs \\usepackage{booktabs}"]
    text += [f"% {escape(name)}: {escape(command)}" for name, command in grid.commands]
    text += [r"\begin{tabular}{" + columns + "}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    text += [r"\end{tabular}", "", r"{\footnotesize " + latex(grid.title) + r".\par"]
    text += [latex(note) + r"\par" for note in grid.notes]
    return "\n".join(text) + "}\n"


def to_csv(comparison: Comparison) -> str:
    """One line for each seed of a cell; a missing cell has one line without a seed."""
    return records_to_csv(
        [
            record
            for row in comparison.rows
            for column in comparison.columns
            for record in _records(comparison, row, column)
        ]
    )


def _records(comparison: Comparison, row: Row, column: Column) -> Iterator[dict[str, object]]:
    """What `to_csv` writes about each seed of a cell."""
    keys = sorted({key for any_row in comparison.rows for key, _ in any_row.settings})
    settings = dict(row.settings)
    entries: Sequence[Entry | None] = comparison.cells.get((row, column), [None])
    spread, difference = comparison.spread(row, column), comparison.difference(row, column)
    baseline = comparison.baseline(row, column) if spread else None
    gap = difference.spread if difference else None
    for entry in entries:
        summary, of_run = (entry.summary, entry.run.summary) if entry else ({}, {})
        gauges = summary.get("gauges", {})
        yield {
            "row": row.label,
            "architecture": row.architecture,
            "context": row.context,
            "cache": row.cache,
            "memory": row.memory,
            "mem": row.mem,
            "trained_mem": row.trained_mem,
            "variant": row.variant,
            **{key: settings.get(key) for key in keys},
            "data": column.data,
            "text": column.text,
            **({comparison.by: column.value} if comparison.by else {}),
            "metric": comparison.metric.field,
            "seed": entry.run.seed if entry else None,
            "run": entry.run.name if entry else None,
            "value": entry.value(comparison.metric, column) if entry else None,
            "mean": spread.mean if spread else None,
            "deviation": spread.deviation if spread else None,
            "n": spread.n if spread else 0,
            "baseline": baseline.label if baseline else None,
            "difference": gap.mean if gap else None,
            "difference_deviation": gap.deviation if gap else None,
            "difference_n": gap.n if gap else None,
            "paired": difference.paired if difference else None,
            "tokenizer": entry.tokenizer if entry else None,
            "memory_fill": summary.get("memory_fill"),
            "parameters": of_run.get("parameters"),
            "tokens_per_second": of_run.get("tokens_per_second"),
            "trained_steps": of_run.get("steps"),
            "tokens": of_run.get("tokens"),
            **{name: gauges.get(name) for name in comparison.gauges},
            "command": summary.get("command"),
        }


def records_to_csv(records: Sequence[Mapping[str, object]]) -> str:
    """One line for each record; all records have the same fields."""
    return csv_text([records[0], *([_field(value) for value in record.values()] for record in records)])


def to_html(grid: Grid) -> str:
    """The grid as a section of a page, with notes below it and commands folded away."""
    starts = [
        bool(grid.groups) and at > 0 and grid.groups[at] != grid.groups[at - 1] for at in range(len(grid.headers))
    ]

    def row(tag: str, line: Sequence[str], scope: str = "") -> str:
        cells = []
        for at, text in enumerate(line):
            name = "th" if at == 0 else tag
            scoped = ' scope="row"' if at == 0 and not scope else scope
            kind = _class("left" * (not grid.right[at]), "start" * starts[at])
            cells.append(f"<{name}{scoped}{kind}>{html(text)}</{name}>")
        return f"<tr>{''.join(cells)}</tr>"

    name, headers = html(grid.title), grid.headers
    text = [f'<section class="table">\n<h2>{name}</h2>']
    # A box that scrolls must be reached by keyboard, and then says what it is.
    text.append(f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table aria-label="{name}">')
    text.append("<thead>")
    if grid.groups:
        headers = [header.rpartition(": ")[2] for header in grid.headers]
        text.append(f'<tr class="groups">{_groups(grid.groups)}</tr>')
    text.append(f"{row('th', headers, ' scope=col')}</thead>")
    text += ["<tbody>", *(row("td", line) for line in grid.lines), "</tbody></table></div>"]
    text += ["<ul>", *(f"<li>{html(note)}</li>" for note in grid.notes), "</ul>"]
    for summary, pairs in (
        ("Missing, and what fills it", grid.missing),
        ("Commands that made these numbers", grid.commands),
    ):
        items = [f"<li>{html(what)}: <code>{html(command)}</code></li>" for what, command in pairs]
        text += [f"<details><summary>{summary}</summary><ul>", *items, "</ul></details>"] if items else []
    return "\n".join([*text, "</section>"]) + "\n"


def _groups(groups: Sequence[str]) -> str:
    """The upper line of headers: a cell for neighbours of the same group."""
    cells: list[str] = []
    for name, same in groupby(groups):
        span = len(list(same))
        if name:
            cells.append(f'<th scope="colgroup" colspan="{span}"{_class("start" if cells else "")}>{html(name)}</th>')
        else:
            cells.append(f'<td colspan="{span}"{_class("start" if cells else "")}></td>')
    return "".join(cells)


def _class(*names: str) -> str:
    return f' class="{" ".join(filter(None, names))}"' if any(names) else ""


def html_page(title: str, body: str) -> str:
    """A complete page around sections, which loads no other file."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n<body>\n{body}</body></html>\n'
    )


def _field(value: object) -> object:
    """Round numbers and escape line breaks, which CSV allows but programs that read line by line do not."""
    if isinstance(value, float):
        return round(value, _DECIMALS) if math.isfinite(value) else DIVERGED
    return escape(value) if isinstance(value, str) else value


def to_terminal(grid: Grid, *, width: int) -> "RenderableType":
    """The grid for a terminal of `width` characters.

    Columns that do not fit are left out and named below. If that is not enough, each group of columns becomes a table of its own.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title: Text | None = Text(grid.title)
    tables, left = [], []
    for columns, lines in _parts(grid, width):
        kept = _columns_that_fit(grid, columns, width)
        left += [grid.headers[at] for at in columns if at not in kept]
        table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.padding = (0, 0)
        for at in kept:
            # Only names and settings are folded, because a number on two lines cannot be read.
            table.add_column(
                Text(_heading(grid.headers[at])),
                justify="right" if grid.right[at] else "left",
                overflow="fold",
                no_wrap=grid.headers[at] != "settings" and grid.right[at],
            )
        room = _FOLDED + max(0, width - _needed(grid, kept))
        for line in lines:
            texts = (
                _folded(escape(line[at]), room) if grid.headers[at] == "settings" else escape(line[at]) for at in kept
            )
            table.add_row(*map(Text, texts))
        tables.append(Fitting(table))
        title = None
    below = [Text(escape(note), style="dim") for note in grid.notes]
    if left:
        names = ", ".join(dict.fromkeys(left))
        below.append(Text(f"No room here for: {names}; a wider terminal or the table's files show them.", style="dim"))
    for what, command in grid.missing:
        below.append(Text.assemble(f"missing: {escape(what)}; fill it with ", (escape(command), "bold")))
    return Group(*tables, *below)


def _heading(header: str) -> str:
    return header.replace(" ", "\n")


def _folded(settings: str, width: int) -> str:
    """Settings on lines of `width` characters, broken between them or else between their words, but not in a number."""
    lines = [""]
    for setting in re.split(r"(?<=,) ", settings):
        if len(lines[-1]) + 1 + len(setting) <= width:
            lines[-1] = f"{lines[-1]} {setting}".lstrip()
            continue
        lines.append("")
        for word in _WORD.findall(setting):
            if len(lines[-1]) + len(word) > width:
                lines.append("")
            lines[-1] += word
    return "\n".join(line for line in lines if line)


def _parts(grid: Grid, width: int) -> list[tuple[list[int], list[list[str]]]]:
    """The tables to show, each as indices of its columns and lines: one if that fits or if there is one group, else one for each group.

    The columns without a group are in all of them. A line without a number in the group is not in its table.
    """
    everything = list(range(len(grid.headers)))
    named = [name for name in dict.fromkeys(grid.groups) if name]
    if len(named) < 2 or _needed(grid, _columns_that_fit(grid, everything, width)) <= width:
        return [(everything, grid.lines)]
    parts = []
    for name in named:
        columns = [at for at in everything if grid.groups[at] in (name, "")]
        own = [at for at in columns if grid.groups[at] == name]
        parts.append((columns, [line for line in grid.lines if any(line[at] not in ("", UNKNOWN) for at in own)]))
    return [(columns, lines) for columns, lines in parts if lines]


def _columns_that_fit(grid: Grid, columns: Sequence[int], width: int) -> list[int]:
    """Those of the columns to show."""
    kept = list(columns)
    for name in grid.expendable:
        if _needed(grid, kept) > width:
            kept = [at for at in kept if grid.headers[at] != name]
    return kept


def _needed(grid: Grid, columns: Sequence[int]) -> int:
    """The width of a table of these columns, with settings folded."""
    needed = 1
    for at in columns:
        header = grid.headers[at]
        texts = [*_heading(header).split("\n"), *(escape(line[at]) for line in grid.lines)]
        needed += 1 + (_FOLDED if header == "settings" else max(map(len, texts)))
    return needed
