"""Translating the words typed after a command for Hydra: positional words, sizes such as 64k, and flags."""

import re
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

from memexp.config.field import AS_TYPED, SIZE_UNITS
from memexp.config.introspection import TYPED_AS, groups_of, is_list, settings_of, value_type
from memexp.errors import UserError, did_you_mean

POSITIONALS = {
    "data": ("what", "data"), "eval": ("run",), "reproduce": ("table",), "plan": ("table",), "generate": ("run",),
    "table": ("runs",), "diff": ("a", "b"), "bench": ("what",),
}  # fmt: skip
"""Settings and groups that may be given as bare words, in this order; a setting that is a list takes all remaining words."""

FLAGS = {
    "-m": False, "--multirun": False, "--resolve": False, "--hydra-help": False,
    "--cfg": True, "-c": True, "--package": True, "-p": True, 
    "--config-dir": True, "-cd": True,
}  # fmt: skip
"""Hydra's flags, and whether a value follows."""

CFG = ("job", "hydra", "all")
OWN_FLAGS = ("--help", "-h", "--dry-run", "--plan")
SUFFIXES = {"k": 1, "m": 2, "g": 3}
SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([kmg])(?![\w.])", re.IGNORECASE)
PLAIN = re.compile(r"[A-Za-z_][\w./@-]*", re.ASCII)
"""Text that Hydra's grammar reads literally, without quotes."""

GRAMMAR = re.compile(r"""^null$|[,'"\[\](){}$]""")
"""Text with a special meaning for Hydra: lists, sweeps, functions, quotes, interpolations."""

INTERPOLATION, OUT_OF_USE = re.compile(r"(\\*)\$\{"), r"\1\1\\${"
"""The start of an interpolation, also in quotes, and its replacement, which Hydra reads literally."""

CALLBACKS = re.compile(rb"callbacks|\\x|\\u", re.IGNORECASE)
"""What sets a callback in a file of settings; escapes, which could hide the word, are refused too."""

NOT_TEXT = ("true", "false", "null", "inf", "nan")


@dataclass
class Arguments:
    """A parsed command line."""

    command: str
    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    help: bool = False

    def for_hydra(self) -> list[str]:
        """The words to pass to Hydra.

        Before the jobs of a sweep, Hydra composes one configuration without the swept values. If a group is swept, that
        configuration may lack settings that only some choices have. Such settings are passed to the sweeper instead.
        """
        swept = [
            group for group in groups_of(self.command) if any(_sweeps(override, group) for override in self.overrides)
        ]
        if not swept or not {"-m", "--multirun"} & set(self.flags):
            return [*self.flags, *self.overrides]
        early: list[str] = []
        late: list[str] = []
        for override in self.overrides:
            key, equals, value = override.partition("=")
            later = equals and key.lstrip("+").partition(".")[0] in swept and "." in key
            (late if later else early).append(f"{key}:{quote(value, always=True)}" if later else override)
        return [*self.flags, *early, *([f"+hydra.sweeper.params={{{','.join(late)}}}"] if late else [])]


def parse(command: str, words: list[str]) -> Arguments:
    """Parse the words after a command.

    Raises:
        UserError: an unknown flag, a flag without its value, or a bare word that the command does not take.
    """
    known = settings_of(command)
    arguments = Arguments(command)
    bare: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in ("--help", "-h"):
            arguments.help = True
        elif flag == "--dry-run":
            arguments.overrides.append("dry_run=true")
        elif flag == "--plan":
            arguments.overrides.append("plan=true")
        elif flag in FLAGS:
            arguments.flags.append(flag)
            if FLAGS[flag]:
                arguments.flags.append(value if equals else _following(flag, rest))
                if flag in ("--cfg", "-c") and arguments.flags[-1] not in CFG:
                    raise UserError(f"{flag} is {arguments.flags[-1]!r}; expected one of {', '.join(CFG)}")
        elif word.startswith("-"):
            raise UserError(
                f"there is no flag {flag}{did_you_mean(flag, [*FLAGS, *OWN_FLAGS])}; settings are written key=value"
            )
        elif equals or word.startswith("~"):
            arguments.overrides.append(_override(word, known, command))
        else:
            bare.append(word)
    arguments.overrides[:0] = _positionals(command, bare, known)
    _refuse_callbacks(arguments)
    return arguments


