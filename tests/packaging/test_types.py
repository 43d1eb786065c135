"""The type checker sees the whole program, also the folders that are links inside the package."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
WRONG = """
from memexp.cli.arguments import parse
from memexp.config.field import setting
from memexp.experiment.definition import load
from memexp.launch.processes import announce
from memexp.report.escape import latex
from memexp.store.folder import Run

parse(1, [])
setting(1)
load("a folder", "a name")
announce("a folder")
latex(1)
Run("a folder")
"""
"""A wrong call for each room that is checked strictly."""


@pytest.mark.hard
def test_wrong_calls_of_every_room_are_errors(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(WRONG, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, str(planted)], cwd=CHECKOUT, text=True, capture_output=True)
    wrong = [number for number, line in enumerate(WRONG.splitlines(), start=1) if line.endswith(")")]
    errors = {line.split(": error: ")[0] for line in done.stdout.splitlines() if ": error: " in line}
    assert errors == {f"{planted}:{number}" for number in wrong}, done.stdout + done.stderr
