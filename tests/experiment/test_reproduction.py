"""A paper's table beside ours: golden files of fixed runs, marks and refusals."""

import csv
import io
import json
import math
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memexp.cli.arguments import parse
from memexp.config import revisions
from memexp.config.compose import compose
from memexp.config.revisions import Revision
from memexp.errors import UserError
from memexp.experiment import library as matching
from memexp.experiment.cells import cells, chosen_columns, data_of
from memexp.experiment.definition import Before, Column, Experiment
from memexp.experiment.files import path_of
from memexp.experiment.fill import fill
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable
from memexp.experiment.published import Number, Published
from memexp.experiment.reproduction import Reproduction
from memexp.experiment.settings import wanted
from memexp.experiment.text import lay_out, panels, records
from memexp.files import sealed, write_json
from memexp.report.statistics import widening
from memexp.report.table.formats import html_page, records_to_csv, to_html, to_latex, to_markdown

from ..messages import says
from ..terminal import on_terminal
from .conftest import Make, only_copies

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = Published(
    cites="Tiny, Table 1",
    source="a test",
    numbers={
        ("plain", "Letters"): Number(20.0, 0.125),  # with more digits than ours
        ("memory", "Letters"): Number(16.0),
        ("more", "Letters"): Number(15.0, recalled=True),
        ("tested", "Letters"): Number(17.0),
        ("plain", "Poems"): Number(9.5),
    },
    step_time={"plain": Number(1.0), "memory": Number(1.25, recalled=True)},
)

Table = Callable[..., Reproduction]


@pytest.fixture
def table(experiment: Experiment, tmp_path: Path) -> Table:
    """The table of what the test has made by then."""

    def call(published: Published = PUBLISHED) -> Reproduction:
        data = {label: data_of(experiment, "small", label) for label in experiment.columns}
        opened = PaperTable(experiment, "small", data, wanted(cells(experiment, "small")), published)
        return fill(opened, Library(tmp_path))

    return call


@pytest.fixture
def filled(experiment: Experiment, make: Make, table: Table) -> Table:
    """Two seeds of the first two rows, one of the third, none of the fourth, and nothing in the second column."""
    by_row = {(one.cell.row, one.cell.seed): one for one in wanted(cells(experiment, "small", data=["tiny"]))}
    for seed in (0, 1):
        make(by_row["plain", seed], (3.0 + seed / 8, 3.25 + seed / 8))
        memory = make(by_row["memory", seed], (2.75 + seed / 8, 3.0 + seed / 8), score={"memory_fill": 0.5})
    make(by_row["more", 1], (3.0, 3.5), start=memory)
    return table


@pytest.mark.parametrize("kind", ["md", "csv", "tex", "html", "txt"])
def test_golden(filled: Table, kind: str) -> None:
    """If this fails after a wanted change of the format, look at the difference and write it with GOLDEN=write."""
    found, path = filled(), GOLDEN / f"reproduction.{kind}"
    grid = lay_out(found)
    written = {
        "md": lambda: to_markdown(grid),
        "csv": lambda: records_to_csv(records(found)),
        "tex": lambda: to_latex(grid),
        "html": lambda: html_page(grid.title, to_html(grid)),
        "txt": lambda: on_terminal(grid, 200),
    }[kind]()
    if os.environ.get("GOLDEN") == "write":
        path.write_text(written, encoding="utf-8")
    assert written == path.read_text(encoding="utf-8")


def line(found: Reproduction, row: str) -> dict[str, str]:
    grid = lay_out(found)
    texts = next(one for one in grid.lines if one[0] == row)
    return dict(reversed(list(zip(grid.headers, texts, strict=True))))  # of headers that come twice the first


