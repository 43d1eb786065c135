"""The checks of a GPU at sizes that a CPU can do, where it takes the place of the GPU."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memexp.bench.gpu import device, isolated, search, suite, training, values
from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.isolated import Check
from memexp.bench.measurement import Figure
from memexp.cli.main import main
from memexp.config.commands import GPU_CHECKS, BenchConfig
from memexp.config.introspection import choices_of
from memexp.machine import PARENT
from memexp.model.knn_memory import scores_plain
from memexp.model.transformer.position import ByDistance
from memexp.report.escape import markdown

from . import planted

TINY = Ground(
    device="cpu", memory=8 << 30, large=("size=tiny",), small=("size=tiny",), lanes=2, slots=(64, 256), heads=2,
    head_size=16, length=8, neighbours=4, searches=("plain",), compiled=False, square=64, copied=1 << 20, jobs=2, kernels=10**6,
    tokens=8, repeats=2,
)  # fmt: skip


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Ground:
    """`memexp bench gpu` then takes the CPU, and this process, because others take seconds to load torch."""

    def run(check: Check, ground: Ground, *, seconds: float) -> Iterator[Figure]:
        return check.measure(ground)

    monkeypatch.setattr(suite, "the_ground", lambda config: TINY)
    monkeypatch.setattr(isolated, "run", run)
    return TINY


@pytest.mark.hard
def test_every_check_ends_with_its_figures_and_they_are_kept(
    on_a_cpu: Ground, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    code = main(["bench", "gpu", "minutes=600", f"root={tmp_path}"])
    shown = capsys.readouterr()
    folder = tmp_path / "results" / "bench"
    assert sorted(path.name for path in folder.iterdir()) == ["gpu.json", "gpu.md"]
    found = json.loads((folder / "gpu.json").read_text())
    assert found["work"]["slots"] == list(TINY.slots)
    figures = {figure["what"]: figure for figure in found["figures"]}
    text = (folder / "gpu.md").read_text()
    assert [what for what in figures if markdown(what) not in text or what not in shown.out] == []
    assert [figure["what"] for figure in found["figures"] if figure["unmeasured"]] == []
    # a CPU computes what it is compared with; only times may differ
    missed = [figure for figure in found["figures"] if figure["met"] is False]
    assert {figure["unit"] for figure in missed} <= {"s"}
    assert (code, bool(missed)) in ((0, False), (2, True))
    assert all(figure["what"] in shown.err for figure in missed)
    begun = [line.split(": ")[1].split(",")[0] for line in shown.out.splitlines() if ", at most " in line]
    assert begun == list(GPU_CHECKS)
    for arch in choices_of("arch"):
        for kind in ("losses", "gradients"):
            assert figures[f"{kind} of {arch}, fp32"]["ours_measured"] == [0.0]


@pytest.mark.hard
def test_a_check_is_run_in_a_process_of_its_own() -> None:
    figures = list(isolated.run(suite.CHECKS[0], TINY, seconds=600))
    assert [figure.unit for figure in figures] == ["B/s", "FLOP/s"]
    assert not any(figure.failed for figure in figures)


def test_some_checks_are_run_by_name(on_a_cpu: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(check: Check, ground: Ground, *, seconds: float) -> Iterator[Figure]:
        assert ground is TINY
        seen.append(check.name)
        yield planted.GOOD

    monkeypatch.setattr(isolated, "run", run)
    suite.measure(BenchConfig(what=["gpu"], only=["jobs", "search"]), None, lambda what: None)  # type: ignore[arg-type]
    assert seen == ["search", "jobs"]
    seen.clear()
    suite.measure(BenchConfig(what=["gpu"]), None, lambda what: None)  # type: ignore[arg-type]
    assert seen == list(GPU_CHECKS)


def test_some_checks_leave_the_record_of_all_as_it_is(
    on_a_cpu: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "run", lambda check, ground, *, seconds: iter([planted.GOOD]))
    for words in ([], ["only=[jobs,search]"], ["only=[rates]", "minutes=3"]):
        assert main(["bench", "gpu", *words, f"root={tmp_path}"]) == 0
    folder = tmp_path / "results" / "bench"
    kept = {path.name: json.loads(path.read_text())["settings"] for path in folder.glob("*.json")}
    assert {name: (settings["only"], settings["minutes"]) for name, settings in kept.items()} == {
        "gpu.json": ([], 11), "gpu-jobs-search.json": (["jobs", "search"], 11), "gpu-rates.json": (["rates"], 3),
    }  # fmt: skip


def test_without_a_gpu_one_line_says_so(tmp_path: Path, capsys) -> None:
    assert main(["bench", "gpu", f"root={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "there is no GPU" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [(["gpu", "search"], "search"), (["only=[search]"], "only"), (["write", "minutes=3"], "minutes")],
)
def test_settings_of_the_other_benches_are_refused(words: list[str], named: str, tmp_path: Path, capsys) -> None:
    assert main(["bench", *words, f"root={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert "bench gpu" in error


@pytest.mark.hard
def test_a_faulty_check_does_not_lose_the_others() -> None:
    """One raises, one has wrong values, one dies, one hangs: what was measured before stays, and the next one runs."""
    checks = [Check(each.__name__, each, 60) for each in (planted.raises, planted.wrong, planted.dies)]
    checks += [Check("hangs", planted.hangs, 3), Check("good", planted.good, 60)]
    before = os.environ.get(PARENT)
    said: list[str] = []
    figures = suite.run_checks(checks, TINY, BenchConfig(), said.append)
    assert os.environ.get(PARENT) == before
    assert [(figure.what, figure.met) for figure in figures] == [
        ("good", True), ("raises", False), ("values", False), ("good", True), ("dies", False), ("child", None),
        ("hangs", False), ("good", True),
    ]  # fmt: skip
    raised, died, hung = (figure.unmeasured for figure in figures if figure.failed)
    assert "RuntimeError: no kernel is there (planted.py:" in raised
    assert "code 7" in died
    assert "stopped after 3 s" in hung
    assert all("\n" not in line for line in said)
    assert ends(int(figures[5].ours_measured[0]))


def ends(process: int) -> bool:
    """Whether a process ends within some time; nobody may have asked for its exit code yet."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_checks_for_which_no_time_is_left_are_named() -> None:
    figures = suite.run_checks([Check("late", planted.good, 60)], TINY, BenchConfig(minutes=-1), lambda what: None)
    assert [(figure.what, figure.met) for figure in figures] == [("late", None)]
    assert "left out" in figures[0].unmeasured


