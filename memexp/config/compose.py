"""Between Hydra and the schemas: what Hydra must know before it composes, and how its result becomes an instance."""

import os
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch
from memexp.config.checkpoints import with_checkpoint
from memexp.config.checks import check
from memexp.config.commands import COMMANDS
from memexp.config.field import default_of
from memexp.config.groups import DEFAULTS_AT_SIZE, Data, Optim, Size, Tracker
from memexp.config.introspection import CONF, settings_of_schema
from memexp.config.sources import SOURCES
from memexp.config.synonyms import unknown_setting
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.files import find_root


@cache
def register() -> None:
    """Store the schemas, the launcher, the sweeper, and settings that stop Hydra from writing files and logs of its own."""
    from hydra.conf import HydraConf, RunDir, SweepDir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    # Hydra copies all schemas for each composition, a quarter of its time, though it also copies each schema that it hands out
    store.__deepcopy__ = lambda memo: store  # type: ignore[attr-defined]
    for name, command in COMMANDS.items():
        store.store(name=f"{name}_schema", node=command)
    groups: dict[str, type] = {"size": Size, "optim": Optim, "tracker": Tracker}
    for name, group in groups.items():
        store.store(group=name, name="base", node=group)
    for name, source in SOURCES.items():
        store.store(group="data", name=f"base_{name}", node=Data(source=source()))
    for name, arch in ARCHS.items():
        store.store(group="arch", name=f"base_{name}", node=as_the_size_says(arch))
    # by name, so that composing does not import them; `memexp.launch.hydra` lets Hydra find the classes
    store.store(group="hydra/launcher", name="local", node={"_target_": "memexp.launch.launcher.JobLauncher"})
    sweeper: dict[str, Any] = {"_target_": "memexp.launch.sweep.CheckedSweeper", "max_batch_size": None, "params": {}}
    store.store(group="hydra/sweeper", name="checked", node=sweeper)
    OmegaConf.register_new_resolver("memexp_root", lambda root: str(find_root(root)), replace=True)
    # one step is one gradient window: gradients cross all borders between its segments
    OmegaConf.register_new_resolver(
        "memexp_horizon", lambda accumulate, mem: int(accumulate) - 1 if mem else 0, replace=True
    )
    # a published checkpoint that is only scored
    OmegaConf.register_new_resolver(
        "memexp_steps", lambda train, steps: 0 if train == "none" else int(steps), replace=True
    )
    OmegaConf.register_new_resolver(
        "memexp_where", lambda value, wanted, then, otherwise: then if value == wanted else otherwise, replace=True
    )
    OmegaConf.register_new_resolver("memexp_largest", lambda *values: max(map(int, values)), replace=True)
    OmegaConf.register_new_resolver(
        "memexp_above",
        lambda value, limit, above, otherwise: above if int(value) > int(limit) else otherwise,
        replace=True,
    )
    OmegaConf.register_new_resolver(
        "memexp_divisor",
        lambda value, most: next(divisor for divisor in range(int(most), 0, -1) if int(value) % divisor == 0),
        replace=True,
    )
    # crops grow from `first` if the largest memory is larger, and if they are cut to more
    OmegaConf.register_new_resolver(
        "memexp_growth",
        lambda first, largest, longest: first if int(largest) > first and not 0 < int(longest) <= first else 0,
        replace=True,
    )
    sweeps = "${memexp_root:${root}}/results/sweeps/${now:%Y-%m-%d_%H-%M-%S}-" + str(os.getpid())
    quiet = HydraConf(
        run=RunDir(dir="."),
        sweep=SweepDir(dir=sweeps, subdir="${hydra.job.num}"),
        output_subdir=None,
    )
    quiet.defaults = [
        {"output": "default"}, {"launcher": "local"}, {"sweeper": "checked"}, {"help": "default"}, {"hydra_help": "default"},
        {"hydra_logging": "disabled"}, {"job_logging": "disabled"}, {"callbacks": None}, {"env": "default"},
    ]  # fmt: skip
    store.store(group="hydra", name="config", node=quiet, provider="memexp")


def as_the_size_says(schema: type[Arch]) -> Any:
    """The schema of an architecture in which options that a size changes refer to `size.attention` and `size.memories` for defaults.

    An option of the same name but with another default in the papers is another option.
    """
    from omegaconf import OmegaConf

    node = OmegaConf.structured(schema)
    own = {item.name: default_of(item) for item in fields(schema)}
    for group, defaults in DEFAULTS_AT_SIZE.items():
        for item in fields(defaults):
            if own.get(item.name) == default_of(item):
                node[item.name] = f"${{size.{group}.{item.name}}}"
    return node


def compose(command: str, overrides: list[str]) -> Any:
    """Compose the configuration of a command with Hydra, without running anything.

    Raises:
        Exception: an error of Hydra; `memexp.config.hydra_errors.explain` turns it into one line.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    hydra = GlobalHydra.instance()
    outer = hydra.hydra  # a sweep still runs in it when its table is made, and there can be only one
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose(command, overrides=overrides)
    finally:
        hydra.hydra = outer


def typed(config: Any) -> Any:
    """An instance of the schema with the values of a composed configuration, checked.

    Raises:
        UserError: a required value is not given, a value is out of range, or values make no sense together.
    """
    from omegaconf import OmegaConf

    schema: Any = OmegaConf.get_type(config)
    # first, because other settings may refer to one that was removed
    _check_keys(config, "", next(name for name, command in COMMANDS.items() if command is schema))
    missing = OmegaConf.missing_keys(config)
    for name, item in settings_of_schema(schema).items():
        if name in missing:
            raise UserError(f"{name} is not given; expected {item.metadata['help']}")
    settings = OmegaConf.to_object(config)
    if isinstance(settings, TrainConfig):
        settings = with_checkpoint(settings)
    check(settings)
    return settings


def _check_keys(config: Any, where: str, command: str) -> None:
    # Hydra adds a key that no schema has with +key=..., and removes a key of the schema with ~key.
    from omegaconf import DictConfig, OmegaConf

    schema = OmegaConf.get_type(config)
    if not is_dataclass(schema):  # a dict, which may hold schemas
        for name in config:
            if isinstance(node := config._get_node(name), DictConfig):
                _check_keys(node, f"{where}{name}.", command)
        return
    known, given = {item.name for item in fields(schema)}, set(config)
    for name in sorted(given - known):
        raise UserError(unknown_setting(f"{where}{name}", command))
    for name in sorted(known - given):
        raise UserError(f"{where}{name} was removed with ~; expected a value, because every setting needs one")
    for name in sorted(known):
        if isinstance(node := config._get_node(name), DictConfig):
            _check_keys(node, f"{where}{name}.", command)
