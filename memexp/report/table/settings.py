"""The settings in which runs differ, without those that a table shows in columns of their own or that a preset implies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from memexp.config.compose import compose
from memexp.config.field import default_of
from memexp.config.groups import DEFAULTS_AT_SIZE
from memexp.config.introspection import choices_of, flatten, settings_of_schema
from memexp.config.revisions import REVISIONS, Revision
from memexp.config.train import NOT_OF_THE_RESULT, TrainConfig
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.store.archive import copies_named
from memexp.store.folder import Run, find_run
from memexp.store.identity import read_identity

_SHOWN = (
    "arch.name", "arch._target_", "arch.cache", "mem", "segment", "seed", "data.name",
    "size.rate", "size.memory", "size.routed",
)  # fmt: skip
"""Settings that a table shows elsewhere, or that follow from the architecture's name, or that are defaults of other settings."""

_DEFAULTS = tuple(f"size.{name}." for name in DEFAULTS_AT_SIZE)
"""What the settings begin with that are defaults of others."""

_PRESETS = {"arch": "arch.name", "data": "data.name", "size": "size.name", "optim": "optim.name", "task": "data.task"}
"""The groups that set more than their own settings, and where a run's settings hold the choice."""

_TYPED = {"size.name": "size", "optim.name": "optim", "data.task": "task"}
"""How one types a choice that a table names among the settings."""

BEFORE = "before"
"""What a table calls the revisions that a run was made before; it shows them where rows differ in nothing else."""


def settings_of(config: dict[str, Any], root: Path) -> dict[str, str]:
    """Each setting that determines a run's result, as text, without the seed and what a table shows elsewhere."""
    kept = {key: value for key, value in config.items() if key not in NOT_OF_THE_RESULT}
    settings = _named(_came_later(str(config["arch"]["name"])) | flatten(kept))
    if config.get("init_from"):
        settings["init_from"] = _origin(str(config["init_from"]), root)
    return settings


@cache
def _came_later(arch: str) -> dict[str, Any]:
    """The meaning of runs that are older than a setting: its default."""
    known = settings_of_schema(TrainConfig, arch=arch)
    return {
        key: default_of(item)
        for key, item in known.items()
        if item.metadata["later"] and not key.startswith("data.source.")  # of sources that the run did not read
    }


def _named(flat: Mapping[str, Any]) -> dict[str, str]:
    shown = {key: value for key, value in flat.items() if key not in _SHOWN and not key.startswith(_DEFAULTS)}
    return {_TYPED.get(key, key): _text(value) for key, value in shown.items()}


def made_before(config: dict[str, Any], revisions: Sequence[str]) -> str:
    """The revisions of a run's settings that it was made before, so that its settings mean something else in it.

    Args:
        revisions: those that its identity names. Revisions that this version does not know are named too.
    """
    known = [revision.name for revision in REVISIONS]
    missed = [each.name for each in REVISIONS if each.name not in revisions and _concerned(config, each)]
    return "+".join([*missed, *(f"after-{name}" for name in revisions if name not in known)]) or "none"


def _concerned(config: dict[str, Any], revision: Revision) -> bool:
    """Whether a revision changed what a run's settings mean; those that it looks at may be missing in a run of an older version."""
    try:
        return revision.in_force(config)
    except (KeyError, TypeError, AttributeError):
        return False


