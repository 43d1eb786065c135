"""What an experiment is: one file of `conf/experiment/<paper>/`, a table's rows and columns at the paper's scale and below."""

from dataclasses import dataclass, field
from typing import Any

from memexp.config.introspection import CONF
from memexp.errors import UserError, did_you_mean


@dataclass
class Column:
    """A data set of the table: the settings that choose it, at each scale."""

    paper: dict[str, Any] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)
    published: str | None = None
    """The published column that it stands for, where that is not its own."""
    slice: str | None = None
    """The answers that count, such as length=24; None: all."""
    document: int = 0
    """Inputs of a document, where a step reads whole ones: how many segments it accumulates follows."""


@dataclass
class Row:
    """A model of the table, or another way to score one."""

    set: dict[str, Any] = field(default_factory=dict)
    """Settings of `train`, with lengths as in the paper."""
    paper: dict[str, Any] = field(default_factory=dict)
    """Settings at this scale alone; nothing of them is divided."""
    small: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    """The row whose weights it starts from."""
    scores: str | None = None
    """The row whose run it scores otherwise, instead of training one."""
    mem: int | None = None
    """Of such a score: the memory's size in the paper, where it is not the run's."""
    memory: str = "on"
    columns: list[str] = field(default_factory=list)
    """The columns that it has a cell in; empty: all."""


@dataclass
class Scale:
    """What all cells share at one scale."""

    set: dict[str, Any] = field(default_factory=dict)
    divide: int = 1
    """What the lengths of `divided` are divided by."""
    divided: list[str] = field(default_factory=list)
    tokens_a_step: int = 0
    """From which the lanes follow, or where these are given the segments that a step accumulates; 0: a row or its size says
    how many."""
    steps: int | None = None
    differs: list[str] = field(default_factory=list)
    """How it departs from the paper, a line each."""


@dataclass
class Experiment:
    """A table of a paper.

    Attributes:
        name: the paper and the table, as in memorizing/table4.
        baseline: the row that differences are taken to; default: the first.
        goal: the row whose difference is all there is to gain; the table says which share of it the others have.
        needs: what it takes to run it that memexp does not have.
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
    needs: str | None = None

    @property
    def paper(self) -> str:
        return self.name.partition("/")[0]

    @property
    def table(self) -> str:
        return self.name.partition("/")[2]


def experiments() -> list[str]:
    """Their names, sorted."""
    folder = CONF / "experiment"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/*.yaml"))


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        UserError: there is none, or its file does not fit the schema.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = experiments()
    if name not in known:
        raise UserError(
            f"there is no experiment {name!r}; expected one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    path = CONF / "experiment" / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        experiment = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Experiment), content, {"name": name}))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; expected an experiment") from error
    assert isinstance(experiment, Experiment)
    return experiment
