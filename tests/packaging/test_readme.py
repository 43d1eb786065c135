"""What README.md says of the architectures is what the code gives, and no table of them leaves one out."""

import json
import re
import shlex
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from memexp.config.compose import compose, typed
from memexp.model.build import build_model
from memexp.model.state import state_bytes

from ..tiny import TINY

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| `(\w+)` \|.*\]\((\S+)\) \| ([\d,]+)(?: bytes \(`(mem=\d+)`\))? \| ([\d.]+), ([\d.]+), ([\d.]+) \|$",
    (ROOT / "README.md").read_text(),
    re.M,
)


def test_every_architecture_has_a_row() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(path.stem for path in (ROOT / "conf" / "arch").glob("*.yaml"))
    published = re.findall(r"^\| `(\w+)` \|", (ROOT / "conf" / "README.md").read_text(), re.M)
    assert published == sorted(row[0] for row in ROWS)


@pytest.mark.parametrize(("name", "file", "size", "mem"), [row[:4] for row in ROWS])
def test_its_file_and_state_are_as_stated(name: str, file: str, size: str, mem: str) -> None:
    assert (ROOT / file).is_file()
    config = typed(compose("train", [f"arch={name}", "size=200m", *([mem] if mem else [])]))
    with torch.device("meta"):
        model = build_model(config, vocabulary=32_000)
    assert state_bytes(model.init_state(1)) == int(size.replace(",", ""))


def test_costs_are_those_that_were_measured() -> None:
    figures = json.loads((ROOT / "results" / "costs" / "archs.json").read_text())["figures"]
    facts = {figure["what"].split()[2].strip(","): figure["facts"] for figure in figures}
    ratios = {
        figure["what"].split()[2].strip(","): median(map(truediv, figure["ours_measured"], figure["other_measured"]))
        for figure in figures
    }
    for name, *_, operations, moved, time in ROWS:
        for shown, what in ((operations, "MFLOP a token, trained"), (moved, "kilobytes moved a token, trained")):
            assert shown == f"{facts[name][what] / facts['vanilla'][what]:.1f}", (name, what)
        assert time == f"{ratios[name]:.1f}", name


README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_lines_are_short_and_links_lead_somewhere() -> None:
    """A line of a table and a picture cannot be broken."""
    for line in README.splitlines():
        assert len(line) <= 100 or line.startswith(("|", "![")), line
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)", prose, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        file, _, heading = target.partition("#")
        assert target.startswith("https://") or not file or (ROOT / file).exists(), target
        assert file or heading in headings, target


@pytest.mark.hard
def test_every_command_line_is_one_that_memexp_takes(memexp: Any) -> None:
    """Each is parsed and composed as it stands, but for the sweep, which would start its jobs.

    Names in capitals stand for something of the reader's.
    """
    shown = "\n".join(text.replace("\\\n", "") for kind, text in CODE if kind == "bash")
    lines = [
        line.partition("  #")[0].strip()
        for line in shown.splitlines()
        if line.startswith("memexp ") and " -m " not in line
    ]
    assert len(lines) > 15
    for line in lines:
        words = shlex.split(re.sub(r" \[.*", "", line).replace("NAME", "memorizing/table4"))[1:]
        assert memexp(*words).code == 0, line


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from memexp.cli.main import main

    words = ["train", *TINY, "arch=knn", "mem=64", "steps=1", "data.name=code", f"root={tmp_path}"]
    assert main(words) == 0
    [run] = (tmp_path / "results" / "runs").iterdir()
    [example] = [text for kind, text in CODE if kind == "python"]
    monkeypatch.setattr("memexp.files.find_root", lambda root: tmp_path)
    capsys.readouterr()
    exec(example.replace("knn-code-mem4096", run.name), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert all(re.match(r" *\d+\.\d\d  '", line) for line in lines[-5:])