def test_a_failed_figure_is_in_the_table_and_the_record(on_a_cpu: Ground, tmp_path: Path, monkeypatch, capsys) -> None:
    def run(check: Check, ground: Ground, *, seconds: float) -> Iterator[Figure]:
        yield planted.GOOD
        yield Figure.without("a | b", "failed: no kernel", failed=True)
        yield Figure.without("c", "left out: too large")

    monkeypatch.setattr(isolated, "run", run)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["bench", "gpu", "only=[rates]", f"root={tmp_path}"]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "1 of 3 figures" in shown.err
    assert "a | b" in shown.err
    folder = tmp_path / "results" / "bench"
    for text in (shown.out, (folder / "gpu-rates.md").read_text()):
        assert "failed: no kernel" in text
        assert "left out: too large" in text
    found = json.loads((folder / "gpu-rates.json").read_text())
    assert [figure["met"] for figure in found["figures"]] == [True, False, None]
    assert found["machine"]["floors"] == {}


def of(figures: Iterator[Figure], start: str) -> Figure:
    """The first figure whose name begins so."""
    return next(figure for figure in figures if figure.what.startswith(start))


def test_a_search_with_other_pairs_is_not_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "LEAST", 0.0)
    ground = replace(TINY, slots=(64,))
    assert of(search.search(ground), "scores of").met

    class Wrong:
        """Scores that are larger for a slot that is not the best."""

        APART = scores_plain.APART
        factors, maxima = staticmethod(scores_plain.factors), staticmethod(scores_plain.maxima)
        moved, held = staticmethod(scores_plain.moved), staticmethod(scores_plain.held)

        @staticmethod
        def best(queries, *given):
            return scores_plain.best(-queries, *given)

    monkeypatch.setitem(search.MODULES, "plain", Wrong)
    figure = of(search.search(ground), "scores of")
    assert figure.met is False
    assert figure.ours_measured[0] > values.BIAS


