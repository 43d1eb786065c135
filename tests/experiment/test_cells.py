"""Cells: what a row, a column and a scale make of each other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memexp.errors import UserError
from memexp.experiment import definition
from memexp.experiment.cells import Cell, cells
from memexp.experiment.definition import Column, Experiment, Row, load

from ..messages import says


def at(experiment: Experiment, scale: str, row: str, column: str, seed: int = 0) -> Cell:
    [cell] = [one for one in cells(experiment, scale) if (one.row, one.column, one.seed) == (row, column, seed)]
    return cell


def test_lengths_are_divided_and_a_step_reads_as_many_tokens_in_every_row(experiment: Experiment) -> None:
    paper, small = at(experiment, "paper", "memory", "Poems"), at(experiment, "small", "memory", "Poems")
    names = ("segment", "arch.cache", "mem", "lanes", "steps", "data")
    assert [paper.settings[name] for name in names] == [128, 128, 512, 8, 100, "code"]
    assert [small.settings[name] for name in names] == [16, 16, 64, 4, 5, "stdlib"]
    assert at(experiment, "paper", "memory", "Letters").settings["steps"] == 7  # a column has the last word on its own


def test_overrides_are_words_of_train(experiment: Experiment) -> None:
    experiment.rows["plain"].small = {"arch.knn_layers": [1, 2], "arch.normalise": False, "optim.rate": 0.5}
    words = at(experiment, "small", "plain", "Letters", 1).overrides
    assert words[:3] == ["precision=fp32", "size=tiny", "eval.documents=2"]  # the same on every device
    assert {"arch=vanilla", "segment=16", "arch.knn_layers=[1,2]", "arch.normalise=false", "optim.rate=0.5"} < set(
        words
    )
    assert words[-2:] == ["lanes=4", "seed=1"]


def test_a_seed_after_the_other_and_of_its_rows_the_extremes_first(experiment: Experiment) -> None:
    found = [(cell.seed, cell.column, cell.row) for cell in cells(experiment, "small", data=["tiny"])]
    assert found == [(seed, "Letters", row) for seed in (0, 1) for row in ("plain", "tested", "memory", "more")]
    rows = {str(number): Row(set={"arch": "vanilla", "segment": 8}) for number in range(9)}
    order = [cell.row for cell in cells(replace(experiment, rows=rows), "small", data=["tiny"], seeds=[5])]
    assert order == ["0", "8", "4", "2", "6", "1", "3", "5", "7"]


def test_a_row_may_start_from_another_or_only_score_its_run(experiment: Experiment) -> None:
    more, tested = at(experiment, "small", "more", "Letters"), at(experiment, "small", "tested", "Letters")
    memory = at(experiment, "small", "memory", "Letters")
    assert more.start == memory
    assert more.settings["steps"] == 3
    assert more.settings["mem"] == 128
    assert (tested.settings, tested.mem, tested.memory) == (memory.settings, 128, "on")
    assert [cell.row for cell in cells(experiment, "small", data=["Poems"], seeds=[0])] == ["plain", "memory", "more"]


def test_all_rows_of_a_scale_may_start_from_one_row(experiment: Experiment) -> None:
    """That row itself starts from scratch, and a row with a start of its own keeps it; other scales are as they were."""
    experiment.scales["small"].init_from = "plain"
    starts = {row: at(experiment, "small", row, "Letters").start for row in experiment.rows}
    plain, memory = (at(experiment, "small", row, "Letters") for row in ("plain", "memory"))
    assert starts == {"plain": None, "memory": plain, "more": memory, "tested": plain}
    assert at(experiment, "paper", "memory", "Letters").start is None


@pytest.mark.parametrize("where", ["a row's init_from", "scores", "a scale's init_from"])
def test_a_row_that_does_not_exist_is_named(experiment: Experiment, where: str) -> None:
    experiment.check()
    if where == "scores":
        experiment.rows["tested"].scores = "memroy"
    else:
        (experiment.rows["more"] if "row" in where else experiment.scales["small"]).init_from = "memroy"
    with pytest.raises(UserError, check=says("tiny/table1", "'memroy'", "did you mean memory")):
        experiment.check()


def test_a_step_may_read_whole_documents(experiment: Experiment) -> None:
    experiment.columns["Letters"] = Column(small={"data": "copy", "lanes": 32}, document=72)
    for segment, accumulate in ((16, 5), (24, 3)):
        experiment.rows = {"one": Row(set={"arch": "vanilla", "segment": 8 * segment})}
        settings = at(experiment, "small", "one", "Letters").settings
        assert (settings["accumulate"], settings["lanes"]) == (accumulate, 32)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"scale": "large"}, ("scale is 'large'", "expected one of paper, small")),
        ({"scale": "small", "data": ["tinny"]}, ("data is 'tinny'", "expected one of tiny, stdlib", "mean tiny?")),
    ],
)
def test_refusals(experiment: Experiment, asked: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, check=says(*words)):
        cells(experiment, **asked)


def test_a_length_that_cannot_be_divided_is_refused(experiment: Experiment) -> None:
    experiment.rows["plain"].set["segment"] = 100
    with pytest.raises(UserError, check=says("tiny/table1", "length 100", "expected a multiple of 8", "scale=small")):
        cells(experiment, "small")


def test_another_seed_of_a_cell_is_the_cell_of_that_seed(experiment: Experiment) -> None:
    for row in (
        "plain",
        "more",
        "tested",
    ):  # one that starts from nothing, from another run, and another score of a run
        assert at(experiment, "small", row, "Letters", 0).with_seed(1) == at(experiment, "small", row, "Letters", 1)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes the files of experiments that stand in for those that are there."""
    monkeypatch.setattr(definition, "CONF", tmp_path)

    def call(name: str, text: str) -> Path:
        path = tmp_path / "experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return call


