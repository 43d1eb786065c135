"""Explain errors of Hydra and OmegaConf in one line. Every other error is a bug and keeps its traceback."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from memexp.config.arch import ARCHS
from memexp.config.field import SIZE_UNITS
from memexp.config.introspection import choices_of, is_list, settings_of, value_type
from memexp.config.sources import SOURCES
from memexp.config.synonyms import meant_value, suggestion, unknown_setting
from memexp.config.words import shown
from memexp.errors import UserError

NOISE = ("See http", "object_type", "reference_type", "provider=", "Config search path", "Set the environment")
"""Starts of lines in Hydra's messages that do not help a user of the command line."""

EXTRAS = {"joblib": "parallel"}
"""Launchers that need an extra of the package, and the name of this extra."""

EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@contextmanager
def in_one_line(command: str, where: str = "") -> Iterator[None]:
    """Raise a user's error of the block as one line; a bug keeps its traceback.

    Args:
        command: as `explain` takes it.
        where: put before the message, such as the row of a table.

    Raises:
        UserError: the block could not compose or check settings.
    """
    try:
        yield
    except Exception as error:
        if (reason := explain(error, command)) is None:
            raise
        raise UserError(f"{where}{reason}") from error


def explain(error: BaseException, command: str) -> str | None:
    """Explain a user's error in one line; None if the error is a bug.

    Args:
        error: raised while Hydra composed or while the settings were checked.
        command: such as train; the message refers to its settings.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}; expected key=value. A value with special characters needs quotes inside the "
            "shell's quotes: 'key=\"a b\"'"
        )
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    text = str(error)
    if match := re.match(r"Could not override '([^']*)'", text):
        return unknown_setting(match[1], command)
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires|$)", text):
        return f"{match[1]} is a sweep over several values; expected one value, or the flag -m, or a list in brackets"
    if match := re.match(r"Could not append to config. An item is already at '([^']*)'", text):
        return f"{match[1]} is a setting already; expected it without the + before it"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    cause = error.__cause__ or error.__context__
    if match := re.match(r"Error merging override (\+*)([^=]*)=?(.*)", text, re.DOTALL):
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return unknown_setting(match[2], command)
        if isinstance(cause, ValidationError):
            return wrong_type(match[2], match[3], command)
    if isinstance(error, HydraException | OmegaConfBaseException) or _raised_in_hydra(error):
        return _plain(text or str(cause))
    return None


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = choices_of(group) or [name for name in error.options or [] if not name.startswith("base")]
    if not group or not options:
        return _plain(str(error))
    if choice == "base" and group in ("arch", "data"):
        known = ARCHS if group == "arch" else SOURCES
        return (
            f"there is no {group}=base; expected base_NAME in the defaults list of your own file in {group}/, with NAME one of "
            f"{', '.join(known)}"
        )
    if group == "hydra/launcher" and "slurm" in choice:
        return f"there is no {group}={choice}; expected launcher=slurm"
    if choice in EXTRAS:
        return f"{group}={choice} is not installed; expected `pip install memexp[{EXTRAS[choice]}]` first"
    meant = suggestion(meant_value(group, choice, options), f"{group}=")
    return f"there is no {group}={choice}; expected one of {', '.join(options)}{meant}"


def wrong_type(key: str, value: str, command: str) -> str:
    """The message about a value that is not of its setting's type."""
    known = settings_of(command)
    if item := known.get(re.sub(r"\[\d+\]$", "", key)):
        expected = EXPECTED.get(value_type(item), "key: value pairs in braces")
        if item.metadata["unit"] in SIZE_UNITS:
            expected += ", such as 4096 or 64k"
        return (
            f"{key} is {shown(value)}; expected {f'a list in brackets, each {expected}' if is_list(item) else expected}"
        )
    members = [name for name in known if name.startswith(f"{key}.")]
    expected = f"its settings one by one, such as {members[0]}=..." if members else "another type"
    return f"{key} is {shown(value)}; expected {expected}"


def _raised_in_hydra(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    packages = {"hydra", "omegaconf", "antlr4"}
    return isinstance(error, Exception) and bool(frames) and bool(packages & set(Path(frames[-1].filename).parts))


def _plain(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return "; ".join(line.rstrip(";") for line in lines if line and not line.startswith(NOISE))
