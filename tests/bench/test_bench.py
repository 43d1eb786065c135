"""The command at miniature size."""

import json
from pathlib import Path

import pytest
import torch

from memexp.bench import search, startup
from memexp.bench.work import Work
from memexp.cli import bench
from memexp.cli.main import main
from memexp.config import BENCHES, BenchConfig
from memexp.model.search import Neighbours
from memexp.report.text import markdown


def test_every_bench_runs_and_its_figures_are_written(miniature: Work, tmp_path: Path, monkeypatch, capsys) -> None:
    archs = ["vanilla", "rmt", "thought"]
    monkeypatch.setattr(bench, "choices_of", lambda group: archs)  # all of them take long, even at this size
    monkeypatch.setattr(startup, "LIMITS", {"memexp --help": 0.5})  # the other one takes a second
    monkeypatch.setenv("COLUMNS", "250")  # no cell is folded
    assert main(["bench", "repeats=1", "slots=256", f"root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "results" / "bench"
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.md"]
    found = json.loads((folder / "bench.json").read_text())
    assert found["settings"] == {"what": list(BENCHES), "repeats": 1, "slots": 256}
    assert found["work"]["segment"] == miniature.segment
    assert found["machine"]["torch"] == torch.__version__
    assert len(found["figures"]) == 13 + len(archs)
    text = (folder / "bench.md").read_text()
    for figure in found["figures"]:
        assert len(figure["ours_measured"]) == len(figure["other_measured"]) == 1
        assert figure["other_measured"][0] > 0
        assert figure["ours"] in out and markdown(figure["ours"]) in text
    for name in BENCHES:
        assert f"{name}: round 1 of 1" in out


def test_some_benches_leave_the_file_of_all_alone(miniature: Work, tmp_path: Path) -> None:
    assert main(["bench", "write", "search", "repeats=2", "slots=256", f"root={tmp_path}"]) == 0
    folder = tmp_path / "results" / "bench"
    assert sorted(path.name for path in folder.iterdir()) == ["search-write.json", "search-write.md"]
    figures = json.loads((folder / "search-write.json").read_text())["figures"]
    assert [len(figure["ours_measured"]) for figure in figures] == [2, 2, 2, 2]


def test_an_unknown_bench_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    assert main(["bench", "serch", f"root={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        "'serch'" in error
        and "search, write, step, archs, memory, startup" in error
        and "did you mean search?" in error
    )
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_finds_other_scores_is_not_timed(miniature: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(queries, ring, neighbours) -> Neighbours:
        found = search_exact(queries, ring, neighbours)
        return found._replace(slots_BHTk=(found.slots_BHTk + 1) % 256)

    search_exact = search.exact
    monkeypatch.setattr(search, "exact", wrong)
    with pytest.raises(AssertionError):
        search.measure(BenchConfig(repeats=1, slots=256), miniature, lambda what: None)
