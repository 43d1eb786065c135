"""What is printed, made readable on every terminal: no control characters of foreign text, no letters that it cannot write."""

from __future__ import annotations

import codecs
import os
import re
import shlex
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

PLAINER = {
    "–": "-", "—": "-", "…": "...", "±": "+-", "×": "x", "†": "+", "‡": "++", "•": "*", "≥": ">=", "≤": "<=", "→": "->",
}  # fmt: skip
"""Signs that we print ourselves, for a terminal that lacks them."""

PIPED = 200
"""Columns of what is no terminal."""

NARROWEST = 12
"""Columns that a name or sentence in a table needs; with less, the table is written as a list."""

NUMBER = re.compile(r"[-+±~]?\d[\d.,:/x%e+-]*")

TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Marks that turn the direction of writing, so that a name looks like another."""

OWN_HANDLER = "memexp-plainer"


def escape(text: object) -> str:
    """Text on one line, with an escape for every sign that is none: \\n for a line end, \\x1b for a byte 0x1b.

    These are control characters, marks that turn the direction of writing, and halves of characters, such as bytes of a file's
    name that is no UTF-8.
    """
    words = str(text)
    if words.isprintable():
        return words
    of_bytes = all("\udc80" <= char <= "\udcff" for char in words if "\ud800" <= char <= "\udfff")
    words = words.encode("utf-8", "surrogateescape" if of_bytes else "backslashreplace").decode(
        "utf-8", "backslashreplace"
    )
    return "".join(char.encode("unicode_escape").decode("ascii") if _unseen(char) else char for char in words)


def escape_lines(text: str) -> str:
    """`text` as `escape` makes it, but with its line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" else escape(char) for char in text)


def unreadable(text: str) -> bool:
    """Whether a text has what no name has: control characters, line ends, marks that turn the direction, halves of characters."""
    return not text.isprintable() and any(map(_unseen, text))


def _unseen(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in TURNS


class Remark(NamedTuple):
    """What a user should know of what was asked for.

    Attributes:
        warns: whether it is a warning, and not only a note.
    """

    text: str
    warns: bool = True


def tell(remarks: Iterable[Remark]) -> None:
    """Print remarks, each once: warnings as `warn` does, notes to standard output."""
    for remark in dict.fromkeys(remarks):
        if remark.warns:
            warn(remark.text)
        else:
            print(escape(remark.text))


def warn(text: object) -> None:
    """Print a warning: one line on standard error that begins with `warning:`, which is yellow on a terminal."""
    if sys.stderr is None:  # it may have been closed
        return
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    mark = "warning:" if plain else "\x1b[33mwarning:\x1b[0m"
    print(f"{mark} {escape(' '.join(str(text).split()))}", file=sys.stderr, flush=True)


def warn_as_we_do() -> None:
    """Let Python's warnings, which libraries give, look like ours: no file and line, and only the first line of what they say."""

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        warn((str(message).strip() or type(message).__name__).splitlines()[0])

    warnings.showwarning = show


_typed: list[str] = []


@contextmanager
def remembered(words: Sequence[str]) -> Iterator[None]:
    """Keep the words that were typed after the program's name while a command runs, for `typed_words` and `same_command`."""
    before = list(_typed)
    _typed[:] = words
    try:
        yield
    finally:
        _typed[:] = before


def typed_words() -> list[str]:
    """The words that were typed after the program's name, the command first; empty where no command runs."""
    return list(_typed)


def same_command() -> str:
    """The command that was typed, so that it can be pasted into a shell; without one, these words."""
    return f"`{shlex.join(['memexp', *_typed])}`" if _typed else "the same command"


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
    if 0x2580 <= ord(char) < 0x25A0:  # bars
        return "." if char in "░▒" else "#"
    bare = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode("ascii")
    return bare if bare and bare.isprintable() else "?"


def console(file: TextIO | None = None, *, stderr: bool = False, piped: int = PIPED, **options: Any) -> Console:
    """A rich console that never sends a control character of a text.

    Args:
        piped: its width if it is no terminal and COLUMNS does not say it; wide by default, so that a pipe gets whole lines.
        options: of `rich.console.Console`.
    """
    made = _safe()(file=file, stderr=stderr, **options)
    if not (made.is_terminal or "COLUMNS" in os.environ or "width" in options):
        made.width = piped
    return made


@cache
def _safe() -> type[Console]:
    """The class of our consoles; rich is imported late, because some commands print without it."""
    from rich.console import Console, RenderableType
    from rich.segment import Segment

    class Safe(Console):
        """Escapes what a text still has when it is drawn; styles and the movements of live displays are no text."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(escape_lines(segment.text), segment.style)

        def on_broken_pipe(self) -> None:
            """Let `main` end the program when nobody reads on, as after any other print; rich has an exit code of its own."""
            self.quiet = True
            raise BrokenPipeError

    return Safe


class Fitting:
    """A table as wide as the terminal: names fold, numbers do not; without room for that, a list with a line for each cell."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement

        table, wide = self._table, options.update(width=10_000)
        for column in table.columns:
            column.width = None
        title, table.title = table.title, None  # it folds, so it needs no room
        cells = [[column.header, *column.cells] for column in table.columns]
        wanted = [max(Measurement.get(console, wide, cell).maximum for cell in column) for column in cells]
        frame = Measurement.get(console, wide, table).maximum - sum(wanted)
        table.title = title
        room = options.max_width - frame
        least = [
            max(
                [_longest_word(column.header), *(Measurement.get(console, wide, cell).maximum for cell in column.cells)]
            )
            if column.justify == "right"
            else max([min(want, NARROWEST), *map(_longest_number, column.cells)])
            for column, want in zip(table.columns, wanted, strict=True)
        ]
        if sum(wanted) <= room:
            yield table
        elif sum(least) <= room:
            for column, width in zip(table.columns, _shared(least, wanted, room), strict=True):
                column.width, column.no_wrap, column.overflow = width, False, "fold"
            yield table
        else:
            yield from _as_list(table)


def _longest_word(header: Any) -> int:
    return max(map(len, getattr(header, "plain", str(header)).split()), default=0)


def _longest_number(cell: Any) -> int:
    return max(map(len, NUMBER.findall(getattr(cell, "plain", str(cell)))), default=0)


def _shared(least: list[int], wanted: list[int], room: int) -> list[int]:
    """Widths that together fill the room: what is left after the least goes to the narrowest columns that want more."""
    widths = list(least)
    while (left := room - sum(widths)) > 0 and (open_ := [at for at, width in enumerate(widths) if width < wanted[at]]):
        for at in open_[:left]:
            widths[at] += min(max(1, left // len(open_)), wanted[at] - widths[at])
    return widths


def _as_list(table: Table) -> RenderResult:
    """Each row of a table as lines: its first cell, and below it the other cells after their headers."""
    from rich.text import Text

    def plain(cell: Any) -> Text:
        text = Text.from_markup(cell) if isinstance(cell, str) else cell
        return (
            Text(text.plain.replace("\n", " "), style=text.style, overflow="fold") if isinstance(text, Text) else text
        )

    if table.title:
        yield plain(table.title)
    headers = [plain(column.header) for column in table.columns]
    for number, (first, *others) in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        yield Text.assemble(plain(first), style=table.rows[number].style or "bold", overflow="fold")
        for header, cell in zip(headers[1:], map(plain, others), strict=True):
            if cell.plain.strip():
                yield Text.assemble("  ", header, " " * bool(header.plain), cell, overflow="fold")
