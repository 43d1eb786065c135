"""Tables of a published checkpoint: columns with metrics of their own, parts of documents, state and time; nothing here reads weights."""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memexp.errors import UserError
from memexp.experiment import reproduction
from memexp.experiment.cells import cells, data_of
from memexp.experiment.command_lines import reproduce_words
from memexp.experiment.definition import Column, Experiment, Row, Scale, load
from memexp.experiment.files import path_of
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable, open_all
from memexp.experiment.published import Published
from memexp.experiment.reproduction import Reproduction
from memexp.experiment.settings import Wanted, wanted
from memexp.experiment.text import lay_out, panels, records
from memexp.files import write_json
from memexp.report.metrics import METRICS
from memexp.report.table.figure import plot
from memexp.store.archive import keep
from memexp.store.folder import Run, all_runs

from ..checkpoints import described
from ..messages import says
from .conftest import Make, only_copies

Fill = Callable[[], Reproduction]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Two rows of a checkpoint of three layers; losses by position, and answers."""
    passkey = {"data": "passkey", "data.source.documents": [2, 2, 4], "eval.documents": 4}
    return Experiment(
        name="tiny/memories",
        title="Tiny memories",
        metric="nats",
        seeds=[0],
        checkpoint=str(described(tmp_path / "Tiny-Llama")),
        goal="memory",
        costs="memory",
        columns={
            "to 512": Column(paper={}, small={"data": "tiny"}, slice="position=512"),
            "to 1K": Column(paper={}, small={"data": "tiny"}, slice="position=1024"),
            "to 4K": Column(paper={"data": "tiny"}, slice="position=4096"),
            "pass key": Column(paper=passkey, small=passkey, slice="length=128", metric="exact_match"),
        },
        rows={"plain": Row(set={"arch": "vanilla"}), "memory": Row(set={"arch": "knn", "mem": 64}, every=2)},
        scales={
            scale: Scale(set={"segment": 64, "accumulate": 1, "lanes": 2, "eval.max_document": 1024}, differs=["tiny"])
            for scale in ("paper", "small")
        },
    )


@pytest.fixture
def table(experiment: Experiment, tmp_path: Path) -> Fill:
    def call() -> Reproduction:
        composed = wanted(cells(experiment, "small"))
        data = {one.cell.column: data_of(experiment, "small", one.cell.column) for one in composed}
        return fill(PaperTable(experiment, "small", data, composed, Published()), Library(tmp_path))

    return call


def scored(make: Make, one: Wanted, nats: np.ndarray, **cost: Any) -> Run:
    """The run of a cell, with a score of one document of which the losses of all tokens are there."""
    run = make(
        one, score={"tokens": len(nats)} | cost, summary={"steps": 0, "state_bytes_per_lane": 1000 * one.settings.mem}
    )
    (score,) = run.scores
    np.save(score.path / "token_nats.npy", nats.astype(np.float32))
    write_json(score.path / "documents.json", [{"id": "a", "tokens": len(nats), "nats": float(nats.sum())}])
    return run


@pytest.fixture
def filled(experiment: Experiment, make: Make, table: Fill) -> Fill:
    rows = {(one.cell.row, one.settings.data.name): one for one in wanted(cells(experiment, "small"))}
    plain, memory = np.arange(1000.0) / 100, np.arange(1000.0) / 200
    scored(make, rows["plain", "tiny"], plain, cpu_seconds=4.0, seconds=9.0, tokens_read=1000)
    scored(make, rows["memory", "tiny"], memory, cpu_seconds=8.0, seconds=9.0, tokens_read=1000)
    for row, right in (("plain", 0.25), ("memory", 1.0)):
        answers = {
            "accuracy": right,
            "exact_match": right,
            "slices": {"length": {"128": {"accuracy": right, "exact_match": right}}},
        }
        make(rows[row, "passkey"], score=answers | {"seconds": 2.0 if row == "plain" else 6.0, "tokens_read": 500})
    return table


def test_cells_are_of_the_checkpoint(experiment: Experiment) -> None:
    plain, memory, *_ = wanted(cells(experiment, "small"))
    assert {plain.settings.size.name, plain.settings.size.width, plain.settings.steps} == {"checkpoint", 32, 0}
    assert memory.settings.arch.knn_layers == [2]  # type: ignore[attr-defined]
    assert plain.settings.size.weights == memory.settings.size.weights
    assert "size.checkpoint=" + str(experiment.checkpoint) in memory.cell.overrides
    assert {one.cell.column for one in wanted(cells(experiment, "paper"))} == {"to 4K", "pass key"}


def test_each_column_has_its_metric_and_its_part_of_the_score(filled: Fill) -> None:
    found = filled()
    nats = np.arange(1000.0) / 100
    for column, part in (("to 512", nats[:512]), ("to 1K", nats[512:])):
        spread, gap = found.spread("plain", column), found.gap("memory", "plain", column)
        assert spread is not None
        assert gap is not None
        assert spread.mean == pytest.approx(part.mean())
        assert found.shown(column)(gap.mean) == pytest.approx(-part.mean() / 2)
    grid = lay_out(found)
    lines = {line[0]: dict(zip(grid.headers, line, strict=True)) for line in grid.lines}
    assert lines["plain"]["to 512: nats per token"] == "2.555"
    assert lines["memory"]["pass key: exact match"] == "1.000"
    assert not [
        header for header in grid.headers if "paper" in header or header.startswith(("step time", "±", "n", "95"))
    ]
    assert (lines["plain"]["state"], lines["memory"]["state"]) == ("0", "64,000")
    # half the CPU time on one data set and, where only the clock is known, a third of the time on the other
    assert (lines["plain"]["token time"], lines["memory"]["token time"]) == (f"{(1 / 2 + 1 / 3) / 2:.2f}", "1.00")


def test_a_difference_by_position_is_of_the_values_in_the_cells(filled: Fill, experiment: Experiment) -> None:
    base = (np.arange(1000.0) / 100)[512:].mean()
    ours = base / 2
    expected = {
        "perplexity": (np.exp(ours), 100 * (np.exp(ours) / np.exp(base) - 1)),
        "bits_per_token": (ours / np.log(2), (ours - base) / np.log(2)),
    }
    for metric, (value, difference) in expected.items():
        experiment.columns["to 1K"].metric = metric
        found = filled()
        spread, gap = found.spread("memory", "to 1K"), found.gap("memory", "plain", "to 1K")
        assert spread is not None
        assert gap is not None
        assert spread.mean == pytest.approx(value)
        assert found.shown("to 1K")(gap.mean) == pytest.approx(difference)


def test_a_perplexity_by_position_may_be_larger_than_any_number() -> None:
    assert METRICS["perplexity"].of_nats(1000.0) == np.inf


def test_light_copies_keep_losses_by_position(filled: Fill, tmp_path: Path) -> None:
    before = lay_out(filled()).lines
    keep(all_runs(tmp_path), tmp_path, "tiny/memories")
    for losses in tmp_path.glob("results/runs/*/eval/*/token_nats.npy"):
        losses.unlink()  # they are large
    assert lay_out(filled()).lines == before
    shutil.rmtree(tmp_path / "results" / "runs")
    assert lay_out(filled()).lines == before


def test_what_has_no_such_part_is_left_out_by_name(filled: Fill, experiment: Experiment) -> None:
    experiment.columns["to 1K"].slice = "position=2048"
    found = filled()
    assert ("plain", "to 1K") not in found.cells
    assert any("has scored nothing of position=2048" in line for line in found.left_out)


def test_slices_of_tokens_and_of_answers_have_metrics_of_their_own(filled: Fill, experiment: Experiment) -> None:
    experiment.columns["pass key"].metric = None
    with pytest.raises(UserError, check=says("nats per token", "length=128", "expected a metric of answers")):
        filled()
    experiment.columns["pass key"].metric, experiment.columns["to 512"].metric = "accuracy", "accuracy"
    with pytest.raises(UserError, check=says("accuracy", "position=512", "expected a metric of tokens")):
        filled()


def test_a_score_that_several_columns_show_is_missing_once(filled: Fill, experiment: Experiment) -> None:
    experiment.rows["again"] = Row(set={"arch": "xl", "mem": 64})
    missing = dict(filled().missing)
    assert list(missing) == ["again on to 512", "again on pass key"]
    assert all(command.startswith("memexp train") for command in missing.values())


def test_a_gain_that_is_rounding_has_no_shares(filled: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    found = filled()
    assert found.share_of_gain("memory", "to 512") == 1
    monkeypatch.setattr(reproduction, "LEAST_GAIN", 1.3)  # this gain is 1.28 nats
    assert found.share_of_gain("memory", "to 512") is None


def test_slices_of_one_data_set_are_a_plot(filled: Fill) -> None:
    (panel,) = panels(filled())
    assert (panel.title, panel.up) == ("tiny", "nats per token")
    lines = {label: [place for place, _ in points] for label, points in panel.lines}
    assert lines == {"plain": [512, 1024], "memory": [512, 1024]}


def test_rows_of_one_series_are_a_line_against_steps(filled: Fill, experiment: Experiment, make: Make) -> None:
    experiment.rows["trained"] = Row(set={"arch": "vanilla", "optim.train": "lora", "steps": 7}, columns=["pass key"])
    for row in ("plain", "trained"):
        experiment.rows[row].series = "without memory"
    (trained,) = (one for one in wanted(cells(experiment, "small")) if one.cell.row == "trained")
    right = {"accuracy": 0.5, "exact_match": 0.5}
    make(trained, score=right | {"slices": {"length": {"128": right}}}, summary={"steps": 7}, name="87654321")
    steps = panels(filled())[-1]
    assert (steps.across, steps.up) == ("steps of training", "exact match")
    assert steps.lines == [("without memory", [(0, 0.25), (7, 0.5)])]
    assert plot([steps]).keys() == {"png", "svg"}


def test_a_copy_counts_wherever_its_checkpoint_was(filled: Fill, experiment: Experiment, tmp_path: Path) -> None:
    only_copies(tmp_path)
    moved = tmp_path / "elsewhere" / "Tiny-Llama"
    moved.parent.mkdir()
    Path(str(experiment.checkpoint)).rename(moved)
    experiment.checkpoint = str(moved)
    assert len(filled().cells) == 6
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert not filled().cells  # another checkpoint


def test_a_table_says_of_which_checkpoint_it_is(filled: Fill, experiment: Experiment, tmp_path: Path) -> None:
    """In its title, its CSV, its file's name and the commands that fill it, so that no other is written over it."""
    found = filled()
    assert lay_out(found).title == "Tiny memories, Tiny-Llama, scale=small: nats per token and exact match"
    assert {record["checkpoint"] for record in records(found)} == {"Tiny-Llama"}
    name, paths, commands = "checkpoints/memories", [], []
    own = load(name).checkpoint
    for given in (None, own, "some/Model-1.7B", "~/a model/", str(tmp_path / "x" / ".." / "y")):
        opened = PaperTable(load(name, checkpoint=given), "small", {}, [], Published())
        paths.append(path_of(opened, tmp_path, ["stdlib"]).name)
        commands.append(shlex.split(" ".join(reproduce_words(opened.experiment, "small", "stdlib")))[2:-2])
    assert paths == ["small-stdlib"] * 2 + [f"small-{other}-stdlib" for other in ("Model-1.7B", "a model", "y")]
    assert commands[:4] == [[], [], ["checkpoint=some/Model-1.7B"], ["checkpoint=~/a model/"]]
    assert load(name).full_title.endswith(", SmolLM2-135M")
    assert replace(experiment, checkpoint=None).full_title == "Tiny memories"


def test_without_its_checkpoint_a_table_is_no_work_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("memexp.config.checkpoints._cached", lambda name, revision: None)
    lacks = load("checkpoints/memories").lacks
    assert lacks is not None
    assert "checkpoint=NAME" in lacks
    monkeypatch.setattr("memexp.experiment.paper_table.experiments", lambda: ["checkpoints/memories"])
    assert not open_all(scale="small")
    assert load("checkpoints/memories", checkpoint=str(described(tmp_path / "x"))).lacks is None
    with pytest.raises(
        UserError, check=says("checkpoint is x", "memorizing/table4 trains models of its own", "expected no")
    ):
        load("memorizing/table4", checkpoint="x")
