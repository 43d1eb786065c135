"""What is printed, made readable on every terminal: no control characters of foreign text, no letters that it cannot write."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PLAINER = {
    "–": "-", "—": "-", "…": "...", "±": "+-", "×": "x", "†": "+", "‡": "++", "•": "*", "≥": ">=", "≤": "<=", "→": "->",
}  # fmt: skip
"""Signs that we print ourselves, for a terminal that lacks them."""

OWN_HANDLER = "memexp-plainer"


def escape(text: str) -> str:
    """`text` with an escape for every character that does not print: \\n for a newline, \\x1b for a byte 0x1b.

    These are all control characters, marks that turn the direction of writing, and halves of characters.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def escape_lines(text: str) -> str:
    """`text` as `escape` makes it, but with its line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" else escape(char) for char in text)


def suit_the_terminal() -> None:
    """Let standard output and errors replace characters that their encoding lacks, instead of failing on them."""
    codecs.register_error(OWN_HANDLER, _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=OWN_HANDLER)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: a similar one in ASCII, else a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(char: str) -> str:
    if char in PLAINER:
        return PLAINER[char]
    if 0x2500 <= ord(char) < 0x2580:  # lines of tables
        return "-" if char in "─━╌╍╴╶╸╺╼╾═" else "|" if char in "│┃║╎╏" else "+"
    bare = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return bare if bare and bare.isprintable() else "?"


def console(file: TextIO | None = None, *, stderr: bool = False, **options: Any) -> Console:
    """A rich console that never sends a control character of a text; on a pipe 200 columns wide, so that it gets whole lines.

    Args:
        options: of `rich.console.Console`.
    """
    made = _safe()(file=file, stderr=stderr, **options)
    if not (made.is_terminal or "COLUMNS" in os.environ or "width" in options):
        made.width = 200
    return made


@cache
def _safe() -> type[Console]:
    """The class of our consoles; rich is imported late, because some commands print without it."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Safe(Console):
        """Escapes what a text still has when it is drawn; styles and the movements of live displays are no text."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(escape_lines(segment.text), segment.style)

    return Safe
