"""What users can set: the settings of every command by dotted name, and the groups of `conf/` with their choices.

Only the schemas and file names are read, so that help and completion are instant.
"""

import re
import types
import typing
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch
from memexp.config.commands import COMMANDS
from memexp.config.sources import SOURCES, SourceOptions
from memexp.files import parse_yaml

CONF = Path(__file__).resolve().parent.parent / "conf"
"""Hydra's configuration folder; in a checkout it is a link to `conf/` at the top."""

PACKAGE_LINE = "# @package"

TYPED_AS = {"corpora": "data"}
"""Settings for which users type another word; inside Hydra this word is the name of a group."""

INTERNAL = ("_target_", "name", "task")
"""Settings that only the files of the groups give, never a user."""

PACKAGES_OF = {"pip": "PyPI", "apt": "Debian"}
"""Whose packages a client downloads."""

ORIGINS = {"python_packages": "installed packages", "files": "your own files"}
"""Where documents come from, by their source, if the corpus's file does not say it; tasks are drawn from a seed."""

WITHOUT_SCHEMA = {"train": ("task",)}
"""Groups without settings of their own: their files set the settings of other groups; `data.task` holds the choice."""


def settings_of(command: str, *, arch: str | None = None, source: str | None = None) -> dict[str, Field[Any]]:
    """Every setting of a command by its dotted name, in the order of the schema.

    Args:
        command: such as train.
        arch: list the options of this architecture; None: of all architectures.
        source: list the options of this source of documents, a key of `SOURCES`; None: of all sources.
    """
    return settings_of_schema(COMMANDS[command], arch=arch, source=source)


def settings_of_schema(schema: type, *, arch: str | None = None, source: str | None = None) -> dict[str, Field[Any]]:
    """Every setting of a schema by its dotted name; see `settings_of`."""
    return dict(_settings(schema, arch, source))


@cache
def _settings(schema: type, arch: str | None, source: str | None) -> dict[str, Field[Any]]:
    alternatives: dict[type, list[type]] = {
        Arch: [ARCHS[arch]] if arch in ARCHS else [*ARCHS.values()],
        SourceOptions: [SOURCES[source]] if source in SOURCES else [*SOURCES.values()],
    }
    return _walk(schema, "", alternatives)


def _walk(schema: type, prefix: str, alternatives: dict[type, list[type]]) -> dict[str, Field[Any]]:
    """The settings of a schema. `alternatives` maps a base schema to the schemas that can replace it."""
    settings: dict[str, Field[Any]] = {}
    for item in fields(schema):
        name = prefix + item.name
        if not is_dataclass(item.type):
            settings[name] = item
            continue
        declared = typing.cast(type, item.type)
        for nested in alternatives.get(declared, [declared]):
            settings |= _walk(nested, f"{name}.", alternatives)
    return settings


def is_offered(name: str) -> bool:
    """Whether help and completion show a setting."""
    return name.rpartition(".")[2] not in INTERNAL


def value_type(item: Field[Any]) -> type:
    """The type of a setting's value, or of the values in its list: bool, int, float, str or dict."""
    declared: Any = item.type
    if isinstance(declared, types.UnionType):
        declared = next(member for member in typing.get_args(declared) if member is not types.NoneType)
    if typing.get_origin(declared) is list:
        declared = typing.get_args(declared)[0]
    return typing.cast(type, typing.get_origin(declared) or declared)


def is_list(item: Field[Any]) -> bool:
    """Whether a setting is a list of values."""
    return typing.get_origin(item.type) is list


def groups_of(command: str) -> dict[str, list[str]]:
    """The groups of a command, each with its choices in sorted order."""
    names = [item.name for item in fields(COMMANDS[command]) if (CONF / item.name).is_dir()]
    names += WITHOUT_SCHEMA.get(command, ())
    return {name: choices_of(name) for name in names}


def choices_of(group: str) -> list[str]:
    """The choices of a group, which are the names of its files: `conf/size/small.yaml` is small."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def source_of(data: str) -> str | None:
    """The source that a choice of `data` reads, a key of `SOURCES`; its file or a file in its defaults names the source."""
    path = CONF / "data" / f"{data}.yaml"
    named = re.search(r"^defaults: \[(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else None
    if named is None:
        return None
    base = named[1].removeprefix("base_")
    return base if base in SOURCES else source_of(named[1])


def description_of(group: str, choice: str) -> str:
    """The first comment line in the file of a choice."""
    for line in (CONF / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith(PACKAGE_LINE):
            return line.lstrip("# ").strip()
    return ""


def origin_of(data: str) -> str:
    """Where the documents of a choice of `data` come from, by its file: a data set of the hub, packages, or this machine."""
    content = parse_yaml((CONF / "data" / f"{data}.yaml").read_text(encoding="utf-8"))
    if not (first := content["defaults"][0]).startswith("base_"):
        return origin_of(first)
    source = content.get("source") or {}
    if sets := source.get("sets"):
        return f"Hugging Face: {sets[0]['path']}"
    if parts := source.get("parts"):
        clients = {part["client"].partition("-")[0] for part in parts.values()}
        return f"packages of {' and '.join(sorted(PACKAGES_OF[client] for client in clients))}"
    return ORIGINS.get(source_of(data) or "", "drawn from a seed")


def flatten(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted names: {'arch': {'name': 'xl'}} becomes {'arch.name': 'xl'}; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{where}{key}.")
        else:
            flat[f"{where}{key}"] = value
    return flat
