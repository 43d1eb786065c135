"""The commands that fill a cell, as the words after the program's name."""

import shlex
from collections.abc import Mapping, Sequence

from memexp.config.words import quote
from memexp.experiment.definition import Experiment
from memexp.experiment.library import Library
from memexp.experiment.settings import Wanted
from memexp.store.folder import eval_command


def train_words(cell: Wanted, library: Library, *, tag: str) -> list[str]:
    """The command that trains and scores the run of a cell; RUN stands for a run to start from that does not exist yet."""
    start = None if cell.start is None else library.with_weights(cell.start)
    words = [] if cell.start is None else [f"init_from={start.name if start else 'RUN'}"]
    return ["train", *cell.cell.overrides, *words, f"tag={tag}"]


def eval_words(cell: Wanted, run: str) -> list[str]:
    """The command that scores a run as the cell needs it."""
    return eval_command(run, cell.scored, mem=cell.changed_mem, memory=cell.cell.memory).split()[1:]


def reproduce_words(experiment: Experiment, scale: str, *data: str) -> list[str]:
    """The command that fills the columns that words of `data=` mean, all without any, as words for a shell."""
    words = ",".join(quote(word) if "," in word else word for word in data)
    chosen = [shlex.quote(f"data={words}")] if data else []
    return ["reproduce", *naming(experiment), f"scale={scale}", *chosen]


def data_word(columns: Sequence[str], data: Mapping[str, str]) -> str:
    """The word of `data=` that means some columns: the name of their data, or the first column's if others show this data too.

    Args:
        data: the name of the data of each column.
    """
    first = columns[0]
    if {column for column in data if data[column] == data[first]} == {*columns}:
        return data[first]
    return first


def naming(experiment: Experiment) -> list[str]:
    """The words, for a shell, with which a command takes this experiment."""
    other = [] if experiment.own_checkpoint else [f"checkpoint={shlex.quote(str(experiment.checkpoint))}"]
    return [experiment.name, *other]
