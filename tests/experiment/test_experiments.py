"""The experiments that are there: each composes at both scales, and what it cites is published."""

import os
import tempfile
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from memexp.cli.main import main
from memexp.config.arch import ARCHS
from memexp.config.checks import remarks
from memexp.config.commands import SCALES
from memexp.config.introspection import choices_of
from memexp.experiment.cells import Cell, cells
from memexp.experiment.definition import Experiment, experiments, load
from memexp.experiment.published import PUBLISHED, load_published
from memexp.experiment.settings import Wanted, wanted
from memexp.model.build import build_model
from memexp.report.metrics import METRICS
from memexp.train.optimizer import rate_factor

from ..checkpoints import described

NAMES = experiments()
TABLES = {
    ("blockrecurrent", "table1"): 53, ("memorizing", "table4"): 50, ("memorizing", "held_out"): 20, ("memorizing", "table5"): 9,
    ("memorizing", "table14"): 4, ("memorizing", "table15"): 3, ("memorizing", "table16"): 2,
    ("memorizing", "larger_memory"): 46, ("rmt", "wikitext103"): 50, ("rmt", "enwik8"): 16, ("rmt", "equations"): 3,
    ("rmt", "hyperpartisan"): 21, ("rmt", "algorithmic"): 50, ("infini", "table2"): 10, ("armt", "table1"): 86,
}  # fmt: skip
"""How many numbers each table prints."""


def test_every_table_of_the_papers_is_there() -> None:
    figures = {
        "memorizing": ("figure1", "figure6", "longer", "per_token"),
        "blockrecurrent": ("ablations", "borrowed"),
        "thought": ("ablation",),
        "armt": ("babi", "remember", "rewrite"),
        "delta": ("mqar",),
        "checkpoints": ("figure6", "hyperpartisan", "longer", "memories", "rmt"),
    }
    wanted = {"/".join(table) for table in TABLES} | {f"{paper}/{name}" for paper in figures for name in figures[paper]}
    assert set(NAMES) == wanted


@cache
def a_checkpoint() -> Path:
    """A folder that looks like a checkpoint."""
    return described(Path(tempfile.mkdtemp(prefix=f"memexp-{os.getpid()}-")) / "Tiny-Llama")


def loaded(name: str) -> Experiment:
    """The experiment, of a checkpoint that is there if it is of one."""
    return load(name) if load(name).checkpoint is None else load(name, checkpoint=str(a_checkpoint()))


def one_of_each_row(name: str, scale: str) -> list[Cell]:
    """The first cell of each row, of a column whose data there is."""
    found: dict[str, Cell] = {}
    for cell in cells(loaded(name), scale):
        if cell.settings["data"] in choices_of("data"):
            found.setdefault(cell.row, cell)
    return list(found.values())


@cache
def composed(name: str, scale: str) -> list[Wanted]:
    """The settings of a cell of each row, which take long to compose; nobody changes them."""
    return wanted(one_of_each_row(name, scale))


PEAKS = {
    "memorizing/larger_memory": 3e-4, "memorizing/table4": 0.0316, "memorizing/table5": 0.0316, "memorizing/figure1": 0.0316,
    "blockrecurrent/table1": 0.0316, "rmt/wikitext103": 2.5e-4, "rmt/enwik8": 2.5e-4, "rmt/algorithmic": 1e-4,
    "rmt/equations": 1e-4, "thought/ablation": 1e-3,
}  # fmt: skip
"""The highest rate that each paper trains with; of Adafactor it is relative to the weights."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "memorizing/table4" else pytest.mark.hard) for name in PEAKS]
)
def test_the_papers_optimizer(name: str) -> None:
    for one in composed(name, "paper"):
        optim, steps = one.settings.optim, one.settings.steps
        some = {*range(2000), steps // 2, steps - 1}
        assert optim.rate * max(rate_factor(step, optim, steps=steps) for step in some) == pytest.approx(
            PEAKS[name], rel=2e-3
        )
        assert optim.weight_decay == 0
        if name in ("rmt/algorithmic", "rmt/equations", "thought/ablation"):
            assert optim.schedule == "constant"


@pytest.mark.parametrize(
    "scale", [pytest.param(scale, marks=pytest.mark.hard if scale == "paper" else []) for scale in SCALES]
)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name.startswith("memorizing") else pytest.mark.hard) for name in NAMES]
)
def test_every_row_composes(name: str, scale: str) -> None:
    """And what `train` would warn of is no table's setting."""
    rows = composed(name, scale)
    if not rows:
        pytest.skip(f"{name} at scale={scale} is of data that is not here yet")
    tokens = [one.settings.lanes * one.settings.segment * one.settings.accumulate for one in rows]
    trained = [one for one in rows if one.start is None]
    asked = load(name).scales[scale].tokens_a_step
    assert all(0.7 * asked <= count <= asked for count in tokens) or not asked
    assert len({one.settings.eval.max_document for one in trained}) == 1, "rows must score the same tokens"
    assert not [(one.cell.row, remark.text) for one in rows for remark in remarks(one.settings) if remark.warns]
    for one in {(one.settings.arch.name, one.settings.size.name): one for one in rows}.values():
        if one.settings.size.checkpoint is not None and find_spec("transformers") is None:
            continue
        with torch.device("meta"):
            build_model(one.settings, vocabulary=256)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_is_what_there_is(name: str) -> None:
    experiment = load(name)
    assert set(experiment.scales) == set(SCALES)
    assert experiment.metric in METRICS
    assert {experiment.baseline, experiment.goal, experiment.costs} - {None} <= set(experiment.rows)
    assert {column.metric for column in experiment.columns.values()} - {None} <= set(METRICS)
    assert experiment.scales["small"].differs, "what the small scale changes stands below its table"
    for row in experiment.rows.values():
        assert {row.init_from, row.scores} - {None} <= set(experiment.rows)
        assert set(row.columns) <= set(experiment.columns)
        assert (row.scores is None) != ("arch" not in row.set)
        assert row.set.get("arch", "knn") in ARCHS
    published = load_published(experiment.paper, experiment.table)
    assert len(published.numbers) == TABLES.get((experiment.paper, experiment.table), 0)
    if published.numbers:
        assert set(experiment.rows) <= {row for row, _ in published.numbers}
        assert {(row, column) for row, column in published.numbers if row in experiment.rows} <= {
            (row, column.published or label)
            for row in experiment.rows
            for label, column in experiment.columns.items()
            if label in (experiment.rows[row].columns or experiment.columns)
        }
        columns = {column.published or label for label, column in experiment.columns.items()}
        assert {column for _, column in published.numbers} == columns
    else:
        assert not any(column.published for column in experiment.columns.values())
    assert set(published.step_time) <= set(experiment.rows)


