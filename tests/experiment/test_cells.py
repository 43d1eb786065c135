"""Cells: what a row, a column and a scale make of each other."""

from dataclasses import replace
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


def test_a_file_that_is_no_experiment_is_refused_in_one_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "CONF", tmp_path)
    path = tmp_path / "experiment" / "tiny" / "table1.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("title: T\nrow: {}\n")
    with pytest.raises(UserError, check=says(f"{path}: ", "'row'", "expected an experiment")):
        load("tiny/table1")
    with pytest.raises(UserError, check=says("'tiny/tabel1'", "expected", "did you mean tiny/table1?")):
        load("tiny/tabel1")