@pytest.mark.hard
def test_lanes_and_sizes_that_do_not_fit_are_left_out() -> None:
    key_bytes = TINY.heads * 256 * TINY.head_size * 4
    ground = replace(TINY, memory=int(1.5 * key_bytes / search.KEYS_SHARE), slots=(256, 1024))
    figures = list(search.search(ground))
    assert "1 lanes" in figures[0].what
    assert figures[-1].unmeasured.startswith("left out")
    assert "1,024" in figures[-1].what
    for check, number in ((training.step, 2), (training.checkpoint, 1)):
        figures = list(check(replace(TINY, memory=1000)))
        assert [figure.met for figure in figures] == [None] * number
        assert all(figure.unmeasured.startswith("left out") for figure in figures)


def test_a_gradient_of_the_bias_that_is_not_the_sum_is_not_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "LEAST", 0.0)
    assert of(values.bias(TINY), "gradient of").met
    dense = ByDistance.dense
    monkeypatch.setattr(ByDistance, "dense", lambda self, *rows: dense(self, *rows).roll(1, -1))
    assert of(values.bias(TINY), "gradient of").met is False


@pytest.mark.hard
def test_steps_with_other_values_are_not_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two equal runs has another seed: the device would compute something else."""
    monkeypatch.setattr(values, "choices_of", lambda group: ["vanilla"])
    assert [figure.met for figure in values.archs(TINY)] == [True, True]
    two_steps, number = values._two_steps, iter(range(2))
    monkeypatch.setattr(values, "_two_steps", lambda config: two_steps(replace(config, seed=next(number))))
    assert [figure.met for figure in values.archs(TINY)] == [False, False]
    assert values._largest([1.0, float("nan"), 0.0]) != values._largest([1.0, float("nan"), 0.0])


@pytest.mark.hard
def test_a_memory_that_is_lost_in_a_resume_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [figure.met for figure in training.checkpoint(TINY)] == [True] * 4
    opened, number = training.open_session, iter(range(2))

    def forgetful(spec):
        session = opened(spec)
        if next(number):
            for ring in session.state.memory:
                if hasattr(ring, "keys_BHRK"):
                    ring.keys_BHRK[..., -1, :].zero_()
        return session

    monkeypatch.setattr(training, "open_session", forgetful)
    assert [figure.met for figure in training.checkpoint(TINY)][2] is False


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.hard
def test_a_compiled_step_is_measured_beside_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that compiles nothing."""
    from memexp.train import session

    compile_layers, calls = session.compile_layers, []

    def eager(model, **options):
        calls.append(model)
        return compile_layers(model, backend="eager", **options)

    monkeypatch.setattr(device, "LEAST", 0.0)
    monkeypatch.setattr(session, "compile_layers", eager)
    figures = list(training.step(replace(TINY, compiled=True)))
    assert len(calls) == 1
    each = ["its products in half precision", "without memory", "wanted"]
    assert [figure.other for figure in figures] == [*each, "not compiled", *each]
    assert figures[2].ours_measured == [figures[0].facts["kernels"]]
    assert "scaled_dot_product" in figures[0].note or "Attention" in figures[0].note
    assert figures[0].facts["kernels"] > 100


def test_waits_of_the_host_are_counted_by_their_lines() -> None:
    def work() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    seen = device.waits_of(work, "cpu")
    assert seen.total() == 3
    assert [place.split(":")[0] for place in seen] == ["bench/test_gpu.py"]


def test_the_floor_is_the_larger_of_moving_and_multiplying() -> None:
    rates = device.Rates(copied=100.0, half=10.0, full=1.0)
    assert rates.floor(bytes=50, operations=1) == 0.5
    assert rates.floor(bytes=50, operations=20) == 2.0
    assert device.rates(TINY).copied > 0


@pytest.mark.gpu
def test_a_wait_of_the_host_on_a_gpu_is_seen() -> None:
    number = torch.zeros((), device="cuda")
    assert device.waits_of(lambda: float(number), "cuda").total() == 1
    assert device.waits_of(lambda: number + 1, "cuda").total() == 0