def test_numbers_differences_and_marks(filled: Table) -> None:
    found = filled()
    memory, more = line(found, "memory"), line(found, "more")
    assert memory["Letters: paper"] == "16.00"
    assert memory["tiny: ours"] == f"‡{np.mean(np.exp([2.875, 3.0])):.2f}"
    assert (memory["n"], memory["paper's diff. %"], memory["our diff. %"]) == ("2", "-20.0", "-22.1")
    assert memory["95 %"] == "-22.1 to -22.1"  # every document of every seed gains a quarter of a nat
    assert (memory["step time: paper"], memory["step time: ours"]) == ("†1.25", "2.00")
    assert (more["Letters: paper"], more["n"], more["our diff. %"]) == ("†15.00", "*1", "none")
    assert line(found, "tested")["tiny: ours"] == line(found, "plain")["stdlib: ours"] == "–"
    assert line(found, "plain")["Letters: paper"] == "20.00 ± 0.125"
    assert line(found, "tested")["Poems: paper"] == ""  # it has no cell there
    notes = " ".join(lay_out(found).notes)
    assert (
        "trend agreement 100 % (1 of 1 pairs of rows in the paper's order) at coverage 17 % (1 of the 6 pairs" in notes
    )
    assert "scale=small is not the paper's: it is tiny." in notes
    assert "‡: the memory never filled" in notes


def test_columns_and_rows_that_would_be_empty_are_left_out(filled: Table) -> None:
    found = filled()
    assert found.columns == ["Letters", "Poems"]
    assert "tested" in found.rows
    some = found.with_filled_columns()
    assert some.columns == ["Letters"]
    assert not any("Poems" in header for header in lay_out(some).headers)
    assert line(some, "memory")["tiny: ours"] == line(found, "memory")["tiny: ours"]
    assert "tested" not in replace(found, data={"Poems": "stdlib"}).rows  # it has no cell there


def test_step_times_are_the_cpus_where_runs_kept_it(experiment: Experiment, make: Make, table: Table) -> None:
    by_row = {(one.cell.row, one.cell.seed): one for one in wanted(cells(experiment, "small", data=["tiny"]))}
    for seed, (plain, memory) in enumerate([({"cpu_seconds": 4.0}, {"cpu_seconds": 5.0}), ({}, {"cpu_seconds": 9.0})]):
        make(by_row["plain", seed], summary={"device": "cpu"} | plain)
        make(by_row["memory", seed], summary={"device": "cpu"} | memory)
    found = table()
    assert line(found, "memory")["step time: ours"] == "1.25"  # of the seed in which both did
    assert "ours is CPU time" in " ".join(lay_out(found).notes)
    make(by_row["plain", 0], summary={"device": "cuda", "cpu_seconds": 4.0})
    assert line(table(), "memory")["step time: ours"] == "2.00"  # no baseline has CPU time, so both are wall-clock time


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(filled: Table) -> None:
    text = on_terminal(lay_out(filled()), 80)
    assert "No room here for: ±, paper's diff. %, step time: paper, step time: ours, tokens" in text
    assert "-22.1 to -22.1" in text
    assert "‡18.91" in text
    assert all(len(line) <= 80 for line in text.splitlines()[:9])


def test_an_order_against_the_papers_is_named(filled: Table) -> None:
    found = filled(Published("T", "s", "", {("plain", "Letters"): Number(15), ("memory", "Letters"): Number(20)}))
    assert found.agreement("Letters").share == 0
    assert any("plain minus memory is -5.00 in the paper, +28.4 % in ours" in note for note in lay_out(found).notes)


def test_what_fills_a_missing_cell(filled: Table, experiment: Experiment, make: Make, tmp_path: Path) -> None:
    missing = dict(filled().missing)
    assert set(missing) == {"tested on Letters", "all of Poems", "further seeds of 1 cell"}
    assert missing["all of Poems"] == "memexp reproduce tiny/table1 scale=small data=stdlib"
    run = "knn-tiny-mem64-s0-12345678"
    assert missing["tested on Letters"] == (
        f"memexp eval {run} eval.split=test eval.documents=2 eval.max_document=64 mem=128"
    )
    (tmp_path / "results" / "runs" / run / "weights.pt").unlink()  # a light copy can be read, not scored
    words = dict(filled().missing)["tested on Letters"]
    assert words.startswith("memexp train precision=fp32 size=tiny")
    assert words.endswith("then memexp eval RUN" + words.split("RUN")[-1])


