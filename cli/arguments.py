"""Translating the words typed after a command for Hydra: positional words, sizes such as 64k, and flags."""

import math
import re
import unicodedata
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

from memexp.config.field import SIZE_UNITS, UNSET, default_of
from memexp.config.introspection import CONF, TYPED_AS, groups_of, is_list, settings_of, value_type
from memexp.config.synonyms import meant_setting, meant_value, suggestion, unknown_setting
from memexp.config.words import (
    FUNCTION,
    GRAMMAR,
    as_typed,
    is_text,
    literal,
    quote,
    separated,
    shown,
    unquoted,
    values_of,
)
from memexp.errors import UserError, did_you_mean
from memexp.terminal import escape, unreadable

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
MULTIRUN = ("-m", "--multirun")

PATHS = ("/", "./", "../", "~/")
"""How a bare word begins that is a path whatever stands in it, `=` too."""

NUMBERS = {
    int: re.compile(r"0|[+-]?[1-9]\d*"),
    float: re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"),
}
"""How numbers are written. What Hydra also reads, such as 1_000 and 007, is more often a slip."""

CALLBACKS = re.compile(rb"callbacks|\\x|\\u", re.IGNORECASE)
"""What sets a callback in a file of settings; escapes, which could hide the word, are refused too."""

CHOICE = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
"""The name of a file in a group, ours or of --config-dir."""

REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""Another setting, whose value is taken."""

LINES_ALLOWED = "prompt="
"""The setting whose value may have line ends."""

FOR_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra.sweeper.max_batch_size", "hydra.sweep.dir")
"""Settings of Hydra that have an effect, all of them in a sweep; `hydra/sweeper` may name ours."""


SUBMITS = "launcher=slurm"
"""The setting that makes a job for a cluster even of a single command: a sweep of one."""


@dataclass
class Arguments:
    """A parsed command line."""

    command: str
    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    help: bool = False

    @property
    def sweeps(self) -> bool:
        """Whether the flag of a sweep is given."""
        return not {*MULTIRUN}.isdisjoint(self.flags)

    def for_hydra(self) -> list[str]:
        """The words to pass to Hydra.

        Before the jobs of a sweep, Hydra composes one configuration without the swept values. If a group is swept, that
        configuration may lack settings that only some choices have. Such settings are passed to the sweeper instead.
        """
        swept = [
            group for group in groups_of(self.command) if any(_sweeps(override, group) for override in self.overrides)
        ]
        if not swept or not self.sweeps:
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
    for word in words:
        refuse_unreadable(word)
    known = settings_of(command)
    arguments = Arguments(command)
    bare: list[str] = []
    settings: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag in ("--help", "-h"):
            arguments.help = True
        elif flag == "--dry-run":
            settings.append("dry_run=true")
        elif flag == "--plan":
            settings.append("plan=true")
        elif flag in FLAGS:
            arguments.flags.append(flag)
            if equals and not FLAGS[flag]:
                raise UserError(f"{flag} takes no value, but {shown(value)} follows; expected the flag alone")
            if FLAGS[flag]:
                arguments.flags.append(value if equals else _following(flag, rest))
                if not arguments.flags[-1].strip():
                    raise UserError(f"{flag} is empty; expected a value after it")
                if flag in ("--cfg", "-c") and arguments.flags[-1] not in CFG:
                    raise UserError(f"{flag} is {arguments.flags[-1]!r}; expected one of {', '.join(CFG)}")
        elif word.startswith("-"):
            key = flag.lstrip("-").replace("-", "_")
            meant = did_you_mean(flag, [*FLAGS, *OWN_FLAGS]) or suggestion(meant_setting(key, command))
            raise UserError(f"there is no flag {flag}; settings are written key=value{meant}")
        elif _is_setting(word, known, command):
            settings.append(word)
        else:
            bare.append(word)
    if SUBMITS in settings and command != "reproduce" and not arguments.sweeps:
        arguments.flags.append("-m")
    arguments.overrides = _positionals(command, bare, known, sweep=arguments.sweeps)
    arguments.overrides += [_override(word, known, command, sweep=arguments.sweeps) for word in settings]
    _refuse_callbacks(arguments)
    return arguments


def refuse_unreadable(word: str) -> None:
    """Refuse text that no file name or setting should have.

    Raises:
        UserError: the word is no UTF-8, or has a control character or a line end; the text of a prompt may have line ends.
    """
    if word.isprintable():
        return
    name, _, value = word.partition("=")
    if (at := next((at for at, char in enumerate(value) if unicodedata.category(char) == "Cs"), None)) is not None:
        raise UserError(
            f"{escape(name)} is not UTF-8 from byte {len(value[:at].encode())} on: {shown(value)}; expected text in UTF-8"
        )
    if any(unicodedata.category(char) == "Cs" for char in name):
        raise UserError(f"{shown(name)} is not UTF-8; expected text in UTF-8")
    if word.startswith(LINES_ALLOWED):
        word = word.replace("\n", " ").replace("\t", " ")
    if unreadable(word):
        raise UserError(
            f"{shown(word)} has a control character or a line end; expected text without them. Likely cause: a variable or "
            "the output of a command in it"
        )


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
    from memexp.data.sources.places import walk

    for flag, folder in zip(arguments.flags, arguments.flags[1:], strict=False):
        if flag not in ("--config-dir", "-cd"):
            continue
        place = Path(folder).expanduser()
        found = walk(place, hidden=True).members if place.is_dir() else []  # Hydra follows links too
        for path in sorted(member.path for member in found if member.path.suffix in (".yaml", ".yml")):
            if "callbacks" in path.relative_to(place).parts or CALLBACKS.search(path.read_bytes()):
                raise UserError(
                    f"{path} sets callbacks of Hydra, which would run other code; expected a folder of settings without them"
                )


def _is_setting(word: str, known: dict[str, Field[Any]], command: str) -> bool:
    """Whether a word is key=value or, of Hydra, ~key; not if it begins as a path does."""
    if word.startswith("~"):  # removes a key, or is a path below somebody's home
        key = word[1:].partition("=")[0].partition("@")[0]
        return key in {*groups_of(command), *known} or any(name.startswith(f"{key}.") for name in known)
    return "=" in word and not word.startswith(PATHS)


def _following(flag: str, rest: Any) -> str:
    value = next(rest, None)
    if value is None:
        raise UserError(f"{flag} is the last word; expected a value after it")
    return str(value)


def _positionals(command: str, words: list[str], known: dict[str, Field[Any]], *, sweep: bool) -> list[str]:
    overrides = []
    names = POSITIONALS.get(command, ())
    for name in names:
        if not words:
            break
        if name in known and is_list(known[name]):
            for word in words:
                _refuse_empty(name, word, known[name])
            overrides.append(f"{name}=[{','.join(literal(_at_home(word, known[name])) for word in words)}]")
            words = []
        else:
            overrides.append(_override(f"{name}={words[0]}", known, command, sweep=sweep))
            words = words[1:]
    if words:
        takes = f"takes {' '.join(name.upper() for name in names)} only" if names else "takes settings only"
        raise UserError(
            f"cannot place {words[0]!r}: {command} {takes}; settings are written key=value{_as_setting(words[0], known, command)}"
        )
    return overrides


def _as_setting(word: str, known: dict[str, Field[Any]], command: str) -> str:
    """What a bare word can mean that has no place: a setting without its value, or a choice of a group without the group."""
    if word in known:
        default = default_of(known[word])
        value = str(True if default is False else default).lower() if isinstance(default, int | float) else "VALUE"
        return f"; did you mean {word}={value}?"
    of = [group for group, choices in groups_of(command).items() if word in choices]
    return f"; did you mean {of[0]}={word}?" if len(of) == 1 else suggestion(meant_setting(word, command))


def _override(word: str, known: dict[str, Field[Any]], command: str, *, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    bare = key.lstrip("+~")
    if not bare:
        raise UserError(f"{word!r} has no key before the =; expected key=value")
    if re.match(r"hydra\b", bare):
        _check_hydra(word, bare, value)
        return word
    for name, typed in TYPED_AS.items():
        if key == typed and name in known:
            _refuse_empty(typed, value, known[name])
            return f"{name}={value if value.startswith('[') else f'[{value}]'}"
    if key in groups_of(command):
        chosen = separated(value) if not FUNCTION.fullmatch(value) else []
        if not all(CHOICE.fullmatch(unquoted(one.strip())) for one in chosen):
            choices = groups_of(command)[key]
            meant = suggestion(meant_value(key, value, choices), f"{key}=")
            raise UserError(f"there is no {key}={escape(value)}; expected one of {', '.join(choices)}{meant}")
        return f"{key}={quote(value)}" if value == "null" or not GRAMMAR.search(value) else word
    item = known.get(bare)
    if item is None and _is_unknown(key, known, command):
        raise UserError(unknown_setting(bare, command))
    if item is None or not equals:
        return word
    for _, one in values_of(value, item, sweep=sweep) if is_text(item) else [(value, value)]:
        _refuse_empty(bare, one, item)
    if is_text(item):
        return f"{key}={as_typed(_at_home(value, item), item, sweep=sweep)}"
    _check_references(bare, value, known)
    if value_type(item) in (int, float):
        if value_type(item) is int:
            base = 1024 if item.metadata["unit"] in SIZE_UNITS else 1000
            value = SIZE.sub(lambda size: _size(size, base), value)
        _check_numbers(bare, value, item, command, sweep=sweep)
        return f"{key}={value}"
    if value_type(item) is str and not GRAMMAR.search(value):
        return f"{key}={quote(value)}"
    return word


def _is_unknown(key: str, known: dict[str, Field[Any]], command: str) -> bool:
    """Whether nothing can have this key, so that Hydra need not be asked.

    It may belong to a group, hold settings, stand below a setting whose keys are the user's choice, or add a choice of a group of the
    user's own.
    """
    bare = key.lstrip("+~")
    if (CONF / bare).is_dir() and bare not in groups_of(command):  # Hydra would read its files
        return True
    if key != bare or "@" in key:
        return False
    holds = any(name.startswith(f"{bare}.") for name in known)
    below = any(bare.startswith(f"{name}.") and value_type(item) is dict for name, item in known.items())
    return not (holds or below or bare in groups_of(command))


def _refuse_empty(name: str, value: str, item: Field[Any]) -> None:
    """Refuse an empty value of a text setting in which it says nothing.

    Raises:
        UserError: the value is empty, or only spaces, or OmegaConf's mark for a value that is not given.
    """
    if value == UNSET:
        raise UserError(
            f"{name} is {UNSET}, which stands for a value that is not given; expected {item.metadata['help']}"
        )
    if value_type(item) is str and not value.strip() and not item.metadata["empty"]:
        default = "" if default_of(item) == UNSET else f"; without {name} it has its default"
        raise UserError(
            f"{name} is {'empty' if not value else 'only spaces'}; expected {item.metadata['help']}{default}. Likely cause: an empty "
            "variable of the shell"
        )


def _at_home(value: str, item: Field[Any]) -> str:
    """The value with the home folder in place of a leading ~, if it names a run; the shell replaces it only in bare words."""
    return (
        str(Path(value).expanduser()) if item.metadata["unit"] in ("run", "runs") and value.startswith("~/") else value
    )


def _check_references(name: str, value: str, known: dict[str, Field[Any]]) -> None:
    """Refuse an interpolation, unless it names another setting.

    Raises:
        UserError: says what may stand in ${}.
    """
    rest = REFERENCE.sub(lambda found: "" if found[1] in known and found[1] != name else found[0], value)
    if "${" in rest:
        found = REFERENCE.search(rest)
        seen = f"'{found[1]}' not found" if found and found[1] != name else shown(value)
        raise UserError(
            f"{name}: {seen}; expected a value, or ${{NAME}} with the name of another setting, whose value is taken"
        )


def _check_numbers(name: str, value: str, item: Field[Any], command: str, *, sweep: bool) -> None:
    """Refuse what is no number as people write them.

    Raises:
        UserError: says what was expected.
    """
    from memexp.config.hydra_errors import wrong_type

    kind, inside = value_type(item), value
    if is_list(item):
        if not re.fullmatch(r"\[[^\[\]]+\]", value):
            return  # Hydra reads it, and its result is checked
        inside = value[1:-1]
    elif re.search(r"[()\[\]]", value) or ("," in value and not sweep):
        return
    for one in separated(inside):
        number = unquoted(one.strip()).strip()
        if number == "null" or REFERENCE.fullmatch(number):
            continue
        if not NUMBERS[kind].fullmatch(number):
            if sweep and not _python_reads(number, kind):
                continue  # this job is refused, and others may be kept
            raise UserError(wrong_type(name, one if sweep else value, command))
        if kind is float and math.isinf(float(number)):
            raise UserError(f"{name} is {shown(value)}; expected a finite number")
        if kind is float and (not float(number) and re.search(r"^-|^[^eE]*[1-9]", number)):
            raise UserError(f"{name} is {shown(value)}; expected 0, or a number that is not lost in rounding to 0")


def _python_reads(text: str, kind: type) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _check_hydra(word: str, key: str, value: str) -> None:
    """Refuse a setting of Hydra that has no effect here.

    Raises:
        UserError: says which there are.
    """
    if key == "hydra/sweeper":
        if value != "checked":
            raise UserError(f"hydra/sweeper is {shown(value)}; expected checked, the only sweeper there is")
    elif key == "hydra.mode":
        raise UserError(f"hydra.mode is {shown(value)}; expected the flag -m for a sweep, and no flag for one job")
    elif not any(key == name or key.startswith(f"{name}.") for name in FOR_SWEEPS):
        raise UserError(
            f"{key} has no effect here, for memexp decides where files and logs go; expected one of {', '.join(FOR_SWEEPS)}, "
            "in a sweep"
        )
    elif word.startswith("~") or not value.strip():
        raise UserError(f"{key} is empty; expected a value")


def _size(size: re.Match[str], base: int) -> str:
    number = float(size[1]) * base ** SUFFIXES[size[2].lower()]
    return str(int(number)) if number.is_integer() else size[0]


def _sweeps(override: str, group: str) -> bool:
    key, _, value = override.partition("=")
    return key == group and bool(re.search(r"[,(]", value))
