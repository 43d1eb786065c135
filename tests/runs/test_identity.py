"""What determines a run: identities of runs that older versions made, and of settings that came later."""

import dataclasses
from copy import deepcopy
from pathlib import Path

import pytest

from memexp.config.arch import ARCHS
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.runs.archive import LightCopy, light_copies
from memexp.runs.identity import LATER, of_the_result, trained_settings

from ..messages import says
from ..tiny import configure

RESULTS = Path(__file__).resolve().parents[2] / "results"
COPIES = [copy for file in sorted(RESULTS.rglob("runs.jsonl")) for copy in light_copies(file)]


def test_settings_of_every_committed_run_are_those_of_its_identity() -> None:
    """Older identities lack the settings that came later, older settings have options that there are no more."""
    assert len(COPIES) > 300
    assert {type(trained_settings(copy)) for copy in COPIES} == {TrainConfig}


@pytest.mark.parametrize(
    ("group", "setting", "value"),
    [("arch", "dropout", 0.25), ("data", "cut", "chunks"), ("optim", "rate", 0.5), ("", "seed", 77)],
)
def test_settings_that_were_edited_are_refused(
    group: str, setting: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    [run, *_] = [run for run in COPIES if run.config["arch"]["name"] == "knn"]
    config = deepcopy(run.saved_config)
    (config[group] if group else config)[setting] = value
    monkeypatch.setattr(LightCopy, "saved_config", config)
    with pytest.raises(UserError, check=says(f"{group}.{setting}={value}".strip("."), "edited")):
        trained_settings(run)


def test_a_setting_that_came_later_counts_only_where_it_is_not_at_its_default() -> None:
    """So the runs that were made before keep their identity."""
    plain = of_the_result(configure("arch=vanilla"))
    assert not LATER & set(plain["data"])
    assert of_the_result(configure("arch=vanilla", "data.cut=chunks"))["data"]["cut"] == "chunks"


@pytest.mark.parametrize("arch", ARCHS)
def test_what_only_describes_or_speeds_up_is_no_part_of_an_identity(arch: str) -> None:
    config = configure(f"arch={arch}")
    others = {
        "device": "cuda", "threads": 3, "tag": "x", "recompute": True, "compile": True, "log_every": 99,
        "size": dataclasses.replace(config.size, name="other", rate=9.0, memory=7, routed=5),
    }  # fmt: skip
    assert of_the_result(dataclasses.replace(config, **others)) == of_the_result(config)
    assert of_the_result(dataclasses.replace(config, seed=5)) != of_the_result(config)
