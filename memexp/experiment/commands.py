"""The commands that do a cell."""

from memexp.experiment.library import Wanted


def train_words(cell: Wanted, *, init_from: str | None, tag: str) -> list[str]:
    """What trains and scores the cell's run, after the program's name."""
    start = [f"init_from={init_from}"] if init_from else []
    return ["train", *cell.cell.overrides, *start, f"tag={tag}"]


def reproduce_words(name: str, scale: str, data: str) -> list[str]:
    """What fills a column."""
    return ["reproduce", name, f"scale={scale}", f"data={data}"]
