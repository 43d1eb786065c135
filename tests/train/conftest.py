"""A corpus that all tests share, prepared once, and runs that take a fraction of a second."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memexp.data.corpus import Corpus
from memexp.data.library import prepare
from memexp.store.folder import Run
from memexp.train.loop import train
from memexp.train.spec import specify

from ..tiny import TINY, configure

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A root without runs of its own, with the prepared corpus."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "data").symlink_to(prepared / "data")
    return tmp_path / "root"


@pytest.fixture(scope="session")
def corpus(prepared: Path) -> Corpus:
    return prepare(configure().data, prepared)


Train = Callable[..., Run]


@pytest.fixture
def run(corpus: Corpus, root: Path) -> Train:
    """Trains a run below `root`, or below another root."""

    def call(*overrides: str, root: Path = root, validate: Any = None) -> Run:
        return train(specify(configure(*overrides), corpus, root), command="memexp train", validate=validate)

    return call


@pytest.fixture
def start(root: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `memexp train` at tiny size in a process of its own, or a program that is given the same words."""

    def call(*overrides: str, program: str | None = None) -> subprocess.Popen[str]:
        what = ["-m", "memexp"] if program is None else ["-c", program]
        return subprocess.Popen(
            [sys.executable, "-P", *what, "train", *TINY, f"root={root}", *overrides],
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, cwd=root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return call


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The final weights of a run."""
    model: dict[str, torch.Tensor] = torch.load(run.path / "weights.pt", weights_only=True)["model"]
    return model


def losses(run: Run) -> list[tuple[int, int, float, float]]:
    """What metrics.jsonl says of every logged step, apart from times."""
    return [(line["step"], line["tokens"], line["loss"], line["grad_norm"]) for line in run.metrics if "loss" in line]


def assert_same_result(found: Run, expected: Run) -> None:
    """Weights bit for bit, metrics and final numbers."""
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert losses(found) == losses(expected)
    assert found.summary is not None
    assert expected.summary is not None
    for name in ("loss", "tokens", "steps", "memory_fill"):
        assert found.summary[name] == expected.summary[name], name