def test_columns_that_share_data_are_named_each(experiment: Experiment, make: Make, table: Table) -> None:
    """By its data, a column could not be told from the others, and the command would train all of them."""
    experiment.columns["Letters, longer / twice"] = Column(small={"data": "tiny", "steps": 10})
    experiment.columns["Letters, a part"] = Column(
        small={"data": "tiny", "steps": 10}, slice="length=3", metric="accuracy"
    )
    missing = dict(table().missing)
    assert list(missing) == ["all of Letters", "all of Poems", 'all of "Letters, longer / twice", "Letters, a part"']
    assert missing["all of Letters"] == "memexp reproduce tiny/table1 scale=small data=Letters"
    word = shlex.split(missing['all of "Letters, longer / twice", "Letters, a part"'])[-1]
    asked = compose("reproduce", parse("reproduce", ["tiny/table1", "scale=small", word]).overrides).corpora
    assert chosen_columns(experiment, "small", asked) == ["Letters, longer / twice"]
    opened = PaperTable(experiment, "small", {}, [], Published())
    assert path_of(opened, Path("results"), asked) == Path("results/small-Letters, longer - twice")


def test_columns_of_other_steps_are_a_line_for_each_row(experiment: Experiment, make: Make, table: Table) -> None:
    experiment.columns["Letters, longer"] = Column(small={"data": "tiny", "steps": 10})
    for cell in wanted(cells(experiment, "small", data=["tiny"], seeds=[0])):
        if cell.cell.row == "plain":
            make(cell, (3.0,) if cell.settings.steps == 5 else (2.0,), name=f"{cell.settings.steps:08}")
    [panel] = panels(table())
    assert (panel.title, panel.across, panel.up) == ("tiny", "steps of training", "perplexity")
    [(row, points)] = panel.lines
    assert row == "plain"
    assert points == [(5, pytest.approx(math.e**3)), (10, pytest.approx(math.e**2))]


def test_further_seeds_are_missing_too(table: Table, make: Make, experiment: Experiment) -> None:
    """A cell that has one seed is no longer empty, and still not done."""
    for cell in wanted(cells(experiment, "small")):
        if cell.cell.trains and cell.cell.seed == 0:
            make(cell)
    assert dict(table().missing)["further seeds of 4 cells"] == "memexp reproduce tiny/table1 scale=small"


def test_an_unfinished_run_says_how_far_it_is(experiment: Experiment, make: Make, table: Table) -> None:
    plain, memory = wanted(cells(experiment, "small", data=["tiny"], seeds=[0]))[::2]
    make(memory)
    make(plain, done=False)
    assert "plain on Letters (stopped, step 1 of 5)" in dict(table().missing)


def test_another_seed_counts_too(filled: Table, experiment: Experiment, make: Make) -> None:
    make(wanted(cells(experiment, "small", data=["tiny"], seeds=[7]))[0], (3.0, 3.0))
    assert line(filled(), "plain")["n"] == "3"


def test_the_share_of_a_gain(filled: Table, experiment: Experiment) -> None:
    experiment.goal = "memory"
    found = filled()
    shares = [line(found, row)["of the gain"] for row in ("plain", "memory", "more", "tested")]
    assert shares == ["–", "100 %", "0 %", "–"]


def test_a_share_of_a_gain_is_of_the_seeds_that_all_have(filled: Table, experiment: Experiment, make: Make) -> None:
    """A third seed of the goal and the baseline, which says otherwise, changes nothing."""
    experiment.goal = "memory"
    by_row = {
        (one.cell.row, one.cell.seed): one for one in wanted(cells(experiment, "small", data=["tiny"], seeds=[0, 7]))
    }
    make(by_row["more", 0], (2.875, 3.125), start=make(by_row["memory", 0], (2.75, 3.0)))
    assert line(filled(), "more")["of the gain"] == "25 %"
    make(by_row["plain", 7], (3.0, 3.25))
    make(by_row["memory", 7], (1.0, 1.0))
    assert line(filled(), "memory")["n"] == "3"
    assert line(filled(), "more")["of the gain"] == "25 %"


