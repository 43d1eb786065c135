"""How a table is written down: golden files of one fixed set of runs, and text that must not be taken for markup."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

from memexp.config.groups import Scored
from memexp.report.table.comparison import Comparison, compare
from memexp.report.table.formats import to_csv, to_latex, to_markdown
from memexp.report.table.text import lay_out
from memexp.store import folder
from memexp.store.folder import all_runs

from ...terminal import on_terminal

GOLDEN = Path(__file__).parent / "golden"
NASTY = "a|b*[red]_c_ & 100% $x$ #1 {}~^\\<i>`\n\x1b[31m"


@pytest.fixture(autouse=True)
def _in_the_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in a table name the root unless it is the default one."""
    monkeypatch.setattr(folder, "find_root", lambda _: tmp_path)


def table(fakes: Any, **options: Any) -> Comparison:
    return compare(
        fakes.root, all_runs(fakes.root), metric=options.pop("metric", "perplexity"), scored=Scored(), **options
    )


@pytest.mark.parametrize("name", ["table.md", "table.csv", "table.tex", "table.txt"])
def test_golden(compared: Any, name: str) -> None:
    """If this fails after a wanted change of the format, look at the difference and write it with GOLDEN=write."""
    compared.score(compared.run("text-s0", mem=4096, data="text"), 3.0)
    compared.run("xl-late", arch="xl", mem=64, seed=7, done=False)
    comparison = table(compared)
    written = {
        "table.md": lambda: to_markdown(lay_out(comparison)),
        "table.csv": lambda: to_csv(comparison),
        "table.tex": lambda: to_latex(lay_out(comparison)),
        "table.txt": lambda: on_terminal(lay_out(comparison), 140),
    }[name]()
    if os.environ.get("GOLDEN") == "write":
        (GOLDEN / name).write_text(written, encoding="utf-8")
    assert written == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["answers.md", "answers.csv", "answers.txt"])
def test_golden_of_answers(answered: Any, name: str) -> None:
    """Slices as columns, a gauge, and training that differs; written like the golden files above."""
    answered.run("xl-late", arch="xl", mem=64, seed=7, data="copy", done=False)
    comparison = table(answered, metric="exact_match", by="length", gauges=["gate.1"])
    written = {
        "answers.md": lambda: to_markdown(lay_out(comparison)),
        "answers.csv": lambda: to_csv(comparison),
        "answers.txt": lambda: on_terminal(lay_out(comparison), 140),
    }[name]()
    if os.environ.get("GOLDEN") == "write":
        (GOLDEN / name).write_text(written, encoding="utf-8")
    assert written == (GOLDEN / name).read_text(encoding="utf-8")


def test_csv_holds_every_seed_with_full_digits(compared: Any) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(table(compared, metric="nats")))))
    xl = [line for line in lines if line["row"] == "xl-64-64-0"]
    assert [(line["seed"], float(line["value"]), float(line["mean"]), line["n"]) for line in xl] == [
        ("0", 3.5, 3.5625, "2"),
        ("1", 3.625, 3.5625, "2"),
    ]
    assert xl[0]["command"] == "memexp train arch=xl mem=64 data=code seed=0"
    assert all(None not in line and None not in line.values() for line in lines)  # as many fields as names


def test_an_unfilled_memory_is_marked_and_explained(compared: Any) -> None:
    text = to_markdown(lay_out(table(compared)))
    assert re.findall(r"†\d+\.\d+", text) == ["†24.23"]
    assert "(knn-4096-s0 50 % full at most)" in text


def test_a_memory_that_was_off_is_no_unfilled_one(compared: Any) -> None:
    run = next(run for run in all_runs(compared.root) if run.name == "xl-64-s0")
    compared.score(run, 3.9, memory="off", memory_fill=0.0)
    assert lay_out(table(compared)).lines[2][3] == "memory off"
    assert not any("†" in text for text in lay_out(table(compared)).lines[2])


def test_a_memory_not_filled_in_training_is_named(compared: Any) -> None:
    compared.score(compared.run("knn-big", mem=65536, summary={"memory_fill": 0.25}), 3.0)
    assert any(
        "The memory never filled in training (knn-big 25 % full at most)" in note
        for note in lay_out(table(compared)).notes
    )


def test_missing_cells_print_a_dash_and_the_command(compared: Any) -> None:
    compared.score(compared.run("knn-1024-s0", mem=1024), 3.3, split="valid")
    grid = lay_out(table(compared))
    assert grid.lines[3][4:9] == ["–", "", "", "", ""]
    assert grid.missing == [
        ("knn-1024-s0 on code (it has valid-8x8192-1024-on)", "memexp eval knn-1024-s0 eval.split=test")
    ]
    assert "`memexp eval knn-1024-s0 eval.split=test`" in to_markdown(grid)
    assert "memexp eval knn-1024-s0 eval.split=test" in on_terminal(lay_out(table(compared)), 200)


def test_nothing_in_a_setting_is_markup(fakes: Any) -> None:
    fakes.score(fakes.run("one", arch="xl", mem=64, settings={"data.tokenizer.path": NASTY}), 3.0)
    fakes.score(fakes.run("two", arch="xl", mem=64, settings={"data.tokenizer.path": None}), 3.0)
    comparison = table(fakes)
    grid = lay_out(comparison)
    shown = "data.tokenizer.path=a|b*[red]_c_ & 100% $x$ #1 {}~^\\<i>`\\n\\x1b[31m"
    assert shown in on_terminal(lay_out(comparison), 250)
    assert "…" not in on_terminal(lay_out(comparison), 80)
    assert "a\\|b\\*\\[red\\]\\_c\\_ & 100% $x$ \\#1 {}\\~^\\\\\\<i\\>\\`\\\\n\\\\x1b\\[31m" in to_markdown(grid)
    latex = to_latex(grid)
    assert r"a|b*[red]\_c\_ \& 100\% \$x\$ \#1 \{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in latex
    for text in (to_csv(comparison), latex, to_markdown(grid)):
        assert "\x1b" not in text
        assert "a|b\n" not in text
    lines = to_csv(comparison).splitlines()
    assert len({len(line) for line in csv.reader(lines)}) == 1
    assert len(lines) == 3


def test_a_column_of_every_markdown_line(compared: Any) -> None:
    lines = [line for line in to_markdown(lay_out(table(compared))).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert len(lines) == 2 + 6


@pytest.mark.parametrize(("width", "left_out"), [(110, None), (84, "tokens/s"), (64, "±, params, tokens/s")])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    compared: Any, width: int, left_out: str | None
) -> None:
    shown = on_terminal(lay_out(table(compared)), width)
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    assert all(number in shown for number in ("45.35", "†24.23", "8,192", "-46.5", "baseline"))
    assert (f"No room here for: {left_out};" in shown) if left_out else ("0.73M" in shown and "No room" not in shown)
