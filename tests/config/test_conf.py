"""The files of conf/: every combination composes, values are what was promised, keys are the constructors'."""

import dataclasses
import importlib
import inspect
import itertools
from functools import cache
from typing import get_type_hints

import pytest
import yaml

from memexp.config.arch import ARCHS
from memexp.config.arch.base import AttentionArch
from memexp.config.checkpoints import PRESET
from memexp.config.commands import COMMANDS
from memexp.config.compose import compose, typed
from memexp.config.field import default_of
from memexp.config.introspection import CONF, choices_of, description_of, groups_of

PAPER = {"key_smear": False, "keys_as_queries": False, "scale": 1.0}
SMALL_DEPARTURES = {"key_smear": True, "keys_as_queries": True, "scale": 16.0}


@cache
def settings(*overrides: str):
    """What `train` makes of these words; nobody changes it."""
    return typed(compose("train", list(overrides)))


APART = [("thought", "rmt-wt103"), ("titans", "rmt-wt103")]
"""What cannot go together: rotary positions and heads of an odd size; chunks of 16 tokens and segments of 150."""

PAIRS = [
    pytest.param(*pair, marks=[] if pair[0] == "knn" or pair[1] == "small" else pytest.mark.hard)
    for number, pair in enumerate(itertools.product(choices_of("arch"), choices_of("size")))
    if pair not in APART and pair[1] != PRESET  # a checkpoint has its own tests
    if pair[0] == "knn" or pair[1] == "small" or number % 5 == 0
]
"""Every commit composes each architecture with one size and each size with one architecture; `make hard` a fifth of all pairs."""


@pytest.mark.parametrize(("arch", "size"), PAIRS)
def test_every_architecture_goes_with_every_size(arch, size) -> None:
    config = settings(f"arch={arch}", f"size={size}")
    assert (config.arch.name, config.size.name) == (arch, size)
    assert type(config.arch) is ARCHS[arch]


@pytest.mark.hard
@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in ("data", "optim", "tracker") for choice in choices_of(group)]
)
def test_every_other_choice_is_valid(group, choice) -> None:
    path = ["data.path=."] if (group, choice) == ("data", "text") else []
    assert getattr(settings(f"{group}={choice}", *path), group).name == choice


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command) -> None:
    from omegaconf import OmegaConf

    assert OmegaConf.get_type(compose(command, [])) is COMMANDS[command]


@pytest.mark.parametrize("arch", choices_of("arch"))
def test_an_architecture_takes_its_schema_whole(arch) -> None:
    module, _, name = settings(f"arch={arch}", "size=small").arch._target_.rpartition(".")
    constructor = getattr(importlib.import_module(module), name).__init__
    assert list(inspect.signature(constructor).parameters) == ["self", "shape", "mem", "arch"]
    assert issubclass(ARCHS[arch], get_type_hints(constructor)["arch"])


@pytest.mark.parametrize("arch", choices_of("arch"))
def test_a_file_says_only_what_differs_from_the_schema(arch) -> None:
    in_file = yaml.safe_load((CONF / "arch" / f"{arch}.yaml").read_text(encoding="utf-8"))["arch"]
    options = {item.name: item for item in dataclasses.fields(ARCHS[arch])}
    assert {name for name, value in in_file.items() if value == default_of(options[name])} == set()
    assert in_file["name"] == arch


@pytest.mark.parametrize("arch", choices_of("arch"))
def test_archs_are_faithful_but_for_size_small(arch) -> None:
    paper, small = settings(f"arch={arch}", "size=200m").arch, settings(f"arch={arch}", "size=small").arch
    departures = {name: value for name, value in SMALL_DEPARTURES.items() if hasattr(paper, name)}
    assert {name: getattr(paper, name) for name in departures} == {name: PAPER[name] for name in departures}
    assert departures or not issubclass(ARCHS[arch], AttentionArch)
    values = yaml.safe_load((CONF / "arch" / f"{arch}.yaml").read_text(encoding="utf-8"))["arch"]
    lengths = {name: getattr(small, name) for name, value in values.items() if str(value).startswith("${")}
    assert dataclasses.replace(paper, **departures | lengths) == small  # lengths follow the size


def test_the_papers_shape() -> None:
    size = settings("size=200m").size
    assert (size.layers, size.width, size.heads, size.head_size, size.feedforward) == (12, 1024, 8, 128, 4096)


def test_mem_follows_the_arch_and_the_size() -> None:
    wanted = {
        ("vanilla", "small"): 0,
        ("xl", "small"): 64,
        ("knn", "small"): 4096,
        ("xl", "200m"): 512,
        ("knn", "200m"): 8192,
    }
    assert {key: settings(f"arch={key[0]}", f"size={key[1]}").mem for key in wanted} == wanted
    assert settings("arch=xl", "segment=128").mem == 128
    assert settings("arch=knn", "segment=128").arch.cache == 128


def test_what_is_typed_wins_over_the_size() -> None:
    config = settings("arch=knn", "size=small", "arch.key_smear=false", "data.max_document=7", "optim.rate=0.5")
    assert (config.arch.key_smear, config.data.max_document, config.optim.rate) == (False, 7, 0.5)
    assert settings().data.max_document == 4096


def test_optimizers_rates() -> None:
    assert settings("optim=adamw").optim.rate == 3e-3
    assert settings("optim=adamw", "size=200m").optim.rate == 3e-4
    adafactor = settings("optim=adafactor").optim
    assert (adafactor.rate, adafactor.schedule, adafactor.warmup, adafactor.clip) == (1.0, "rsqrt", 1000, 0.0)
    assert (adafactor.momentum, adafactor.factor_from) == (0.9, 128)


def test_every_file_has_a_description_and_every_group_a_row() -> None:
    readme = (CONF / "README.md").read_text(encoding="utf-8")
    for group, choices in groups_of("train").items():
        assert f"| `{group}/` |" in readme
        assert all(description_of(group, choice) for choice in choices)


def test_files_are_yaml_maps() -> None:
    for path in CONF.rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
