"""Settings at tiny size, for tests that train or build a model."""

from functools import cache
from typing import Any

from omegaconf import OmegaConf

from memexp.config.compose import compose, typed
from memexp.config.train import TrainConfig

TINY = ("size=tiny", "data=tiny", "device=cpu")

GROUPS = ("arch=", "optim=", "tracker=", "size=")


@cache
def choose(*groups: str) -> Any:
    """What Hydra makes of a choice of groups, which takes it long; precision and compile are what they are on a CPU."""
    return compose("train", [*TINY, "precision=fp32", "compile=false", *groups])


@cache
def configure(*overrides: str) -> TrainConfig:
    """The settings with these overrides; nobody changes them."""
    chosen = choose(*(each for each in overrides if each.startswith(GROUPS)))
    rest = [each for each in overrides if not each.startswith(GROUPS)]
    config: TrainConfig = typed(OmegaConf.merge(chosen, OmegaConf.from_dotlist(rest)))
    return config
