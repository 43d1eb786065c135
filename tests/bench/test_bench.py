"""The command at miniature size."""

import json
import sys
from pathlib import Path

import pytest
import torch

from memexp.bench import curve, search, startup
from memexp.bench.measurement import Figure
from memexp.bench.others import peers
from memexp.bench.workload import Work
from memexp.cli.commands import bench
from memexp.cli.main import main
from memexp.config.commands import BENCHES, BenchConfig
from memexp.model.knn_memory.selection import Neighbours
from memexp.report.escape import markdown

from ..messages import says
from ..tiny import configure


@pytest.mark.hard
def test_every_bench_runs_and_its_figures_are_written(miniature: Work, tmp_path: Path, monkeypatch, capsys) -> None:
    archs = ["vanilla", "rmt", "thought"]
    monkeypatch.setattr(bench, "choices_of", lambda group: archs)  # all of them take long, even at this size
    monkeypatch.setattr(startup, "LIMITS", {"memexp --help": 0.5})  # the other one takes a second
    monkeypatch.setenv("COLUMNS", "250")  # no cell is folded
    assert main(["bench", "repeats=1", "slots=256", f"root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "results" / "bench"
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.md", "curve.svg"]
    found = json.loads((folder / "bench.json").read_text())
    asked = [name for name in BENCHES if name not in ("peers", "checkpoint", "gpu", "devices")]
    assert found["settings"] == {"what": asked, "repeats": 1, "slots": 256}
    assert found["machine"]["floors"]["memory read, GB/s"] > 0
    assert found["work"]["segment"] == miniature.segment
    assert found["machine"]["torch"] == torch.__version__
    assert len(found["figures"]) == 24 + len(archs)
    text = (folder / "bench.md").read_text()
    for figure in found["figures"]:
        assert len(figure["ours_measured"]) == len(figure["other_measured"]) == 1
        assert figure["other_measured"][0] > 0
        assert figure["ours"] in out
        assert markdown(figure["ours"]) in text
    for name in asked:
        assert any(line.startswith(f"{name}: ") and line.endswith("round 1 of 1") for line in out.splitlines())


def test_some_benches_leave_the_file_of_all_alone(miniature: Work, tmp_path: Path) -> None:
    assert main(["bench", "write", "search", "repeats=2", "slots=256", f"root={tmp_path}"]) == 0
    folder = tmp_path / "results" / "bench"
    assert sorted(path.name for path in folder.iterdir()) == ["search-write.json", "search-write.md"]
    figures = json.loads((folder / "search-write.json").read_text())["figures"]
    assert [len(figure["ours_measured"]) for figure in figures] == [2] * 6


def test_an_unknown_bench_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    assert main(["bench", "serch", f"root={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'serch'" in error
    assert "search, curve, write, step, evaluation, archs, memory, startup, peers" in error
    assert "did you mean search?" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.hard
def test_a_plan_is_arithmetic_over_the_state_itself(tmp_path: Path, capsys) -> None:
    """2 x 8 heads x (262,144 slots + 512 of slack) x 128 numbers of 4 or 2 bytes a lane; twice as much does not fit."""
    assert main(["bench", "--plan", f"root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    numbers = 32 * 2 * 8 * (262_144 + 512) * 128
    for size, stored in ((4, "fp32"), (2, "bf16")):
        [line] = [line for line in out.splitlines() if line.strip().startswith(f"rings, {stored}")]
        assert float(line.split()[2]) == pytest.approx(numbers * size / 1e9, rel=1e-3)
    assert next(line.split()[-6:-3] for line in out.splitlines() if "together" in line) != []
    assert list(tmp_path.iterdir()) == []


def test_peers_that_are_not_installed_are_asked_for(miniature: Work, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENT", "nowhere")
    assert main(["bench", "peers", f"root={tmp_path}"]) == 2
    assert "make bench-peers" in capsys.readouterr().err


def test_a_peer_is_measured_step_by_step(miniature: Work, tmp_path: Path, monkeypatch) -> None:
    """A program that answers with a time for each line, as the real one does."""
    program = tmp_path / "peer.py"
    program.write_text("import sys\nfor line in sys.stdin: print(1000.0, flush=True)\n")
    python = tmp_path / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(peers, "PROGRAM", program)
    monkeypatch.setattr(peers.sys, "prefix", str(tmp_path / "ours"))
    monkeypatch.setattr(peers, "ENVIRONMENT", "peers")
    found = peers.measure(BenchConfig(repeats=2, slots=256), miniature, lambda what: None)
    assert [figure.other_measured for figure in found] == [[1000.0, 1000.0]] * 3
    assert [len(figure.ours_measured) for figure in found] == [2] * 3
    assert all(seconds > 0 for figure in found for seconds in figure.ours_measured)
    assert found[0].met


def test_the_slope_of_a_curve_is_the_power_it_grows_with() -> None:
    figures = [
        Figure(f"curve: {n}", "a", "b", "s", [n**0.7], [1.0], facts={"slots": n, "scores + topk, s": 1.0})
        for n in (10, 1000, 5000)
    ]
    assert curve.slope(figures) == pytest.approx(0.7)


def test_a_search_that_finds_other_scores_is_not_timed(miniature: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(queries, ring, neighbours) -> Neighbours:
        found = search_exact(queries, ring, neighbours)
        return found._replace(slots_BHTk=(found.slots_BHTk + 1) % 256)

    search_exact = search.exact
    monkeypatch.setattr(search, "exact", wrong)
    with pytest.raises(AssertionError):
        search.measure(BenchConfig(repeats=1, slots=256), miniature, lambda what: None)


def test_work_is_what_operations_do() -> None:
    from memexp.bench.archs import _Work

    table, chosen = torch.rand(100, 8), torch.tensor([3, 5])
    lower, right = torch.rand(6, 6).tril() + torch.eye(6), torch.rand(6, 4)
    with _Work() as work:
        table.sum()
        table[:50].mT.unsqueeze(0)  # a view moves nothing
    assert work.moved == 4 * (800 + 1)
    with _Work() as work:
        table.index_select(0, chosen)  # of a table, what is chosen
    assert work.moved == 4 * 2 * 2 * 8
    with _Work() as work:
        torch.linalg.solve_triangular(lower, right, upper=False)
    assert (work.flops, work.moved) == (6 * 6 * 4, 4 * (36 + 2 * 24))


def test_attention_counts_on_a_cpu_too(miniature: Work) -> None:
    """Each further token of cache costs a product with a key and one with a value, three times."""
    from memexp.bench import archs
    from memexp.bench.workload import settings_of, step_of

    counted = []
    for mem in (64, 128):
        config = settings_of(configure("arch=xl", "arch.position=none").arch, mem=mem, work=miniature)
        step = step_of(config, work=miniature)
        for _ in range(mem // miniature.segment):  # until the cache is full
            step()
        counted.append(archs._facts(config, miniature, step)["MFLOP a token, trained"] * 1e6)
    inner = miniature.heads * miniature.head_size
    assert counted[1] - counted[0] == pytest.approx(12 * miniature.layers * inner * 64, rel=0.2)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("checkpoint", "checkpoint not given"), ("checkpoint=x", "what is not given"), ("search checkpoint=x", "what is search and"),
        ("checkpoint search checkpoint=x", "checkpoint runs alone"), ("gpu checkpoint=x", "what is gpu and"),
        ("checkpoint checkpoint=x/y/z", "which is no folder"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_measured_alone_and_must_be_named(words: str, seen: str, tmp_path: Path, capsys) -> None:
    assert main(["bench", *words.split(), f"root={tmp_path}"]) == 2
    assert says("memexp bench: ", seen, "expected")(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
