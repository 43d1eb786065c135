"""Makes text from documents, names and files safe to show: without control characters and markup."""

import csv
import io
import re
from collections.abc import Iterable

from memexp.terminal import Fitting, console, escape, escape_lines

__all__ = ["Fitting", "code", "console", "csv_text", "escape", "escape_lines", "html", "latex", "markdown"]

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}", "–": "--",
}  # fmt: skip
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_|<>[]~#"})


def latex(text: str) -> str:
    """`text` for LaTeX, with every special character escaped."""
    text = "".join(_LATEX.get(char, char) for char in escape(text))
    return f"$-${text[1:]}" if text[:1] == "-" and text[1:2].isdigit() else text


def markdown(text: str) -> str:
    """`text` for a Markdown table or list, with all markup escaped."""
    return escape(text).translate(_MARKDOWN)


def html(text: str) -> str:
    """`text` for HTML, with all markup escaped."""
    from html import escape as quoted

    return quoted(escape(text))


_NUMBER = re.compile(r"[+-]?(\d[\d,]*)?\.?\d+([eE][+-]?\d+)?\s?%?", re.ASCII)
_OF_A_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 -- spreadsheets take the wide ones for the others


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV in which no cell is a formula: text that begins as one has an apostrophe before it, but a number has none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_inert(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()


def _inert(cell: str) -> str:
    begins = cell.lstrip(" ").startswith(_OF_A_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{escape(cell)}" if begins else escape(cell)


def code(text: str) -> str:
    """`text` as a code span of Markdown."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{escape(text)}{fence}"
