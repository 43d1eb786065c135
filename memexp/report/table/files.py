"""A table on the terminal, and as files."""

from collections.abc import Mapping
from pathlib import Path

from memexp.files import write_atomically, write_text
from memexp.report.escape import console
from memexp.report.table.formats import to_terminal
from memexp.report.table.text import Grid


def show(grid: Grid) -> None:
    """Print the table."""
    screen = console()
    screen.print(to_terminal(grid, width=screen.width))


def write(path: Path, texts: Mapping[str, str | bytes]) -> None:
    """Write each of the texts or images to `path` with its ending, and print the files' names."""
    for ending, text in texts.items():
        file = path.with_name(f"{path.name}.{ending}")
        write_text(file, text) if isinstance(text, str) else write_atomically(file, text)
    first, *middle, last = texts
    others = " and ".join([", ".join(f".{ending}" for ending in middle), f".{last}"])
    console().print(f"written: {path}.{first}, {others}", markup=False, highlight=False, soft_wrap=True)
