"""A command line that was refused, with every word of it as it should have been typed."""

import shlex
from collections import deque
from collections.abc import Iterable

from memexp.cli.arguments import CHOICE, FLAGS, OWN_FLAGS, PATHS, POSITIONALS
from memexp.config.commands import COMMANDS
from memexp.config.introspection import groups_of, is_list, settings_of, value_type
from memexp.config.synonyms import OPEN, Meant, meant_command, meant_setting, meant_value, names_of
from memexp.config.words import separated
from memexp.errors import nearest
from memexp.experiment.definition import experiments
from memexp.terminal import unreadable

TRUE = ("", "true", "1", "yes", "on")
"""Values with which a word such as `fp16` is switched on."""

OWN_CHOICES = ("--config-dir", "-cd")
"""Flags after which groups have choices that are not ours."""


class Unknown(Exception):
    """Nobody knows what a word means here."""


def try_instead(words: list[str]) -> str:
    """' Try `memexp ...`' with the whole command line, if it is known how each word should have been typed; else empty.

    Args:
        words: those after the program's name.
    """
    if not words or any(unreadable(word) for word in words):
        return ""
    try:
        right = _corrected(words)
    except Unknown:
        return ""
    if right == words:
        return ""
    variables = [word for word in right if word.partition("=")[0].isupper() and "=" in word]
    return f" Try `{shlex.join([*variables, 'memexp', *(word for word in right if word not in variables)])}`"


def _corrected(words: list[str]) -> list[str]:
    """The words after the program's name as they should have been typed.

    Raises:
        Unknown: of some word.
    """
    command, *rest = words
    if command in experiments():
        command, rest = "reproduce", words
    before = [command]
    if command not in COMMANDS:
        before = _only(meant_command(command, [*COMMANDS])).here.split()[1:]
        command = before[0]
    if experiment := _experiment_of_train(command, rest):
        return ["reproduce", experiment]
    return [*before, *_Line(command, rest).corrected()]


def _only(meant: list[Meant]) -> Meant:
    if len(meant) != 1 or OPEN in meant[0].here:
        raise Unknown
    return meant[0]


def _experiment_of_train(command: str, rest: list[str]) -> str | None:
    """The experiment that somebody trains as other programs do: `train +experiment=NAME`, or `train NAME`."""
    if command != "train" or len(rest) != 1:
        return None
    key, equals, value = rest[0].lstrip("+-").partition("=")
    if equals and meant_setting(key, "reproduce") != [Meant("table")]:
        return None
    found = nearest(value if equals else key, experiments())
    return found[0] if len(found) == 1 else None


class _Line:
    """The words after a command."""

    def __init__(self, command: str, words: Iterable[str]) -> None:
        self._command, self._left = command, deque(words)
        self._known, self._names = settings_of(command), names_of(command)
        self._positions = deque(POSITIONALS.get(command, ()))
        self._own_choices = any(word.partition("=")[0] in OWN_CHOICES for word in self._left)

    def corrected(self) -> list[str]:
        right: list[str] = []
        while self._left:
            word = self._left.popleft()
            if word.startswith("-"):
                right += self._flag(word)
            elif "=" in word and not word.startswith(PATHS):
                key, _, value = word.partition("=")
                right += self._setting(key, value)
            else:
                right += self._bare(word)
        return right

    def _flag(self, word: str) -> list[str]:
        flag, equals, value = word.partition("=")
        if flag in FLAGS:
            return [word, self._left.popleft()] if FLAGS[flag] and not equals and self._left else [word]
        if flag in OWN_FLAGS:
            return [word]
        key = flag.lstrip("-").replace("-", "_")
        if key not in self._names and (near := nearest(flag, [*FLAGS, *OWN_FLAGS])):
            return near if len(near) == 1 and not equals else self._unknown()
        return self._setting(key, value if equals else self._value() or "true")

    def _value(self) -> str:
        """The next word, if it can be a value."""
        follows = bool(self._left) and "=" not in self._left[0] and not self._left[0].startswith("-")
        return self._left.popleft() if follows else ""

    def _setting(self, key: str, value: str) -> list[str]:
        name = key.lstrip("+~")
        if name.startswith("hydra") or key.startswith("~") or self._below(name):
            return [f"{key}={value}"]
        if name in self._names:
            return self._checked(name, value)
        row = _only(meant_setting(name, self._command))
        *others, last = row.here.split() or [""]
        if "=" in last:
            return [*others, last] if row.why or value.lower() in TRUE else self._unknown()
        return [*others, *self._checked(last, value)] if last else []

    def _below(self, name: str) -> bool:
        """Whether a name is a key of a setting that holds keys of the user's choice."""
        return any(name.startswith(f"{own}.") and value_type(item) is dict for own, item in self._known.items())

    def _checked(self, name: str, value: str) -> list[str]:
        """A setting with its value, of which each part between commas is a choice, if the setting has choices."""
        choices = self._names[name]
        item = self._known.get(name)
        if item is not None and item.metadata["unit"] == "experiment":
            choices = tuple(experiments())
        own = self._own_choices and name in groups_of(self._command)
        if not choices or own or value.startswith("["):
            return [f"{name}={value}"]
        parts = separated(value)
        wrong = [part for part in parts if part not in choices and CHOICE.fullmatch(part.replace(":", ""))]
        rights = {part: _only(meant_value(name, part, choices)).here for part in wrong}
        if len(parts) == 1:
            return rights.get(value, f"{name}={value}").split(" ")
        if any(right.partition("=")[0] != name or " " in right for right in rights.values()):
            raise Unknown
        return [f"{name}={','.join(rights.get(part, part).removeprefix(f'{name}=') for part in parts)}"]

    def _bare(self, word: str) -> list[str]:
        if self._positions:
            name = self._positions[0]
            item = self._known.get(name)
            many = item is not None and is_list(item)
            if not many:
                self._positions.popleft()
            if item is not None and item.metadata["unit"] == "runs" and word not in experiments():
                like = nearest(word, experiments())
                return like if len(like) == 1 else [word]
            return [right.removeprefix(f"{name}=") for right in self._checked(name, word)]
        if word in self._names or meant_setting(word, self._command):
            switch = word in self._known and value_type(self._known[word]) is bool
            value = self._value() or ("true" if switch else "")
            return self._setting(word, value) if value else self._unknown()
        if len(groups := groups_with(word, self._command)) == 1:
            return [f"{groups[0]}={word}"]
        return self._unknown()

    def _unknown(self) -> list[str]:
        raise Unknown


def groups_with(choice: str, command: str) -> list[str]:
    """The groups of a command that have this choice."""
    return [group for group, choices in groups_of(command).items() if choice in choices]
