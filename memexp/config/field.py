"""How a setting is declared: its default, help, unit, range and meaning, in one dataclass field."""

from dataclasses import MISSING, field
from typing import Any, Literal

Effect = Literal["result", "speed", "nothing"]
"""What another value of a setting changes.

- result: the result; such an option is called *semantic*.
- speed: only where or how fast the result is computed; the result is equal up to rounding.
- nothing: nothing by itself; the setting only describes, or other settings take their values from it.
"""

UNSET = "???"
"""OmegaConf's mark for a value that must be given."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    departure: bool = False,
    of_memory: bool = False,
    effect: Effect = "result",
    later: bool = False,
    empty: bool = False,
) -> Any:
    """A dataclass field that carries what `--help` prints and `memexp.config.checks` enforces.

    Args:
        default: the value, or a list or dict that is copied for every instance.
        unit: the unit of the value. A value in one of `SIZE_UNITS` may be written 64k (65,536).
        low, high: the smallest and the largest value that is allowed.
        choices: the words that are allowed.
        departure: every value except the default departs from the papers; `departures` lists such settings.
        of_memory: the setting has no effect without a memory, so with `mem=0` only its default is accepted.
        effect: what another value changes. Only settings that change the result are part of a run's identity.
        later: the first runs did not have this setting. Its default is left out of a run's identity, so that the
            identities of these runs do not change.
        empty: text without a letter means something. Elsewhere it is refused, because as a path it would mean the working folder.
    """
    metadata = {
        "help": help, "unit": unit, "low": low, "high": high, "choices": choices, "departure": departure,
        "of_memory": of_memory, "effect": effect, "later": later, "empty": empty,
    }  # fmt: skip
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def group(schema: type, *, effect: Effect = "result") -> Any:
    """A dataclass field that holds a group of settings; `effect` applies to all of them."""
    return field(default_factory=schema, metadata={"effect": effect})


SIZE_UNITS = ("tokens", "pairs", "slots", "bytes")
"""Units whose values may be written with a binary suffix: 64k = 65,536, 1m = 1,048,576."""


MOST_THREADS, MOST_JOBS, MOST_LAYERS, MOST_DEVICES = 1024, 1024, 1000, 1024
"""More threads fail in libraries, and more layers take minutes to build; no machine needs them, or has more devices."""

AUTO = "auto"
"""A choice that the device makes."""

AS_TYPED = "text"
"""Unit of text that is taken literally, whatever special characters it contains."""


def default_of(item: Any) -> Any:
    """The default value of a dataclass field, `UNSET` when it has none."""
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else UNSET


def changed(config: Any, name: str) -> bool:
    """Whether a setting of an instance of a schema has another value than its default."""
    return bool(getattr(config, name) != default_of(config.__dataclass_fields__[name]))
