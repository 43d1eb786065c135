"""The schema of an experiment, a file in `conf/experiment/<paper>/`: rows, columns and scales of a paper's table.

A file may say `like: PAPER/TABLE`. Then it holds only what differs from that file: mappings are merged, and any other value
takes the place of the other's; so does `columns` as a whole. `rows` may also be a list: these rows of the other, in this order.
"""

import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from memexp.config.checkpoints import find_folder
from memexp.config.introspection import CONF
from memexp.errors import UserError, did_you_mean
from memexp.files import parse_yaml
from memexp.report.metrics import METRICS, Metric
from memexp.store.folder import COPIES

ALL = "all"
"""In place of an experiment's name: every table that can be run."""


@dataclass
class Column:
    """A data set of the table, by the settings that choose it at each scale; a scale without settings has no such column."""

    paper: dict[str, Any] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)
    published: str | None = None
    """The published column to compare with, if its name differs."""
    slice: str | None = None
    """The answers to score, such as length=24, or the tokens, such as position=1024 (those after the 512th); None: all."""
    small_slice: str | None = None
    """Those at scale=small, if they differ."""
    metric: str | None = None
    """The metric of this column, if it differs from the table's."""
    document: int = 0
    """Input tokens of a document, if a step reads whole documents; `accumulate` follows from it. 0: it is set otherwise."""

    def slice_at(self, scale: str) -> str | None:
        """The answers to score at a scale; None: all."""
        return (self.small_slice if scale == "small" else None) or self.slice


@dataclass
class Row:
    """A model of the table, or another way to score the model of another row."""

    set: dict[str, Any] = field(default_factory=dict)
    """Settings of `memexp train`, with lengths as in the paper."""
    paper: dict[str, Any] = field(default_factory=dict)
    """Settings for scale=paper only; their lengths are not divided."""
    small: dict[str, Any] = field(default_factory=dict)
    """Settings for scale=small only; their lengths are not divided."""
    init_from: str | None = None
    """The row whose weights training starts from."""
    scores: str | None = None
    """The row whose run is scored in another way, so that this row trains no run."""
    mem: int | None = None
    """With `scores`: the size of the memory in the paper, if it differs from the run's."""
    memory: str = "on"
    """With `scores`: the state of the memory in scoring."""
    columns: list[str] = field(default_factory=list)
    """The columns that the row has a cell in; empty: all."""
    every: int = 0
    """With N, every N-th of a checkpoint's layers reads a memory of pairs; 0: as `set` says."""
    series: str | None = None
    """The line of a plot against the steps of training that the row is a point of."""


@dataclass
class Before:
    """Settings that a table had before. Runs with them fill no cell any more, and the table says which rows they were."""

    set: dict[str, Any] = field(default_factory=dict)
    """Values that replace those of the settings that a cell has."""
    since: str = ""
    """What holds since the table changed, as a sentence without a full stop."""


@dataclass
class Scale:
    """The settings that all cells share at one scale."""

    set: dict[str, Any] = field(default_factory=dict)
    divide: int = 1
    """The number that the lengths in `divided` are divided by."""
    divided: list[str] = field(default_factory=list)
    """Names of the settings that are lengths."""
    tokens_a_step: int = 0
    """Tokens of an optimizer step; `lanes` follow from it, or `accumulate` if `lanes` are set. 0: both are set otherwise."""
    steps: int | None = None
    differs: list[str] = field(default_factory=list)
    """How the scale differs from the paper, one line for each difference."""
    before: list[Before] = field(default_factory=list)
    init_from: str | None = None
    """The row whose weights all other rows start from, unless a row has its own `init_from`."""


@dataclass
class Experiment:
    """A table of a paper.

    Attributes:
        name: paper and table, such as memorizing/table4.
        baseline: the row that differences are taken to; default: the first row.
        goal: the row whose difference counts as the whole gain; the table shows the share of it that each row has.
        costs: the row with whose state and time of scoring those of the others are compared; None: the time of training is shown.
        checkpoint: the published checkpoint that all rows are of, as `size.checkpoint` names it.
        own_checkpoint: whether that is the checkpoint in the experiment's file; `load` tells.
        needs: what is missing in memexp to run the experiment.
    """

    name: str
    title: str
    metric: str
    seeds: list[int]
    columns: dict[str, Column]
    rows: dict[str, Row]
    scales: dict[str, Scale]
    baseline: str | None = None
    goal: str | None = None
    costs: str | None = None
    checkpoint: str | None = None
    own_checkpoint: bool = True
    needs: str | None = None

    @property
    def paper(self) -> str:
        return self.name.partition("/")[0]

    @property
    def table(self) -> str:
        return self.name.partition("/")[2]

    @property
    def checkpoint_name(self) -> str:
        """The last part of the checkpoint's path, or of its name on the hub; empty without a checkpoint."""
        if self.checkpoint is None:
            return ""
        return Path(os.path.abspath(Path(self.checkpoint).expanduser())).name  # noqa: PTH100 -- a link keeps its own name

    @property
    def full_title(self) -> str:
        """The title, and which checkpoint the table is of."""
        return f"{self.title}, {self.checkpoint_name}" if self.checkpoint else self.title

    @property
    def lacks(self) -> str | None:
        """What is missing to run the experiment: something in memexp, or its checkpoint on this machine; None: nothing."""
        if self.needs is None and self.checkpoint is not None:
            try:
                find_folder(self.checkpoint, None, ask=False)
            except UserError:
                return f"the checkpoint {self.checkpoint}, or another as checkpoint=NAME"
        return self.needs

    def metric_of(self, column: str) -> Metric:
        """The metric of a column."""
        return METRICS[self.columns[column].metric or self.metric]

    def start_of(self, row: str, scale: str) -> str | None:
        """The row whose weights the training of a row starts from; None: it starts from scratch."""
        of_all = self.scales[scale].init_from
        return self.rows[row].init_from or (None if of_all == row else of_all)

    def check(self) -> None:
        """Refuse to start from or to score a row that does not exist.

        Raises:
            UserError: names the row, and those that exist.
        """
        named = [(f"row {label}", name) for label, row in self.rows.items() for name in (row.init_from, row.scores)]
        named += [(f"scale {label}", scale.init_from) for label, scale in self.scales.items()]
        for where, name in named:
            if name is not None and name not in self.rows:
                raise UserError(
                    f"{self.name}: {where} names the row {name!r}; expected one of {', '.join(self.rows)}"
                    f"{did_you_mean(name, self.rows)}"
                )