def test_a_file_that_is_no_experiment_is_refused_in_one_line(write: Callable[[str, str], Path]) -> None:
    path = write("tiny/table1", "title: T\nrow: {}\n")
    with pytest.raises(UserError, check=says(f"{path}: ", "'row'", "expected an experiment")):
        load("tiny/table1")
    write("tiny/table1", "- title: T\n")
    with pytest.raises(UserError, check=says(f"{path}: ", "list", "expected an experiment")):
        load("tiny/table1")
    with pytest.raises(UserError, check=says("'tiny/tabel1'", "expected", "did you mean tiny/table1?")):
        load("tiny/tabel1")


TABLE = """
title: T
metric: perplexity
seeds: [0, 1]
columns:
  Letters: {small: {data: tiny}}
rows:
  "128": {set: {arch: vanilla, segment: 128}}
  memory: {set: {arch: knn, segment: 128, mem: 512}}
scales:
  small: {set: {size: tiny, lanes: 2}, divide: 8, divided: [segment], steps: 5, differs: [it is tiny, and short]}
"""


def test_a_file_says_only_what_differs_from_the_one_that_it_is_like(write: Callable[[str, str], Path]) -> None:
    write("tiny/table1", TABLE)
    path = write(
        "other/table2",
        """
like: tiny/table1
title: U
columns:
  Poems: {small: {data: stdlib}}
rows:
  memory: {set: {mem: 256}}
  more: {set: {arch: knn, segment: 64}}
scales:
  small: {set: {lanes: 4}, steps: null, differs: []}
""",
    )
    table, other = load("tiny/table1"), load("other/table2")
    vanilla, memory = table.rows.values()
    assert (other.name, other.title, other.seeds, list(other.columns)) == ("other/table2", "U", [0, 1], ["Poems"])
    assert list(other.rows.items()) == [
        ("128", vanilla),
        ("memory", Row(set={"arch": "knn", "segment": 128, "mem": 256})),
        ("more", Row(set={"arch": "knn", "segment": 64})),
    ]
    small = replace(table.scales["small"], set={"size": "tiny", "lanes": 4}, steps=None, differs=[])
    assert other.scales == {"small": small}
    path.write_text('{like: tiny/table1, rows: [memory, "128"]}\n')
    assert load("other/table2") == replace(table, name="other/table2", rows={"memory": memory, "128": vanilla})


def test_a_file_that_is_like_nothing_there_is_refused_in_one_line(write: Callable[[str, str], Path]) -> None:
    write("tiny/table1", TABLE)
    path = write("other/table2", "{like: tiny/table1, rows: [memroy]}\n")
    with pytest.raises(UserError, check=says(f"{path} ", "'memroy'", "tiny/table1", "128", "did you mean memory?")):
        load("other/table2")
    path.write_text("like: tiny/tabel1\n")
    with pytest.raises(UserError, check=says(f"{path} ", "'tiny/tabel1'", "did you mean tiny/table1?")):
        load("other/table2")
    path = write("other/table3", "like: other/table2\n")
    with pytest.raises(UserError, check=says(f"{path} ", "other/table2", "tiny/tabel1", "like no other")):
        load("other/table3")
