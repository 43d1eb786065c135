"""Tables as a terminal shows them."""

import io

from rich.console import Console

from memexp.report.table.formats import to_terminal
from memexp.report.table.text import Grid


def on_terminal(grid: Grid, width: int) -> str:
    """A table on a terminal of `width` characters, without spaces at the ends of lines."""
    out = io.StringIO()
    Console(width=width, file=out, force_terminal=False).print(to_terminal(grid, width=width))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
