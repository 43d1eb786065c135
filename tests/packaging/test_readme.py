"""What README.md says of the architectures is what the code gives, and no table of them leaves one out."""

import re
from pathlib import Path

import pytest
import torch

from memexp.config.compose import compose, typed
from memexp.model.build import build_model
from memexp.model.state import state_bytes

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| `(\w+)` \|.*\]\((\S+)\) \| ([\d,]+)(?: bytes \(`(mem=\d+)`\))? \|$", (ROOT / "README.md").read_text(), re.M
)


def test_every_architecture_has_a_row() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(path.stem for path in (ROOT / "conf" / "arch").glob("*.yaml"))
    published = re.findall(r"^\| `(\w+)` \|", (ROOT / "conf" / "README.md").read_text(), re.M)
    assert published == sorted(row[0] for row in ROWS)


@pytest.mark.parametrize(("name", "file", "size", "mem"), ROWS)
def test_its_file_and_state_are_as_stated(name: str, file: str, size: str, mem: str) -> None:
    assert (ROOT / file).is_file()
    config = typed(compose("train", [f"arch={name}", "size=200m", *([mem] if mem else [])]))
    with torch.device("meta"):
        model = build_model(config, vocabulary=32_000)
    assert state_bytes(model.init_state(1)) == int(size.replace(",", ""))
