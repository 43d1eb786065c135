"""Runs whose perplexity is larger than any number: every command shows them, and no file holds NaN or Infinity."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from memexp.cli.main import main
from memexp.eval.evaluate import means
from memexp.files import as_json, read_sealed, write_sealed
from memexp.report.statistics import Spread
from memexp.train.metrics_file import MetricsFile
from memexp.wording import number, percent_of, perplexity_of

Diverged = Callable[[Any], None]


def strict(text: str) -> Any:
    """JSON as other programs read it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def as_now(fakes: Any) -> None:
    """As this version scores it."""
    fakes.score(fakes.run("xl-64-s1", arch="xl", mem=64, seed=1), 900.0, perplexity=None)


def as_before(fakes: Any) -> None:
    """As older versions did."""
    fakes.score(fakes.run("xl-64-s1", arch="xl", mem=64, seed=1), 900.0, perplexity=math.inf)


@pytest.mark.parametrize("made", [as_now, as_before], ids=["null", "Infinity"])
@pytest.mark.parametrize("command", [("runs",), ("table",), ("table", "metric=nats"), ("diff", "a", "xl-64-s1")])
def test_a_diverged_run_is_called_diverged(
    made: Diverged, command: tuple[str, ...], fakes: Any, words: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    fakes.score(fakes.run("a", arch="vanilla"), 3.0)
    fakes.score(fakes.run("xl-64-s0", arch="xl", mem=64), 3.5)
    made(fakes)
    assert main([*command, f"root={fakes.root}"]) == 0
    printed = capsys.readouterr().out
    assert "edited" not in printed
    assert "inf" not in printed.lower().split()
    assert "nan" not in printed.lower().split()
    if "metric=nats" not in command:
        assert "diverged" in printed
    for path in (fakes.root / "results").rglob("*"):
        text = path.read_text() if path.suffix in (".json", ".csv", ".md", ".tex", ".html") else ""
        if path.suffix == ".json" and "runs" not in path.parts:  # the fake runs are as older versions wrote them
            strict(text)
        if path.suffix in (".csv", ".md", ".tex"):
            assert "inf" not in text.replace(",", " ").split()


def test_the_mean_with_a_diverged_seed_has_diverged(fakes: Any) -> None:
    assert Spread.of([3.0, math.inf]) == Spread(math.inf, None, 2)


@pytest.mark.parametrize("nats", [-1.0, 0.0, 5.0, 700.0, 709.9, 1e4, math.inf])
def test_every_loss_has_a_perplexity_in_words(nats: float) -> None:
    assert number(perplexity_of(nats), 2)
    assert percent_of(nats) >= -100
    assert strict(as_json(means(np.full(3, nats), [b"abc"])).decode())["tokens"] == 3


def test_numbers_in_words() -> None:
    shown = [number(value, 2) for value in (None, math.inf, math.nan, 1234.5, 1e12)]
    assert shown == ["diverged", "diverged", "diverged", "1,234.50", "1.00e+12"]
    assert number(3.0, 1, sign="+") == "+3.0"


def test_nothing_that_is_written_holds_what_is_no_json(tmp_path: Path) -> None:
    content = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.0, "e": (2.0, math.nan)}
    write_sealed(tmp_path / "sealed.json", content)
    assert read_sealed(tmp_path / "sealed.json") == {"a": None, "b": [None, {"c": None}], "d": 1.0, "e": [2.0, None]}
    file = MetricsFile(tmp_path / "metrics.jsonl", upto=0)
    file.append({"step": 1, "gauges": {"gate": math.nan}})
    file.close()
    strict((tmp_path / "sealed.json").read_text())
    assert strict((tmp_path / "metrics.jsonl").read_text())["gauges"] == {"gate": None}


@pytest.mark.parametrize("damage", ["lock", "config.yaml", "metrics.jsonl", "summary.json"])
@pytest.mark.parametrize("words", [("runs",), ("runs", "tag=mine"), ("table",), ("table", "tag=mine")])
def test_a_run_that_cannot_be_read_hides_no_other(
    damage: str, words: tuple[str, ...], fakes: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    fakes.score(fakes.run("good", arch="vanilla", tag="mine"), 3.0)
    bad = fakes.run("bad", arch="xl", mem=64, tag="mine", done=damage == "summary.json")
    if damage == "lock":
        (bad.path / "lock").mkdir()
    else:
        (bad.path / damage).write_bytes(b"\xff\xfe: [\n")
    assert yaml.safe_load((fakes.root / "results" / "runs" / "good" / "config.yaml").read_text())["tag"] == "mine"
    assert main([*words, f"root={fakes.root}"]) == 0
    printed = capsys.readouterr().out
    assert "vanilla" in printed or "good" in printed
    assert "bad" in printed
    assert damage in printed
