"""Runs the command line in this process, in an empty working directory, with a command that only records its settings."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memexp.cli.main import main

CHECKOUT = Path(__file__).resolve().parents[2]


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
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it: put back afterwards

    def call(*words: str) -> Result:
        given: list[Any] = []
        monkeypatch.setattr("memexp.cli.main.command_module", lambda command: SimpleNamespace(run=given.append))
        code = main(list(words))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err, given)

    return call


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
