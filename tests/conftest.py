"""What all tests share: one thread a process, no test marked `gpu` without a CUDA device, and the command line in an empty folder."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

# The tests' tensors are tiny and two processes share two cores: more threads would only wait for each other. Set before
# torch is imported, and for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def chance() -> random.Random:
    """Random moments. A test that fails shows the seed, and MEMEXP_TEST_SEED sets it."""
    seed = int(os.environ.get("MEMEXP_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MEMEXP_TEST_SEED={seed}")
    return random.Random(seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def only_where_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test without the mark `gpu` uses no GPU, also where there is one, nor do the programs that it starts."""
    torch = sys.modules.get("torch")
    if torch is None or request.node.get_closest_marker("gpu") or not torch.cuda.is_available():
        return
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # torch has already looked, so this is only for other processes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@dataclass
class Result:
    code: int
    out: str
    err: str
    settings: list[Any] = field(default_factory=list)
    """What each call of the command's run() was given."""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory and the root."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def memexp(empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Calls main with the words of a command line; every command records what it is given."""
    from memexp.cli.main import main

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it: put back afterwards

    def call(*words: str) -> Result:
        given: list[Any] = []
        monkeypatch.setattr("memexp.cli.main.command_module", lambda command: SimpleNamespace(run=given.append))
        code = main(list(words))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err, given)

    return call


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose tiny corpus is prepared."""
    from memexp.data.library import prepare

    from .tiny import configure

    root = tmp_path_factory.mktemp("prepared")
    prepare(configure().data, root)
    return root


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment in which this checkout's program runs from any folder."""
    return os.environ | {"PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def process(empty: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with the words given, in the empty folder."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *words], cwd=empty, env=environment, text=True, capture_output=True, timeout=300
        )

    return call
