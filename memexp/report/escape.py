"""Makes text from documents, names and files safe to show: without control characters and markup."""

from memexp.terminal import console, escape

__all__ = ["code", "console", "escape", "html", "latex", "markdown"]

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


def code(text: str) -> str:
    """`text` as a code span of Markdown."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{escape(text)}{fence}"
