"""The three commands from folders to screen and files."""

import csv
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memexp.config.commands import DiffConfig, RunsConfig, TableConfig
from memexp.config.groups import Scored
from memexp.errors import UserError
from memexp.report.table.figure import Panel, plot
from memexp.store.folder import Run, all_runs

from ..messages import says

CONFIGS = {"table": TableConfig, "diff": DiffConfig, "runs": RunsConfig}


def memexp(command: str, fakes: Any, **settings: Any) -> None:
    importlib.import_module(f"memexp.cli.commands.{command}").run(CONFIGS[command](root=str(fakes.root), **settings))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_table_writes_three_files_where_asked_and_says_so(
    compared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = tmp_path / "there"
    memexp("table", compared, out=str(tables))
    assert sorted(path.name for path in tables.iterdir()) == ["runs.csv", "runs.md", "runs.tex"]
    shown = capsys.readouterr().out
    assert f"written: {tables / 'runs.md'}, .csv and .tex" in shown
    assert "†24.23" in shown


def test_table_of_a_tag_and_of_a_folder(compared: Any, tmp_path: Path) -> None:
    compared.score(compared.run("demo-xl", arch="xl", mem=64, tag="my/demo"), 3.0)
    memexp("table", compared, tag="my/demo", out=str(tmp_path / "there"))
    assert "| xl " in (text := (tmp_path / "there" / "my-demo.md").read_text())
    assert "vanilla" not in text


def test_table_of_named_runs(compared: Any, tmp_path: Path) -> None:
    memexp("table", compared, runs=["vanilla", "knn-512-s1"], metric="nats", out=str(tmp_path / "there"))
    lines = csv.DictReader(io.StringIO((tmp_path / "there" / "runs.csv").read_text()))
    assert [line["run"] for line in lines] == ["vanilla-0-s0", "vanilla-0-s1", "knn-512-s1"]


def test_table_by_slice_with_gauges(answered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memexp("table", answered, metric="accuracy", by="length", gauges=["gate.1"], out=str(tmp_path / "there"))
    shown = capsys.readouterr().out
    assert "accuracy on test, first 1,000 documents, whole" in shown
    assert "length=120:" in shown
    assert "gate.1" in shown
    lines = list(csv.DictReader(io.StringIO((tmp_path / "there" / "runs.csv").read_text())))
    assert [(line["run"], line["length"], line["value"], line["gate.1"]) for line in lines][2:4] == [
        ("xl-s0", "24", "0.5", "0.25"),
        ("xl-s1", "24", "0.75", "0.75"),
    ]


def test_without_a_metric_properties_of_answers_rate_answers(answered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    memexp("table", answered, by="length")
    assert "exact match on test" in capsys.readouterr().out
    memexp("table", answered, by="position", runs=["text"])  # positions have no answers
    assert "perplexity on test" in capsys.readouterr().out


def test_table_by_position_is_also_a_plot(compared: Any, tmp_path: Path) -> None:
    for folder in ("there", "again"):
        memexp("table", compared, metric="nats", by="position", out=str(tmp_path / folder))
    drawn = (tmp_path / "there" / "runs.svg").read_text()
    assert "xl-64-64-0" in drawn
    assert "nats per token" in drawn
    assert (tmp_path / "there" / "runs.png").read_bytes() == (tmp_path / "again" / "runs.png").read_bytes()
    lines = csv.DictReader(io.StringIO((tmp_path / "there" / "runs.csv").read_text()))
    assert {line["position"] for line in lines} == {"512"}


def test_a_long_label_leaves_a_plot_its_room() -> None:
    """The layers of a memory of pairs may be thirty numbers, in a label as long as the plot is wide."""
    from matplotlib import image

    points = [(512, 1.0), (1024, 2.0)]
    layers = "knn-512-arch.knn_layers:" + "+".join(map(str, range(1, 99)))
    drawn = plot([Panel("code", "tokens", "nats", [("short", points), (layers, points)])])
    text = drawn["svg"].decode()
    assert "+98" in text
    axes = re.search(r'id="patch_2">\s*<path d="M [\d.]+ ([\d.]+) \nL ([\d.]+) [\d.]+ \nL [\d.]+ ([\d.]+)', text)
    assert axes is not None
    bottom, right, top = map(float, axes.groups())
    assert bottom - top > 100  # points, of 230
    assert right > 350  # of 432
    assert image.imread(io.BytesIO(drawn["png"])).shape[1] == 780


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tag": "dmo"}, ("tag 'dmo'", "expected", "did you mean demo?")),
        ({"runs": ["nothing"]}, ("no run 'nothing'", "expected")),
        ({"runs": ["x-64-s0"]}, ("no run 'x-64-s0'", "did you mean xl-64-s0?")),
    ],
)
def test_table_of_no_run_says_so(compared: Any, settings: Any, words: tuple[str, ...]) -> None:
    compared.run("demo-xl", arch="xl", mem=64, tag="demo")
    with pytest.raises(UserError, check=says(*words)):
        memexp("table", compared, **settings)


def test_table_of_the_runs_of_a_corpus(compared: Any, tmp_path: Path) -> None:
    compared.score(compared.run("books-xl", arch="xl", mem=64, data="books"), 3.0)
    memexp("table", compared, corpora=["books"], out=str(tmp_path / "there"))
    lines = csv.DictReader(io.StringIO((tmp_path / "there" / "runs.csv").read_text()))
    assert [line["run"] for line in lines] == ["books-xl"]
    with pytest.raises(UserError, check=says("data", "'boks'", "did you mean books?")):
        memexp("table", compared, corpora=["boks"])


@pytest.mark.parametrize("settings", [{"scale": "paper"}, {"checkpoint": "name/of"}], ids=str)
def test_table_of_runs_has_no_settings_of_experiments(compared: Any, settings: dict[str, str]) -> None:
    with pytest.raises(UserError, check=says(*settings, *settings.values(), "no experiment is named")):
        memexp("table", compared, **settings)


@pytest.mark.parametrize("command", ["table", "runs"])
def test_no_runs_at_all_tells_how_to_make_some(fakes: Any, command: str) -> None:
    with pytest.raises(UserError, check=says("no run", str(fakes.root), "memexp train")):
        memexp(command, fakes)


def test_runs_lists_state_progress_and_numbers_newest_last(
    compared: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    long = "knn-65536-a-name-that-somebody-made-long-to-say-everything-s0-0123456789abcdef"
    run = compared.run(long, mem=65536, done=False)
    compared.score(Run(run.path.parent / "xl-64-s0"), 2.0, split="valid")
    os.utime(run.path.parent / "vanilla-0-s0" / "summary.json", (2e9, 2e9))
    with run.locked():
        memexp("runs", compared)
    shown = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert long in "".join(line[0] for line in lines)
    by_name = {line[0]: line[1:] for line in lines}
    assert by_name["xl-64-s0"][:-1] == ["done", "1,367/1,367", "3.250", "7.39", "33.12", "4,000"]
    assert by_name["knn-4096-s0"][3:5] == ["–", "22.76"]  # not the score at another memory
    assert lines[-1][0] == "vanilla-0-s0"
    unfinished = next(line for line in lines if line[1] == "running")
    assert unfinished[2:7] == ["500/1,367", "5.750", "–", "–", "4,400"]
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_a_sweep_ends_with_a_table_of_what_differs(fakes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes of a memory in the rows, whose seeds are together; everything else is the same and no column."""
    for mem, losses in ((0, (3.5, 3.625)), (8192, (3.25, 3.375)), (65536, (3.0, 3.125))):
        for seed, loss in enumerate(losses):
            fakes.score(fakes.run(f"knn-{mem}-s{seed}", mem=mem, seed=seed), loss)
    fakes.score(fakes.run("trial", arch="vanilla", settings={"size.name": "tiny", "steps": 20}), 6.0)
    folders = [run.path for run in all_runs(fakes.root) if run.name != "trial"]
    importlib.import_module("memexp.cli.commands.table").show_finished(folders)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    [header] = [at for at, line in enumerate(lines) if line[:1] == ["memory"]]
    assert lines[header] == ["memory", "perplexity", "±", "n", "%", "±", "params", "tokens/s"]
    assert [line[0] for line in lines[header + 2 : header + 5]] == ["0", "8,192", "65,536"]
    assert [line[3] for line in lines[header + 2 : header + 5]] == ["2", "2", "2"]
    assert ["Every", "row:", "arch", "knn,", "context", "64,", "cache", "64."] in lines
    assert not any("trial" in line for line in lines)
    of_seed_0 = [str(fakes.root / "results" / "runs" / f"knn-{mem}-s0") for mem in (0, 65536)]
    assert lines[-1] == ["which", "tokens", "gain:", "memexp", "diff", *of_seed_0]


def test_runs_says_where_perplexities_are_of_other_text(compared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    memexp("runs", compared)
    assert "same text" not in capsys.readouterr().out
    compared.score(compared.run("other", arch="xl", mem=64, seed=9), 3.0, tokens_hash="dddd")
    memexp("runs", compared)
    assert "test ppl: not all runs on code are scored on the same text" in capsys.readouterr().out


def test_a_damaged_run_hides_no_other(compared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    runs = compared.root / "results" / "runs"
    (runs / "xl-64-s0" / "summary.json").write_text("{")
    (runs / "xl-64-s1" / "metrics.jsonl").write_text("{\n")
    (runs / "knn-512-s0" / "config.yaml").write_text("[1]")
    memexp("runs", compared)
    shown = capsys.readouterr().out
    assert shown.count("damaged ") == 3
    assert shown.count("done ") == 4
    assert f"xl-64-s0: cannot read {runs / 'xl-64-s0' / 'summary.json'}"[:150] in shown.replace("\n", " ")


def gained(fakes: Any, a: Any, b: Any, **settings: Any) -> Path:
    fakes.score(
        fakes.run("a-run", arch="xl", mem=64), a, tokens=settings.pop("tokens", None), ids=settings.get("ids", ())
    )
    run = fakes.run("b-run", mem=512)
    fakes.score(run, b, tokens=settings.pop("more", None), ids=settings.pop("ids", ()))
    folder = fakes.root / "there"
    memexp("diff", fakes, a="a", b="b", out=str(folder), **settings)
    return folder


def test_diff_prints_and_writes_what_it_found(
    fakes: Any, words: dict[int, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = gained(fakes, [[2.0, 1.0, 3.0], [4.0, 5.0]], [[1.0, 1.005, 4.0], [4.0, 4.5]])
    lines = list(csv.reader(io.StringIO((folder / "tokens.csv").read_text())))
    assert lines[0] == ["document", "position", "token", "nats_a", "nats_b", "gain"]
    assert lines[1] == ["package0", "1", "A", "2.000000", "1.000000", "1.000000"]
    assert [line[:3] for line in lines[4:]] == [["package1", "1", "A"], ["package1", "2", "B"]]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gain"] == pytest.approx(0.099, abs=1e-6)
    assert summary["helped"] == 0.4
    assert summary["hurt"] == 0.2
    assert summary["a"]["perplexity"] == pytest.approx(float(np.exp(3.0)))
    assert summary["b"]["folder"] == "test-8x8192-512-on"
    assert [one["gain"] for one in summary["documents"]] == pytest.approx([-0.005 / 3, 0.25], abs=1e-6)
    assert (folder / "gain.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (folder / "gain.svg").read_bytes()
    assert (folder / "gain.pdf").read_bytes()[:4] == b"%PDF"
    assert "<!doctype html>" in (folder / "index.html").read_text()
    shown = capsys.readouterr().out
    assert "mean gain +0.0990 nats a token" in shown
    assert "over 2 documents" in shown
    assert "40.0 % of tokens gain more than 0.01 nats, 20.0 % lose more" in shown
    assert " +1.000  2.000 -> 1.000  package0, token 1\n" in shown
    assert "«A»BC" in shown
    assert "AB«C»" in shown
    assert f"written: {folder}" in shown


def test_diff_files_are_the_same_every_time(fakes: Any, words: dict[int, bytes]) -> None:
    folder = gained(fakes, [[2.0, 1.0, 3.0], [4.0, 5.0]], [[1.0, 1.005, 4.0], [4.0, 4.5]])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    memexp("diff", fakes, a="a", b="b", out=str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_in_a_document_is_markup(
    fakes: Any, words: dict[int, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    words |= {65: b"[red]", 66: b"\x1b[31m", 67: b'"\n,', 68: b"$x_1$"}
    tokens = [[65, 66, 67, 68]]
    ids = ["$do[bold]c\n\u4e2d"]
    folder = gained(fakes, [[2.0] * 4], [[1.0] * 4], tokens=tokens, more=tokens, ids=ids)
    shown = capsys.readouterr().out
    assert "«[red]»\\x1b[31m" in shown
    assert "\x1b" not in shown
    assert "$do[bold]c\\n\u4e2d, token 1" in shown
    lines = (folder / "tokens.csv").read_text().splitlines()
    assert len(lines) == 5
    assert "$do[bold]c\\n\u4e2d: mean +1.000" in (folder / "gain.svg").read_text()
    assert [line[2] for line in csv.reader(lines)][1:] == ["[red]", "\\x1b[31m", '"\\n,', "$x_1$"]


def test_diff_without_its_corpus_warns_once(
    fakes: Any, words: dict[int, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: Path) -> None:
        raise UserError(f"{path} does not exist")

    monkeypatch.setattr(sys.modules["memexp.data.corpus"], "open_corpus", missing)
    gained(fakes, [[2.0, 1.0]], [[1.0, 1.0]])
    printed = capsys.readouterr()
    assert says("warning: ", "data/code-bpe does not exist")(printed.err)
    assert "«<65>»<66>" in printed.out


def test_diff_of_other_documents(fakes: Any, words: dict[int, bytes], tmp_path: Path) -> None:
    for name, loss in (("a-run", 3.0), ("b-run", 2.0)):
        fakes.score(fakes.run(name), loss, split="valid")
    memexp("diff", fakes, a="a", b="b", eval=Scored(split="valid"), out=str(tmp_path / "x"))
    assert (tmp_path / "x" / "gain.svg").exists()
    assert json.loads((tmp_path / "x" / "summary.json").read_text())["a"]["folder"] == "valid-8x8192-0-on"


def test_many_documents_are_plotted_in_part(
    fakes: Any, words: dict[int, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = gained(fakes, [[2.0, 1.0]] * 11, [[1.0, 1.5]] * 11)
    plot = (folder / "gain.svg").read_text()
    assert "first 8 of 11 documents" in plot
    assert [f"package{at}: mean" in plot for at in range(11)] == [True] * 8 + [False] * 3


@pytest.mark.parametrize("command", ["table", "diff", "runs"])
def test_no_command_of_reports_imports_torch(command: str) -> None:
    code = f"import sys, memexp.cli.commands.{command}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=300).returncode == 0