def test_a_slice_has_no_perplexity(filled: Table, experiment: Experiment) -> None:
    experiment.columns["Letters"].slice = "length=8"
    with pytest.raises(UserError, check=says("perplexity", "slice", "length=8", "expected a metric of answers")):
        filled()
    experiment.columns["Letters"].small_slice = "length=4"
    with pytest.raises(UserError, check=says("perplexity", "slice", "length=4", "expected a metric of answers")):
        filled()


def test_a_summary_edited_by_hand_is_refused(filled: Table, tmp_path: Path) -> None:
    path = tmp_path / "results/runs/vanilla-tiny-mem0-s0-12345678/eval/test-2x64-0-on/summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"perplexity": 1.0}))
    with pytest.raises(UserError, check=says(str(path), "checksum")):
        filled()


def test_different_tokenizers_are_refused(filled: Table, experiment: Experiment, make: Make) -> None:
    [one] = wanted(cells(experiment, "small", data=["tiny"], seeds=[7]))[:1]
    make(one, score={"tokenizer_hash": "9" * 64})
    with pytest.raises(UserError, check=says("tiny", "different tokenizers")):
        filled()


def test_an_older_score_has_no_documents(filled: Table, tmp_path: Path) -> None:
    """Then seeds alone say how sure a difference is, and the notes say so."""
    file = only_copies(tmp_path)[0].path.parent
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for one in lines:
        del one["checksum"]
        one["eval"] = {name: {"summary": score["summary"]} for name, score in one["eval"].items()}
    file.write_text("".join(json.dumps(sealed(one)) + "\n" for one in lines))
    memory = line(filled(), "memory")
    assert (memory["our diff. %"], memory["95 %"]) == ("-22.1", "-22.1 to -22.1")
    notes = " ".join(lay_out(filled()).notes)
    assert "95 % on Letters: over seeds alone" in notes
    assert "over documents" not in notes


def test_without_two_seeds_nothing_is_called_a_difference(experiment: Experiment, make: Make, table: Table) -> None:
    plain, memory = wanted(cells(experiment, "small", data=["tiny"], seeds=[0]))[::2]
    make(plain, (3.0, 3.25))
    make(memory, (2.5, 2.75))
    found = table()
    assert (line(found, "memory")["our diff. %"], line(found, "memory")["95 %"]) == ("(-39.3)", "-39.3 to -39.3")
    assert found.agreement("Letters").coverage == 0
    assert "(...): what another seed would change is not known" in " ".join(lay_out(found).notes)


def test_rows_of_one_training_have_a_spread_of_their_own(filled: Table, experiment: Experiment, make: Make) -> None:
    by_row = {(one.cell.row, one.cell.seed): one for one in wanted(cells(experiment, "small", data=["tiny"]))}
    for seed, nats in ((0, 2.5), (1, 2.75)):
        make(by_row["memory", seed], (nats, nats))
        make(by_row["tested", seed], (nats - 0.5, nats - 0.5))
    found = filled()
    akin, apart = found.seed_spread("memory", "tested", "Letters"), found.seed_spread("plain", "tested", "Letters")
    assert akin is not None
    assert apart is not None
    assert akin.deviation == 0 < apart.deviation


def test_a_column_has_a_baseline_of_its_own_and_may_stand_for_a_published_one(
    filled: Table, experiment: Experiment, make: Make
) -> None:
    experiment.rows["plain"].columns = ["Poems"]
    found = filled()
    assert (found.baseline("Letters"), found.baseline("Poems")) == ("memory", "plain")
    assert "diff.: difference to the baseline (memory on Letters; plain on Poems)." in " ".join(lay_out(found).notes)
    assert line(found, "memory")["paper's diff. %"] == "baseline"
    assert line(found, "memory")["step time: ours"] == "1.00"
    experiment.columns["Letters"].published = "Poems"
    published = {("memory", "Poems"): Number(15), ("more", "Poems"): Number(20)}
    assert filled(Published("T", "s", "", published)).agreement("Letters").published == 1


