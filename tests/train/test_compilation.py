"""Compiled layers give the same losses and gradients in every architecture, and are compiled a few times at most."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from memexp.errors import UserError
from memexp.eval.score import score_documents
from memexp.model.build import build_model
from memexp.model.transformer.attention import SelfAttention
from memexp.model.transformer.decoder import DecoderLayer
from memexp.train import compilation
from memexp.train.compilation import (
    asked_to_compile,
    compile_layers,
    is_compiled,
    missing_compiler,
    pays_to_compile,
)
from memexp.train.loop import update

from ..contract.conftest import ARCHS
from ..messages import says
from ..tiny import configure
from .conftest import Train, losses
from .test_update import SEGMENT, VOCABULARY, documents, open_session

# what PyTorch's compiler does to itself
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TOLERANCE = 1e-5
"""Of losses and gradients, relative: fp32 sums in another order."""


def trained(arch: str, *settings: str, backend: str | None, tmp_path: Any) -> tuple[list[float], list[torch.Tensor]]:
    """Losses and last gradients of three steps with resets, padding and dropout."""
    config = configure(
        f"arch={arch}", f"segment={SEGMENT}", "lanes=3", "accumulate=2", "arch.dropout=0.2",
        "size.attention.scale=4", "size.attention.key_smear=true", "size.memory=40", *settings,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(config, vocabulary=VOCABULARY)
    if backend is not None:
        compile_layers(model, backend=backend)
    session = open_session(config, model, documents(40, 29, 50, 13), tmp_path)
    torch.manual_seed(1)
    found = [update(session).loss for _ in range(3)]
    return found, [each.grad for each in model.parameters() if each.grad is not None]


def assert_same(arch: str, *settings: str, backend: str, tmp_path: Any) -> None:
    torch._dynamo.reset()
    counters.clear()
    expected, gradients = trained(arch, *settings, backend=None, tmp_path=tmp_path)
    assert not counters["stats"]
    found, compiled = trained(arch, *settings, backend=backend, tmp_path=tmp_path)
    assert found == pytest.approx(expected, rel=TOLERANCE)
    for ours, theirs in zip(compiled, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=1e-6)
    assert not counters["graph_break"]
    model = build_model(configure(f"arch={arch}"), vocabulary=VOCABULARY)
    kinds = {(type(module), method) for module in model.modules() for method in getattr(module, "compilable", {})}
    assert len(kinds) <= counters["stats"]["unique_graphs"] <= 8  # all layers and steps share them
    assert kinds


EVERY_COMMIT = ("vanilla",)
"""The others take longer to compile."""


@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[] if arch in EVERY_COMMIT else pytest.mark.hard) for arch in ARCHS]
)
def test_losses_are_the_same(arch: str, tmp_path: Any) -> None:
    assert_same(arch, backend="aot_eager", tmp_path=tmp_path)


def test_weights_that_are_shared_out_are_not_compiled_by_themselves() -> None:
    settings = ["arch=vanilla", "compile=auto"]
    model = build_model(configure(*settings), vocabulary=VOCABULARY)
    whole, shared = (configure(*settings, f"shard_weights={shared}") for shared in ("false", "true"))
    assert asked_to_compile(model, whole, torch.device("cuda"))
    assert not asked_to_compile(model, shared, torch.device("cuda"))


@pytest.mark.hard
@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_is_compiled_again(arch: str, tmp_path: Any) -> None:
    """Neither in later segments, in which documents end, nor in an evaluation after the first, nor in training after it."""
    torch._dynamo.reset()
    counters.clear()
    config = configure(
        f"arch={arch}", f"segment={SEGMENT}", "lanes=3", "size.memory=40", "size.attention.key_smear=true"
    )
    torch.manual_seed(0)
    model = build_model(config, vocabulary=VOCABULARY)
    if not model.fixed_shapes:
        assert not pays_to_compile(model, torch.device("cuda"))
        pytest.skip("compile=auto does not compile it")
    compile_layers(model, backend="eager")
    session = open_session(config, model, documents(40, 29, 50, 13), tmp_path)

    def graphs_after(work: Callable[[], object]) -> int:
        work()
        return counters["stats"]["unique_graphs"]

    def train() -> None:
        model.train()
        for _ in range(3):
            update(session)

    def evaluate() -> None:
        score_documents(model, documents(33, 21, 5), lanes=2, max_document=0)

    assert pays_to_compile(model, torch.device("cuda"))
    first = graphs_after(train)
    assert 0 < first == graphs_after(train)
    with_evaluation = graphs_after(evaluate)
    assert with_evaluation <= 2 * first
    assert with_evaluation == graphs_after(evaluate) == graphs_after(train)
    assert not counters["graph_break"]


@pytest.mark.hard
@pytest.mark.parametrize("settings", [("recompute=true",), ("precision=bf16",)], ids=["recompute", "bf16"])
def test_together_with(settings: tuple[str, ...], tmp_path: Any) -> None:
    assert_same("knn", *settings, backend="aot_eager", tmp_path=tmp_path)


@pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="needs a C++ compiler")
@pytest.mark.hard
def test_with_generated_code(tmp_path: Any) -> None:
    assert_same("knn", backend="inductor", tmp_path=tmp_path)


def test_layers_that_declare_nothing_to_compile_are_told(
    run: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for layer in (SelfAttention, DecoderLayer):
        monkeypatch.setattr(layer, "compilable", {})
    for module in ("compilation", "remarks"):
        monkeypatch.setattr(f"memexp.train.{module}.missing_compiler", lambda device: None)
    run("compile=true")
    assert (
        "compile=true has no effect: the layers of arch=vanilla declare nothing to compile" in capsys.readouterr().err
    )


def test_without_a_compiler_it_trains_all_the_same(
    run: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "absent++")
    found = run("compile=true")
    assert capsys.readouterr().err.count("compile=true has no effect: a C++ compiler (absent++) was not found") == 1
    assert len(losses(found))
    assert run("compile=false").path == found.path


def _fault(kind: str, *arguments: Any) -> Exception:
    from torch._inductor import exc  # late: it takes seconds

    fault: Exception = getattr(exc, kind)(*arguments)
    return fault


FAULTS = {
    "GTX 1080": ("GPUTooOldForTriton", SimpleNamespace(name="NVIDIA GeForce GTX 1080", major=6, minor=1), None),
    "Triton": ("TritonMissing", None),
    "no Python.h": ("CppCompileError", ["g++"], "x.cpp:1:1: fatal error: no Python.h"),
}
"""What is said of a fault of a compiler, and the error that it is."""


@pytest.mark.hard
@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_of_a_compiler_ends_a_run_only_if_compiling_was_asked_for(
    said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise _fault(*FAULTS[said])

    def updates(**options: bool) -> list[float]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = build_model(config, vocabulary=VOCABULARY)
        if options:
            compile_layers(model, **options)
            assert is_compiled(model)
        session = open_session(config, model, documents(40, 29, 50, 13), tmp_path)
        torch.manual_seed(1)
        found = [update(session).loss for _ in range(2)]
        assert not is_compiled(model)
        return found

    config = configure("arch=vanilla", f"segment={SEGMENT}", "lanes=3", "arch.dropout=0.2")
    monkeypatch.setattr("torch._inductor.scheduler.Scheduler.create_backend", fail)
    plain = updates()
    assert updates(asked=False) == plain
    [line] = capsys.readouterr().err.splitlines()
    assert says("warning: compile=auto has no effect", said)(line)
    with pytest.raises(UserError, check=says("torch.compile", said, "expected", "compile=false")):
        updates(asked=True)


def test_a_gpu_for_which_there_are_no_kernels_is_known_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(compilation, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(name="NVIDIA GeForce GTX 1080", total_memory=8 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert says("compute capability 7.0", "GTX 1080 has 6.1")(str(missing_compiler(cuda)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert "capability" not in str(missing_compiler(cuda))


BROKEN = {
    "is no compiler": ("exit 1", "No working C++ compiler"),
    "finds no headers": (
        """case "$1" in --version) echo g++; exit;; esac
case "$*" in *Py*|*ython*) echo "x.cpp:1:10: fatal error: Python.h: No such file or directory" >&2; exit 1;; esac
exec g++ "$@\"""",
        "Python.h: No such file",
    ),
}
"""Compilers that are there and do not work: a script, and what is said of each."""


@pytest.mark.hard
@pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="needs a C++ compiler")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_compiler_that_does_not_work_is_one_line(
    kind: str, empty: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    script, seen = BROKEN[kind]
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    words = ["train", "root=.", "size=tiny", "data=tiny", "steps=2", "device=cpu", "compile=true"]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "memexp", *words],
        cwd=empty,
        env=environment | {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert ended.returncode == 2, ended.stderr
    assert says("torch.compile", seen, "expected", "compile=false", "CXX")(ended.stderr.splitlines()[-1])
    assert "Traceback" not in ended.stderr
