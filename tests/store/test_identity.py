"""What determines a run: identities of runs that older versions made, and of settings that came later."""

import dataclasses
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from memexp.config.arch import ARCHS
from memexp.config.introspection import flatten
from memexp.config.revisions import REVISIONS, Revision
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.store import identity
from memexp.store.archive import LightCopy, light_copies
from memexp.store.identity import LATER, of_the_result, read_identity, revisions_of, trained_settings

from ..messages import says
from ..tiny import configure

RESULTS = Path(__file__).resolve().parents[2] / "results"
COPIES = [copy for file in sorted(RESULTS.rglob("runs.jsonl")) for copy in light_copies(file)]


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


@cache
def committed_settings() -> list[TrainConfig]:
    """The settings of the committed runs, which must be those of their identities; to read them takes long.

    Older identities lack the settings that came later, older settings have options that there are no more.
    """
    return [trained_settings(copy) for copy in COPIES]


def content_of(copy: LightCopy, settings: TrainConfig) -> dict[str, Any]:
    """What the identity of a committed run would hold if its settings were trained now, without the hash."""
    trained, content = read_identity(copy), of_the_result(settings)
    content["data"] |= trained["data"]
    return content | {name: trained[name] for name in ("init_from",) if name in trained}


REVISED = {"waves-of-model-width": 0, "published-recall": 0, "adafactor-as-published": 0}
"""How many of the committed runs were made before each revision of their settings."""


@pytest.mark.hard
def test_committed_runs_keep_their_identity_unless_a_revision_is_in_force() -> None:
    """Four runs have another hash, because their architecture had fewer options."""
    assert len(COPIES) > 300
    others, before = set(), dict.fromkeys(REVISED, 0)
    for copy, settings in zip(COPIES, committed_settings(), strict=True):
        trained, content = read_identity(copy), content_of(copy, settings)
        missing = set(content.get("revisions", [])) - set(revisions_of(copy))
        if not missing and trained["arch"].keys() == content["arch"].keys():
            assert fingerprint(content) == trained["hash"], copy.name
        elif missing:
            assert fingerprint(content) != trained["hash"], copy.name
        else:
            others.add(copy.name)
        for name in missing:
            before[name] += 1
    assert (len(others), before) == (4, REVISED)


FAITHFUL = ("arch=thought", "arch.faithful=true", "arch.recall_target=embeddings")

IN_FORCE: dict[tuple[str, ...], list[str]] = {
    ("arch=vanilla",): [],
    ("optim=adafactor",): ["adafactor-as-published"],
    ("arch=xl", "arch.position=xl"): [],  # as wide as all heads
    ("arch=rmt_xl", "arch.position=xl", "size.width=24"): ["waves-of-model-width"],
    ("arch=rmt_xl", "arch.position=t5", "size.width=24"): [],
    ("arch=thought", "mem=8"): [],
    (*FAITHFUL, "mem=8"): ["published-recall"],
    (*FAITHFUL, "mem=8", "arch.recall=0"): [],
    (*FAITHFUL, "mem=8", "optim=adafactor"): ["published-recall", "adafactor-as-published"],
}
"""Settings, and the revisions that changed what they mean."""

SETTINGS = [configure(*words) for words in IN_FORCE]


@pytest.mark.parametrize("words", IN_FORCE, ids=" ".join)
def test_revisions_are_in_force_where_the_meaning_changed(words: tuple[str, ...]) -> None:
    assert of_the_result(configure(*words)).get("revisions", []) == IN_FORCE[words]


@pytest.mark.hard
@pytest.mark.parametrize("entry", REVISIONS, ids=lambda entry: entry.name)
def test_a_revision_changes_the_identity_of_exactly_the_settings_that_it_is_in_force_for(
    entry: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [*SETTINGS, *committed_settings()]
    now = [of_the_result(config) for config in configs]
    monkeypatch.setattr("memexp.config.revisions.REVISIONS", [other for other in REVISIONS if other != entry])
    without = [of_the_result(config) for config in configs]
    concerned = [entry.in_force(dataclasses.asdict(config)) for config in configs]
    assert {True, False} == set(concerned)
    for before, after, is_concerned in zip(without, now, concerned, strict=True):
        assert (entry.name in after.get("revisions", [])) == is_concerned
        assert entry.name not in before.get("revisions", [])
        assert (fingerprint(before) != fingerprint(after)) == is_concerned


def test_the_table_of_revisions_is_well_formed() -> None:
    names = [entry.name for entry in REVISIONS]
    assert len(set(names)) == len(names)
    known = flatten({name: value for config in SETTINGS for name, value in dataclasses.asdict(config).items()})
    assert {setting for entry in REVISIONS for setting in entry.came_with} <= set(known)
    assert not any(entry.since.endswith(".") for entry in REVISIONS)


def test_a_run_from_before_a_revision_can_be_scored_and_one_from_after_it_cannot_be_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = COPIES[0]
    of_all = Revision("all-changed", "everything is new", lambda settings: True)
    for module in ("memexp.config.revisions", "memexp.store.identity"):
        monkeypatch.setattr(f"{module}.REVISIONS", [*REVISIONS, of_all])
    assert trained_settings(run) == run.settings
    content = {name: value for name, value in read_identity(run).items() if name != "hash"}
    content["revisions"] = ["all-changed"]
    monkeypatch.setattr(LightCopy, "identity", content | {"hash": fingerprint(content)})
    assert trained_settings(run) == run.settings
    monkeypatch.setattr(identity, "REVISIONS", REVISIONS)
    with pytest.raises(UserError, check=says("all-changed", "does not know", "newer version")):
        trained_settings(run)
