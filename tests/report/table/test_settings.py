"""Which settings a table shows: those that were changed, and not what a choice of a group implies."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from memexp.config.compose import compose
from memexp.config.introspection import flatten, groups_of
from memexp.report.table.settings import Described, made_before, settings_of, settings_to_show

NAMED = ("size", "optim", "task")
"""Groups whose choice is among the settings; that of the others has a column of its own."""

QUICK = (("size", "tiny"), ("arch", "rmt"), ("data", "copy"), ("optim", "adafactor"), ("task", "classify"))

CHOICES = [
    pytest.param(group, name, marks=() if (group, name) in QUICK else pytest.mark.hard)
    for group, names in groups_of("train").items()
    if group != "tracker"
    for name in names
]


@cache
def _config(*words: str) -> Any:
    return OmegaConf.to_container(compose("train", list(words)), resolve=True)


def config(*words: str) -> Any:
    return copy.deepcopy(_config(*words))


def shown(*configs: Any) -> list[list[str]]:
    return settings_to_show([Described(each, settings_of(each, Path())) for each in configs])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_stands_for_all_that_it_sets(group: str, name: str) -> None:
    first, other = config(), config(f"{group}={name}")
    expected = [group] if group in NAMED and first != other else []
    assert shown(first, other) == [expected, expected]


@pytest.mark.hard
@pytest.mark.parametrize("group", ["size", "arch"])
def test_every_setting_that_was_changed_on_top_of_a_choice_is_shown(group: str) -> None:
    first = config()
    choice = f"{group}={dict(QUICK)[group]}"
    for key in settings_of(config(choice), Path()).keys() - {*NAMED}:
        changed = config(choice)
        *path, last = key.split(".")
        node = changed
        for part in path:
            node = node[part]
        node[last] = another(node[last])
        if flatten(first).get(key) == node[last]:  # now nothing differs
            continue
        of_first, of_changed = shown(first, changed)
        before = "init_from" if key == "init_from" else key  # a run to start from is named by its identity
        if key in flatten(first):
            assert before in of_changed, key
            assert key not in of_first, key
        else:  # only this architecture has it, so nothing differs
            assert key not in of_changed, key
        assert shown(config(choice), changed) == [[key], [key]] or key == "accumulate", key


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * value + 1
    return ["7"] if isinstance(value, list) else "other"


def test_values_that_were_swept_stand_beside_each_other_though_one_is_the_default() -> None:
    rates = [config(f"optim.rate={rate}") for rate in (0.001, 0.003)]
    assert shown(*rates, config("size=tiny")) == [["size", "optim.rate"], ["size", "optim.rate"], ["size"]]


def test_what_follows_from_another_setting_is_not_named() -> None:
    """Gradients cross all borders in a step of RMT, unless it has no memory."""
    sizes = [config("arch=rmt", f"mem={mem}") for mem in (0, 10)]
    assert [each["bptt_segments"] for each in sizes] == [0, 3]
    assert shown(*sizes) == [[], []]
    assert shown(*sizes, config("arch=rmt", "mem=10", "bptt_segments=1")) == [["bptt_segments"]] * 3


def test_a_size_whose_file_is_gone_stands_for_its_own_settings() -> None:
    old = config("size=tiny")
    old["size"]["name"] = "gone"
    of_small, of_old = shown(config(), old)
    assert of_small == ["size"]
    assert not any(key.startswith("size.") for key in of_old)
    assert {"size", "steps", "lanes"} <= set(of_old)


def test_a_run_that_is_older_than_a_setting_had_its_default() -> None:
    old, new = ({"arch": {"name": "xl"}, "optim": optim} for optim in ({}, {"scale_rate": 80.0}))
    assert settings_of(old, Path())["optim.scale_rate"] == "1"
    assert settings_of(new, Path())["optim.scale_rate"] == "80"
    assert "arch.memory_sees_cache" not in settings_of(old, Path())  # of another architecture


def test_a_revision_that_looks_at_a_setting_which_a_run_lacks_hides_no_other() -> None:
    """A run of an older version, whose architecture had fewer options."""
    config = {"arch": {"faithful": True}, "optim": {"name": "adafactor"}}
    assert made_before(config, []) == "adafactor-as-published"