def _origin(name: str, root: Path, before: tuple[str, ...] = ()) -> str:
    """A name for the run that a run started from, equal for all seeds, so that all seeds of a continued run share a row.

    It is made of the identity, which other versions of memexp write alike.
    """
    try:
        run: Run = find_run(root, name)
    except UserError:
        copies = [copy for copy in copies_named(root, name) if copy.name == name]
        if not copies:
            return name
        run = copies[0]
    kept = {key: value for key, value in read_identity(run).items() if key not in ("hash", "seed", "init_from")}
    if start := run.config.get("init_from"):
        if run.name in before:
            raise UserError(
                f"{run.path} started from itself, by way of init_from; expected a run that began. Likely cause: it was edited"
            )
        kept["init_from"] = _origin(str(start), root, (*before, run.name))
    arch = run.config.get("arch", {}).get("name", "run")
    return f"{arch}-{fingerprint(kept)[:6]}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(_text(item) for item in value) or "default"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Described:
    """What tells a run apart from others.

    Attributes:
        config: every setting, as its config.yaml holds them.
        settings: those that tables show beside columns of their own; see `settings_of`.
    """

    config: dict[str, Any]
    settings: dict[str, str]

    @property
    def data(self) -> str:
        return str(self.config["data"]["name"])

    @cached_property
    def presets(self) -> tuple[tuple[str, str], ...]:
        """The choice of each group."""
        flat = flatten(self.config)
        return tuple((group, str(flat.get(key, "predict"))) for group, key in _PRESETS.items())

    def implied(self, key: str) -> str | None:
        """What a setting would be if only the presets and the settings that it refers to were given; None if a preset is not known."""
        presets = _known(self.presets)
        if presets is None:
            return None
        composed = _composed(presets)
        return (
            _text(OmegaConf.select(self._with_references, key))
            if key in composed.referring
            else composed.texts.get(key)
        )

    @cached_property
    def _with_references(self) -> Any:
        """What the presets give, with the run's numbers in place of theirs except where they refer to other settings."""
        presets = _known(self.presets)
        assert presets is not None
        composed, given = _composed(presets), flatten(self.config)
        settings: dict[str, Any] = {}
        for key, value in composed.values.items():
            *path, last = key.split(".")
            node = settings
            for name in path:
                node = node.setdefault(name, {})
            own = given.get(key) if key not in composed.referring else None
            node[last] = own if type(own) is type(value) and isinstance(own, int | float) else value
        return OmegaConf.create(settings)


def _known(presets: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...] | None:
    """The presets whose files are here. A corpus may have a name of its own; without any other file nothing is known."""
    found = tuple((group, name) for group, name in presets if name in _choices(group))
    return found if {group for group, _ in presets} - {group for group, _ in found} <= {"data"} else None


@cache
def _choices(group: str) -> list[str]:
    return choices_of(group)


@dataclass(frozen=True)
class _Composed:
    """The settings that presets alone give.

    Attributes:
        values: all by dotted name; those that refer to other settings are unresolved.
        referring: the names of these.
        texts: the others, as a table shows them.
    """

    values: dict[str, Any]
    referring: frozenset[str]
    texts: dict[str, str]


@cache
def _composed(presets: tuple[tuple[str, str], ...]) -> _Composed:
    container: Any = OmegaConf.to_container(compose("train", [f"{group}={name}" for group, name in presets]))
    values = flatten(container)
    referring = frozenset(key for key, value in values.items() if isinstance(value, str) and "${" in value)
    return _Composed(values, referring, _named({key: values[key] for key in values.keys() - referring}))


def settings_to_show(runs: Sequence[Described]) -> list[list[str]]:
    """For each run the settings to show: those in which runs differ, and which its presets do not imply.

    A setting that was changed in one run is shown for all with the same presets, so that its values stand beside each other.
    """
    keys = differing([(run.data, run.settings) for run in runs])
    alike: dict[tuple[tuple[str, str], ...], list[Described]] = {}
    for run in runs if keys else []:
        alike.setdefault(run.presets, []).append(run)
    shown = {presets: [key for key in keys if not _follows(key, members)] for presets, members in alike.items()}
    return [[key for key in shown[run.presets] if key in run.settings] if keys else [] for run in runs]


def _follows(key: str, runs: Sequence[Described]) -> bool:
    """Whether the presets, which these runs share, imply this setting for all of them."""
    if key in _TYPED.values():
        return False
    having = [run for run in runs if key in run.settings]
    if not having or all(run.implied(key) == run.settings[key] for run in having):
        return True
    # Of a preset whose file is not here, only its own settings are known to be its own, if they do not vary.
    group, values = key.partition(".")[0], {run.settings[key] for run in having}
    return _known(having[0].presets) is None and group in ("size", "optim") and len(values) == 1


def differing(runs: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """The settings in which runs differ, sorted, choices of groups first.

    Args:
        runs: the data set and the settings of each run. Settings of the data are compared only within one data set,
            because they always differ between data sets. A setting that only some architectures have is compared only
            among the runs that have it.
    """
    keys = {key for _, settings in runs for key in settings}
    in_order = sorted(keys, key=lambda key: (key not in _TYPED.values(), key))
    return [key for key in in_order if _differs(key, runs)]


def _differs(key: str, runs: Sequence[tuple[str, dict[str, str]]]) -> bool:
    by_data: dict[str, set[str]] = {}
    for data, settings in runs:
        if key in settings:
            by_data.setdefault(data if key.startswith("data.") else "", set()).add(settings[key])
    return any(len(values) > 1 for values in by_data.values())
