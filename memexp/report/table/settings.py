"""The settings in which runs differ, without those that a table shows in columns of their own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from memexp.config.introspection import flatten
from memexp.config.revisions import REVISIONS, in_force
from memexp.config.train import NOT_OF_THE_RESULT
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.store.archive import copies_named
from memexp.store.folder import Run, find_run
from memexp.store.identity import read_identity

_SHOWN = (
    "arch.name", "arch._target_", "arch.cache", "mem", "segment", "seed", "data.name"
)  # fmt: skip
"""Settings that a table shows elsewhere, or that follow from the architecture's name."""

BEFORE = "before"
"""What a table calls the revisions that a run was made before; it shows them where rows differ in nothing else."""


def settings_of(config: dict[str, Any], root: Path) -> dict[str, str]:
    """Each setting that determines a run's result, as text, without the seed and what a table shows elsewhere."""
    kept = {key: value for key, value in config.items() if key not in NOT_OF_THE_RESULT}
    settings = {key: _text(value) for key, value in flatten(kept).items() if key not in _SHOWN}
    if config.get("init_from"):
        settings["init_from"] = _origin(str(config["init_from"]), root)
    return settings


def made_before(config: dict[str, Any], revisions: Sequence[str]) -> str:
    """The revisions of a run's settings that it was made before, so that its settings mean something else in it.

    Args:
        revisions: those that its identity names. Revisions that this version does not know are named too.
    """
    known = [revision.name for revision in REVISIONS]
    try:
        missed = [revision.name for revision in in_force(config) if revision.name not in revisions]
    except (
        KeyError,
        TypeError,
        AttributeError,
    ):  # a run of an older version, without a setting that a revision looks at
        missed = []
    return "+".join([*missed, *(f"after-{name}" for name in revisions if name not in known)]) or "none"


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


def differing(runs: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """The settings in which runs differ, sorted.

    Args:
        runs: the data set and the settings of each run. Settings of the data are compared only within one data set,
            because they always differ between data sets. A setting that only some architectures have is compared only
            among the runs that have it.
    """
    keys = sorted({key for _, settings in runs for key in settings})
    differ = [key for key in keys if _differs(key, runs)]
    return [key for key in differ if not _follows_name(key, differ, [settings for _, settings in runs])]


def _differs(key: str, runs: Sequence[tuple[str, dict[str, str]]]) -> bool:
    by_data: dict[str, set[str]] = {}
    for data, settings in runs:
        if key in settings:
            by_data.setdefault(data if key.startswith("data.") else "", set()).add(settings[key])
    return any(len(values) > 1 for values in by_data.values())


def _follows_name(key: str, differ: Iterable[str], runs: Sequence[dict[str, str]]) -> bool:
    """Whether the name of a preset, such as `size.name`, already determines this value."""
    name = f"{key.split('.')[0]}.name"
    if key == name or name not in differ:
        return False
    pairs = {(settings[name], settings[key]) for settings in runs if name in settings and key in settings}
    return len(pairs) == len({preset for preset, _ in pairs})