def test_a_slice_is_of_seeds_even_where_it_says_what_all_of_them_say(
    experiment: Experiment, make: Make, table: Table
) -> None:
    """A share of one, in the slice as in all, and answers of other documents beside."""
    experiment.metric, experiment.columns["Letters"].slice = "accuracy", "length=8"
    for one in wanted(cells(experiment, "small", data=["tiny"])):
        if one.cell.row in ("plain", "memory"):
            share = 1.0 if one.cell.row == "memory" else 0.4
            summary = {"accuracy": share, "exact_match": share, "slices": {"length": {"8": {"accuracy": share}}}}
            run = make(one, score=summary)
            rows = [{"id": name, "tokens": 10, "nats": 30, "correct": 10 * share} for name in "ab"]
            write_json(run.path / "eval" / one.score.folder / "documents.json", rows)
    assert line(table(), "memory")["our diff."] == "+0.600"
    assert "over seeds alone" in " ".join(lay_out(table()).notes)


def test_light_copies_of_another_corpus_are_shown_until_there_are_own_ones(
    filled: Table, experiment: Experiment, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word of refusal, though they do not compare."""
    before = lay_out(filled()).lines
    write_json(
        tmp_path / "data" / "manifest.json",
        {
            "files": {name: {"sha256": "f" * 64} for name in ("tokens.bin", "documents.json")},
            "tokenizer": {"hash": "f" * 64},
        },
    )
    elsewhere = wanted(cells(experiment, "small", data=["tiny"], seeds=[7]))[0]
    make(elsewhere, score={"tokens_hash": "9" * 64, "tokenizer_hash": "9" * 64})
    assert len(only_copies(tmp_path)) == 6
    assert line(filled(), "plain")["n"] == "2"
    assert "1 score of light copies on Letters" in filled().left_out[0]
    monkeypatch.setattr(matching, "prepared", lambda data, root: root / "data")
    copies = filled()
    assert lay_out(copies).lines == before
    assert copies.foreign == ["Letters"]
    assert "Letters: ours are light copies of runs on a different tiny than" in " ".join(lay_out(copies).notes)
    own = wanted(cells(experiment, "small", data=["tiny"], seeds=[0]))[0]
    corpus = dict.fromkeys(("tokens_checksum", "documents_checksum", "tokenizer_hash"), "f" * 64)
    make(own, corpus=corpus, name="99999999", score={"tokenizer_hash": "f" * 64})
    found = filled()
    assert list(found.cells) == [("plain", "Letters")]
    assert line(found, "plain")["n"] == "*1"
    assert not found.foreign
    assert any("Left out: 5 scores of light copies on Letters (" in note for note in lay_out(found).notes)


def test_what_is_scored_names_its_columns_where_they_differ(filled: Table, experiment: Experiment, make: Make) -> None:
    assert "ours: test, first 2 documents, first 64 tokens of each." in lay_out(filled()).notes
    experiment.columns["Poems"].small |= {"eval.documents": 3}
    make(wanted(cells(experiment, "small", data=["Poems"], seeds=[0]))[0])
    notes = lay_out(filled()).notes
    assert "ours, tiny: test, first 2 documents, first 64 tokens of each." in notes
    assert "ours, stdlib: test, first 3 documents, first 64 tokens of each." in notes


def test_markup_is_text(filled: Table, experiment: Experiment) -> None:
    experiment.title = "<script>alert(1)</script> & $x$"
    text = to_html(lay_out(filled()))
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x$" in text
    assert text.count("<tr>") == 5
    assert "http" not in html_page("t", text)


def test_csv_has_a_line_a_seed(filled: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(records_to_csv(records(filled())))))
    assert [(one["row"], one["column"], one["seed"], one["n"]) for one in lines if one["row"] != "plain"] == [
        ("memory", "Letters", "0", "2"), ("memory", "Letters", "1", "2"), ("memory", "Poems", "", "0"),
        ("more", "Letters", "1", "1"), ("more", "Poems", "", "0"), ("tested", "Letters", "", "0"),
        ("tested", "Poems", "", "0"),
    ]  # fmt: skip


def test_accuracy_is_of_tokens_and_exact_match_of_documents(
    experiment: Experiment,
    make: Make,
    table: Table,
) -> None:
    def score(one: Any, correct: tuple[int, int]) -> None:
        exact = sum(number == 10 for number in correct) / 2
        run = make(one, score={"accuracy": sum(correct) / 20, "exact_match": exact, "slices": {}})
        path = run.path / "eval" / one.score.folder / "documents.json"
        rows = json.loads(path.read_text())
        path.write_text(json.dumps([row | {"correct": number} for row, number in zip(rows, correct, strict=True)]))

    found = {one.cell.row: one for one in wanted(cells(experiment, "small", data=["tiny"], seeds=[0]))}
    score(found["plain"], (4, 10))
    score(found["memory"], (9, 10))
    for metric, gain in (("accuracy", 0.25), ("exact_match", 0.0)):
        experiment.metric = metric
        gap = table().gap("memory", "plain", "Letters")
        assert gap is not None
        assert gap.mean == pytest.approx(gain)
        assert gap.high == pytest.approx(gain * (1 + widening(2)))


def test_rows_of_runs_from_before_a_revision_are_named(
    experiment: Experiment, make: Make, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_row = {(one.cell.row, one.cell.seed): one for one in wanted(cells(experiment, "small", data=["tiny"]))}
    for row, seed in (("plain", 0), ("plain", 1), ("memory", 0)):
        make(by_row[row, seed])
    assert not table().made_before
    revision = Revision("knn-changed", "a memory is something else", lambda settings: settings["arch"]["name"] == "knn")
    monkeypatch.setattr(revisions, "REVISIONS", [revision])
    make(by_row["memory", 1])  # its identity names the revision
    found = table()
    assert [entry.run.seed for entry in found.cells["memory", "Letters"]] == [1]
    [note] = [note for note in lay_out(found).notes if "made before" in note.lower()]
    assert note == (
        'Made before, so not counted: "memory", "tested" on Letters. `memexp reproduce` trains them again. Since then: a memory '
        "is something else."
    )


def test_rows_of_runs_with_settings_that_the_table_had_before_are_named(
    experiment: Experiment, make: Make, table: Table
) -> None:
    """Also of a row that started from such a run; a row without the setting, and one that was run again, is not."""
    by_row = {one.cell.row: one for one in wanted(cells(experiment, "small", data=["tiny"], seeds=[0]))}
    make(by_row["plain"])
    make(by_row["more"], start=make(by_row["memory"]))
    for row in ("memory", "more"):
        experiment.rows[row].set["arch.reach"] = "window"
    since = "a token sees less"
    experiment.scales["small"].before = [Before(set={"arch.reach": "all"}, since=since)]
    found = table()
    assert {row for row, _ in found.cells} == {"plain"}
    [note] = [note for note in lay_out(found).notes if "made before" in note.lower()]
    assert f'"memory" {math.exp(3):.2f}, "more" {math.exp(3):.2f} on Letters.' in note
    assert note.endswith(f"Since then: {since}.")
    [again] = wanted([one for one in cells(experiment, "small", data=["tiny"], seeds=[0]) if one.row == "memory"])
    make(again, name="87654321")
    found = table()
    assert {row for row, _ in found.cells} == {"plain", "memory"}
    assert [*found.made_before] == [(since,)]
    assert {*found.made_before[since,]} == {("more", "Letters")}
    experiment.scales["small"].before = []
    assert not table().made_before