def test_published_files_hold_these_tables_and_no_others() -> None:
    found = {
        (path.stem, table): yaml.safe_load(path.read_text(encoding="utf-8"))[table]
        for path in PUBLISHED.glob("*.yaml")
        for table in yaml.safe_load(path.read_text(encoding="utf-8"))
    }
    assert set(found) == set(TABLES)
    for block in found.values():
        said = set(block) - {"note", "step_time"}
        assert said in ({"cites", "metric", "source", "columns", "rows"}, {"like", "columns"})


@pytest.mark.parametrize(
    ("paper", "table", "row", "column", "value", "std", "recalled"),
    [
        ("memorizing", "table4", "512, cache 512, memory 65K", "GitHub", 1.87, None, False),
        ("memorizing", "held_out", "2048", "Isabelle", 2.39, None, False),
        ("memorizing", "table5", "512, memory 8192 to 131K", "arXiv Math", 2.30, None, True),
        ("memorizing", "table16", "Transformer-XL", "arXiv Math", 2.67, 0.01, False),
        ("memorizing", "larger_memory", "memory 8192, finetuned at 131K", "GitHub", 2.386, None, False),
        ("blockrecurrent", "table1", "Rec:fixed:skip", "GitHub (tokens)", 0.976, None, False),
        ("blockrecurrent", "table1", "XL:1024", "PG19 (bytes)", 0.997, None, True),
        ("rmt", "wikitext103", "50, RMT 10 BPTT-1", "WikiText-103", 27.95, 1.32, False),
        ("rmt", "enwik8", "128, RMT 20 BPTT-2", "enwik8", 1.222, None, False),
        ("rmt", "algorithmic", "8, Tr-XL", "Copy 24", 0.2776, 0.1212, False),
        ("infini", "table2", "Infini-Transformer (Linear)", "PG19", 9.65, None, False),
        ("armt", "table1", "ARMT", "QA2, 10M", 0.844, None, False),
        ("armt", "table1", "Mamba", "QA1, 500k", 0.923, None, False),
    ],
)
def test_published_numbers(
    paper: str, table: str, row: str, column: str, value: float, std: float | None, recalled: bool
) -> None:
    assert load_published(paper, table).numbers[row, column] == (value, std, recalled)


def test_a_table_shares_the_runs_of_another() -> None:
    def runs(name: str) -> dict[str, str]:
        return {one.cell.row: one.result for one in wanted(cells(load(name), "small", data=["code"], seeds=[0]))}

    table4, table5 = runs("memorizing/table4"), runs("memorizing/table5")
    assert table5["512, memory 65K"] == table4["512, cache 512, memory 65K"]
    assert runs("memorizing/figure6")["without memory"] == table4["2048"]
    assert runs("memorizing/larger_memory")["memory 8192, tested at 32K"] == table4["512, memory 8192"]
    assert runs("blockrecurrent/ablations")["LSTM gates"] == runs("blockrecurrent/table1")["Rec:lstm:skip"]


@pytest.mark.hard
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("memorizing/figure6", "trained on without memory, 4 %"),
        ("blockrecurrent/table1", "Feed:lstm:single"),
        ("rmt/wikitext103", "150, Tr-XL 75 + RMT 5 BPTT-3"),
        ("thought/ablation", "recall, composition"),
    ],
)
def test_a_cell_trains(name: str, row: str, tmp_path: Path, capfd: Any) -> None:
    """Two steps with the row's own settings on a network and a corpus of the tests."""
    cell = next(cell for cell in cells(load(name), "small") if cell.row == row)
    kept = {key: value for key, value in cell.settings.items() if not key.startswith(("data", "size", "optim", "eval"))}
    tiny = replace(cell, settings=kept | {"size": "tiny", "data": "tiny", "steps": 2})
    few = ["eval.documents=2", "eval.max_document=32", f"root={tmp_path}"]
    assert main(["train", *tiny.overrides, *few]) == 0, capfd.readouterr().err
