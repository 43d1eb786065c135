"""The commands that fill a cell, as the words after the program's name."""

import shlex

from memexp.experiment.definition import Experiment
from memexp.experiment.library import Library
from memexp.experiment.settings import Wanted
from memexp.store.scores import eval_command


def train_words(cell: Wanted, library: Library, *, tag: str) -> list[str]:
    """The command that trains and scores the run of a cell; RUN stands for a run to start from that does not exist yet."""
    start = None if cell.start is None else library.with_weights(cell.start)
    words = [] if cell.start is None else [f"init_from={start.name if start else 'RUN'}"]
    return ["train", *cell.cell.overrides, *words, f"tag={tag}"]


def eval_words(cell: Wanted, run: str) -> list[str]:
    """The command that scores a run as the cell needs it."""
    return eval_command(run, cell.scored, mem=cell.changed_mem, memory=cell.cell.memory).split()[1:]


def reproduce_words(experiment: Experiment, scale: str, data: str) -> list[str]:
    """The command that fills a column, as words for a shell."""
    return ["reproduce", *naming(experiment), f"scale={scale}", f"data={data}"]


def naming(experiment: Experiment) -> list[str]:
    """The words, for a shell, with which a command takes this experiment."""
    other = [] if experiment.own_checkpoint else [f"checkpoint={shlex.quote(str(experiment.checkpoint))}"]
    return [experiment.name, *other]