def experiments() -> list[str]:
    """Names of all experiments, sorted."""
    folder = CONF / "experiment"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.yaml"))


def means_experiment(word: str) -> bool:
    """Whether a word means an experiment, known or unknown, and not a run's folder."""
    path = Path(word).expanduser()
    named = word.count("/") == 1 and COPIES not in path.parts and not path.parent.is_dir()
    return word in experiments() or named


def load(name: str, *, checkpoint: str | None = None) -> Experiment:
    """Load the experiment of a name.

    Args:
        checkpoint: takes the place of the experiment's.

    Raises:
        UserError: it does not exist, its file does not fit the schema, or it is of no checkpoint though one is given.
    """
    known = experiments()
    if name not in known:
        raise UserError(
            f"there is no experiment {name!r}; expected one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    file = _file(name)
    experiment = _experiment(name, file, _like(file))
    if checkpoint is not None:
        if experiment.checkpoint is None:
            raise UserError(
                f"checkpoint is {checkpoint}, but {name} trains models of its own; expected no checkpoint, or a table of one, such as "
                "checkpoints/memories"
            )
        return replace(experiment, checkpoint=checkpoint, own_checkpoint=checkpoint == experiment.checkpoint)
    return experiment


class _File(NamedTuple):
    """The file of an experiment, and its text."""

    path: Path
    text: str

    def unreadable(self, why: object) -> UserError:
        return UserError(f"cannot read {self.path}: {str(why).splitlines()[0]}; expected an experiment")


def _file(name: str) -> _File:
    path = CONF / "experiment" / f"{name}.yaml"
    return _File(path, path.read_text(encoding="utf-8"))


@cache
def _content(file: _File) -> dict[str, Any]:
    """What a file says itself; nobody changes it."""
    from yaml import YAMLError

    try:
        content = parse_yaml(file.text)
    except YAMLError as error:
        raise file.unreadable(error) from error
    if not isinstance(content, dict):
        raise file.unreadable(f"it holds no settings, but {type(content).__name__}")
    return content


def _like(file: _File) -> _File | None:
    """The file that a file takes the rest of its content from; None: it says everything itself."""
    if (name := _content(file).get("like")) is None:
        return None
    if name not in (known := experiments()):
        raise UserError(
            f"{file.path} is like {name!r}; expected one of {', '.join(known)}{did_you_mean(str(name), known)}"
        )
    other = _file(name)
    if (further := _content(other).get("like")) is not None:
        raise UserError(
            f"{file.path} is like {name}, which itself is like {further}; expected an experiment that is like no other"
        )
    return other


@cache
def _experiment(name: str, file: _File, like: _File | None) -> Experiment:
    """The experiment that a file describes. Checking its types takes long, and a report opens all of them; nobody changes them."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    content = _content(file) if like is None else _over(like, file)
    try:
        experiment = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Experiment), content, {"name": name}))
    except OmegaConfBaseException as error:
        raise file.unreadable(error) from error
    assert isinstance(experiment, Experiment)
    experiment.check()
    return experiment


def _over(like: _File, file: _File) -> dict[str, Any]:
    """The content of a file over that of the file that it is like."""
    other, own = dict(_content(like)), dict(_content(file))
    name = own.pop("like")
    if isinstance(chosen := own.get("rows"), list):
        rows = other["rows"]
        for label in chosen:
            if label not in rows:
                raise UserError(
                    f"{file.path} takes the row {label!r} of {name}; expected one of {', '.join(rows)}"
                    f"{did_you_mean(str(label), rows)}"
                )
        del own["rows"]
        other["rows"] = {label: rows[label] for label in chosen}
    if "columns" in own:
        del other["columns"]
    return _merged(other, own)


def _merged(other: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """One mapping over another, and the mappings in it likewise."""
    merged = other | own
    for key in other.keys() & own.keys():
        if isinstance(other[key], dict) and isinstance(own[key], dict):
            merged[key] = _merged(other[key], own[key])
    return merged
