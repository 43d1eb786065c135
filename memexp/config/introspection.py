"""What can be set: every command's settings by dotted name, and the groups of `conf/` with their choices.

Reads the schemas and the folder's names only, so that help and completion are instant.
"""

import re
import types
import typing
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from memexp.config.arch import ARCHS, Arch
from memexp.config.commands import COMMANDS
from memexp.config.sources import SOURCES, SourceOptions

CONF = Path(__file__).resolve().parent.parent / "conf"
"""Hydra's configuration folder: in a checkout a link to the one at its top."""

PACKAGE_LINE = "# @package"

TYPED_AS = {"corpora": "data"}
"""Settings that are typed by another word, which inside Hydra is a group's."""

INTERNAL = ("_target_", "name", "task")
"""Settings of the groups' files that nobody sets by hand."""

WITHOUT_SCHEMA = {"train": ("task",)}
"""Groups that have no settings of their own but set those of others; `data.task` says which was chosen."""


def settings_of(command: str, *, arch: str | None = None, source: str | None = None) -> dict[str, Field[Any]]:
    """Every setting of a command by its dotted name, in the order of the schema.

    Args:
        command: such as train.
        arch: the architecture whose options are wanted; None means those of all.
        source: the source of documents whose options are wanted, a key of `SOURCES`; None means those of all.
    """
    return settings_of_schema(COMMANDS[command], arch=arch, source=source)


def settings_of_schema(schema: type, *, arch: str | None = None, source: str | None = None) -> dict[str, Field[Any]]:
    """Every setting of a schema by its dotted name; see `settings_of`."""
    several: dict[type, list[type]] = {
        Arch: [ARCHS[arch]] if arch in ARCHS else [*ARCHS.values()],
        SourceOptions: [SOURCES[source]] if source in SOURCES else [*SOURCES.values()],
    }
    return _walk(schema, "", several)


def _walk(schema: type, prefix: str, several: dict[type, list[type]]) -> dict[str, Field[Any]]:
    """Settings of a schema. `several` has the schemas that can stand in the place of one."""
    found: dict[str, Field[Any]] = {}
    for item in fields(schema):
        name = prefix + item.name
        if not is_dataclass(item.type):
            found[name] = item
            continue
        wanted = typing.cast(type, item.type)
        for nested in several.get(wanted, [wanted]):
            found |= _walk(nested, f"{name}.", several)
    return found


def is_offered(name: str) -> bool:
    """Whether help and completion show a setting."""
    return name.rpartition(".")[2] not in INTERNAL


def value_type(item: Field[Any]) -> type:
    """The type of a setting's value, or of the values in its list: bool, int, float, str or dict."""
    wanted: Any = item.type
    if isinstance(wanted, types.UnionType):
        wanted = next(member for member in typing.get_args(wanted) if member is not types.NoneType)
    if typing.get_origin(wanted) is list:
        wanted = typing.get_args(wanted)[0]
    return typing.cast(type, typing.get_origin(wanted) or wanted)


def is_list(item: Field[Any]) -> bool:
    """Whether a setting takes several values."""
    return typing.get_origin(item.type) is list


def groups_of(command: str) -> dict[str, list[str]]:
    """The groups that a command chooses from, each with its choices, sorted."""
    names = [item.name for item in fields(COMMANDS[command]) if (CONF / item.name).is_dir()]
    names += WITHOUT_SCHEMA.get(command, ())
    return {name: choices_of(name) for name in names}


def choices_of(group: str) -> list[str]:
    """The files of a group, as they are chosen: `conf/size/small.yaml` is small."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def source_of(data: str) -> str | None:
    """The source that a choice of `data` reads, a key of `SOURCES`: its file, or the file that it builds on, names it."""
    path = CONF / "data" / f"{data}.yaml"
    named = re.search(r"^defaults: \[(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else None
    if named is None:
        return None
    base = named[1].removeprefix("base_")
    return base if base in SOURCES else source_of(named[1])


def description_of(group: str, choice: str) -> str:
    """The first line of comment of a group's file."""
    for line in (CONF / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith(PACKAGE_LINE):
            return line.lstrip("# ").strip()
    return ""


def flatten(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """{'arch': {'name': 'xl'}} as {'arch.name': 'xl'}; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{where}{key}.")
        else:
            flat[f"{where}{key}"] = value
    return flat