def _refuse_callbacks(arguments: Arguments) -> None:
    """Refuse Hydra's callbacks, on the command line and in a folder given with --config-dir: they would run any code.

    Raises:
        UserError: names the word or the file.
    """
    for word in arguments.overrides:
        if re.match(r"[+~]*hydra[./]callbacks", word):
            raise UserError(
                f"{word.partition('=')[0]} is not allowed, because it would run other code; expected no callbacks of Hydra"
            )
    for flag, folder in zip(arguments.flags, arguments.flags[1:], strict=False):
        if flag not in ("--config-dir", "-cd"):
            continue
        for path in sorted(Path(folder).expanduser().rglob("*.y*ml")):
            if "callbacks" in path.relative_to(Path(folder).expanduser()).parts or CALLBACKS.search(path.read_bytes()):
                raise UserError(
                    f"{path} sets callbacks of Hydra, which would run other code; expected a folder of settings without them"
                )


def _following(flag: str, rest: Any) -> str:
    value = next(rest, None)
    if value is None:
        raise UserError(f"{flag} is the last word; expected a value after it")
    return str(value)


def _positionals(command: str, words: list[str], known: dict[str, Field[Any]]) -> list[str]:
    overrides = []
    names = POSITIONALS.get(command, ())
    for name in names:
        if not words:
            break
        if name in known and is_list(known[name]):
            overrides.append(f"{name}=[{','.join(quote(word) for word in words)}]")
            words = []
        else:
            overrides.append(f"{name}={quote(words[0])}")
            words = words[1:]
    if words:
        takes = f"takes {' '.join(name.upper() for name in names)} only" if names else "takes settings only"
        keys = [*known, *groups_of(command)]
        raise UserError(
            f"cannot place {words[0]!r}: {command} {takes}; settings are written key=value{did_you_mean(words[0], keys)}"
        )
    return overrides


def _override(word: str, known: dict[str, Field[Any]], command: str) -> str:
    key, equals, value = word.partition("=")
    if not key:
        raise UserError(f"{word!r} has no key before the =; expected key=value")
    for name, typed in TYPED_AS.items():
        if key == typed and name in known:
            return f"{name}={value if value.startswith('[') else f'[{value}]'}"
    if key in groups_of(command) and (value == "null" or not GRAMMAR.search(value)):
        return f"{key}={quote(value)}"
    item = known.get(key.lstrip("+~"))
    if item is None or not equals:
        return word
    if value_type(item) is int:
        base = 1024 if item.metadata["unit"] in SIZE_UNITS else 1000
        return f"{key}={SIZE.sub(lambda size: _size(size, base), value)}"
    if item.metadata["unit"] == AS_TYPED:
        return f"{key}={quote(INTERPOLATION.sub(OUT_OF_USE, value))}"
    if value_type(item) is str and not GRAMMAR.search(value):
        return f"{key}={quote(value)}"
    return word


def _size(size: re.Match[str], base: int) -> str:
    number = float(size[1]) * base ** SUFFIXES[size[2].lower()]
    return str(int(number)) if number.is_integer() else size[0]


def _sweeps(override: str, group: str) -> bool:
    key, _, value = override.partition("=")
    return key == group and bool(re.search(r"[,(]", value))


def quote(text: str, *, always: bool = False) -> str:
    """Quote `text` so that Hydra's grammar reads it literally; with `always`, also where no quotes are needed."""
    if not always and PLAIN.fullmatch(text) and text.lower() not in NOT_TEXT:
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), text)
    return f"'{escaped}'"
