"""Values as they are typed, and how Hydra's grammar writes them: quotes, sweeps, interpolations."""

import re
from dataclasses import Field
from typing import Any

from memexp.config.field import AS_TYPED
from memexp.config.introspection import is_list, value_type
from memexp.errors import UserError
from memexp.terminal import escape

PLAIN = re.compile(r"[A-Za-z_][\w./@-]*", re.ASCII)
"""Text that Hydra's grammar reads literally, without quotes."""

GRAMMAR = re.compile(r"""^null$|[,'"\[\](){}$]""")
"""Text with a special meaning for Hydra: lists, sweeps, functions, quotes, interpolations."""

FUNCTION = re.compile(r"(?:choice|glob|interval|range|shuffle|sort|tag)\(.*\)", re.DOTALL)
"""A function of Hydra's grammar, which stands for several values."""

INTERPOLATION, OUT_OF_USE = re.compile(r"(\\*)\$\{"), r"\1\1\\${"
"""The start of an interpolation, also in quotes, and its replacement, which Hydra reads literally."""

IN_USE = re.compile(r"(\\+)\$\{")
"""What `OUT_OF_USE` has made of it."""

QUOTED = re.compile(r"""\s*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*(?=,|$)""")
"""A value in quotes, up to the comma after it."""

NOT_TEXT = ("true", "false", "null", "inf", "nan")

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

LONGEST = 60
"""Characters of a value that a message shows."""


def quote(text: str, *, always: bool = False) -> str:
    """Quote `text` so that Hydra's grammar reads it literally; with `always`, also where no quotes are needed."""
    if not always and PLAIN.fullmatch(text) and text.lower() not in NOT_TEXT:
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), text)
    return f"'{escaped}'"


def literal(text: str) -> str:
    """`text` as Hydra's grammar writes it if nothing in it has a special meaning, an interpolation neither."""
    return quote(INTERPOLATION.sub(OUT_OF_USE, text))


def is_text(item: Field[Any]) -> bool:
    """Whether a setting is one text that is taken as typed: a path, a name, a tag."""
    return value_type(item) is str and not is_list(item) and not item.metadata["choices"]


def as_typed(text: str, item: Field[Any], *, sweep: bool) -> str:
    """The value of a text setting for Hydra: taken literally; in a sweep, a comma outside quotes separates values."""
    if item.metadata["unit"] == AS_TYPED:
        return literal(text)
    if sweep and FUNCTION.fullmatch(text):
        return text
    return ",".join(
        value if value == "null" else literal(inside) for value, inside in values_of(text, item, sweep=sweep)
    )


def values_of(text: str, item: Field[Any], *, sweep: bool) -> list[tuple[str, str]]:
    """The values of a text setting, each as it is typed and without the quotes around it: in a sweep those between commas."""
    if not sweep or item.metadata["unit"] == AS_TYPED or FUNCTION.fullmatch(text):
        return [(text, text)]
    values = separated(text)
    values = [value.strip() for value in values] if len(values) > 1 else values
    return [(value, unquoted(value)) for value in values]


def separated(text: str) -> list[str]:
    """The values between the commas of a sweep; a quote counts only around a whole value, as in `'a,b',c`."""
    values, at = [], 0
    while True:
        quoted = QUOTED.match(text, at)
        end = quoted.end() if quoted else text.find(",", at)
        if end < 0:
            end = len(text)
        values.append(text[at:end])
        if end >= len(text):
            return values
        at = end + 1


def unquoted(text: str) -> str:
    """`text` without the quotes around it, if it has some; quotes in it are written after a backslash."""
    if not QUOTED.fullmatch(text):
        return text
    mark, inside = text.strip()[0], text.strip()[1:-1]
    return re.sub(rf"(\\+)({mark}|$)", lambda end: end[1][: len(end[1]) // 2] + end[2], inside)


def typed_again(override: str, known: dict[str, Field[Any]]) -> str:
    """An override of Hydra as a user types it without a sweep: the reverse of `as_typed`."""
    key, _, value = override.partition("=")
    item = known.get(key.lstrip("+"))
    if item is None or not is_text(item) or value == "null":
        return override
    return f"{key}={IN_USE.sub(lambda found: found[1][: (len(found[1]) - 1) // 2] + '${', unquoted(value))}"


def shown(value: Any) -> str:
    """A value in quotes for a message: escaped, and not longer than a line can take."""
    text = escape(str(value))
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...").replace("\\\\", "\\")


def seconds_in(name: str, text: str) -> float:
    """A time such as 90m, 2h or 1.5d, in seconds.

    Args:
        name: of the setting, for the message.

    Raises:
        UserError: it is not a number followed by s, m, h or d.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    if match is None:
        raise UserError(f"{name} is {shown(text)}; expected a number followed by s, m, h or d, such as 90m or 2h")
    return float(match[1]) * SECONDS[match[2]]
