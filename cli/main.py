"""The program `memexp`: takes the command's name off and passes the rest to Hydra."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from memexp import __version__
from memexp.config.commands import COMMANDS
from memexp.config.train import TrainConfig
from memexp.errors import USER_ERROR, UserError
from memexp.machine import why_full
from memexp.terminal import escape, remembered, same_command, suit_the_terminal, warn_as_we_do
from memexp.train.interrupt import Stopped, stopped_by_signals

INTERRUPTED, BROKEN_PIPE = 130, 141
CONTINUING = ("prepare", "train", "reproduce")
"""Commands that keep finished work when they are interrupted."""
OUTSIDE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP
)  # fmt: skip
"""Error numbers caused by the user's disk, folder or file name, not by a bug."""
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Words in PyTorch's errors when memory runs out."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after the program's name; default: the arguments of this process.

    Returns:
        The exit code: 0; 2 after a user's error, with one line on stderr; 130 or 143 after SIGINT or SIGTERM.
    """
    words = sys.argv[1:] if argv is None else argv
    with remembered(words):
        return _main(words)


def _main(words: list[str]) -> int:
    name = f"memexp {words[0]}" if words and words[0] in COMMANDS else "memexp"
    suit_the_terminal()
    warn_as_we_do()
    try:
        with stopped_by_signals(name):
            code = _dispatch(words)
        if sys.stdout is not None:  # it may have been closed
            sys.stdout.flush()
        return code
    except UserError as error:
        from memexp.cli.guesses import try_instead

        message, instead = " ".join(map(str.strip, str(error).splitlines())), try_instead(words)
        stop = "." if instead and message[-1:] not in ".?" else ""
        return _refused(name, error, escape(message + stop + instead))
    except KeyboardInterrupt as error:
        later = f"; {same_command()} continues from there" if words and words[0] in CONTINUING else ""
        print(f"{name}: interrupted{escape(later)}", file=sys.stderr)
        return 128 + error.signal_number if isinstance(error, Stopped) else INTERRUPTED
    except BrokenPipeError:
        # The reader has stopped, as `| head` does. Python flushes stdout again at its end: send that to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        what = f"use {escape(str(error.filename))}" if error.filename else "write"
        cause = why_full(error, Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None)
        return _refused(name, error, f"cannot {what}: {error.strerror}; expected a place that can be used{cause}")
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        asked = re.search(r"ried to allocate [\d.]+ \w+", str(error))
        return _refused(
            name,
            error,
            f"out of memory{f' (t{asked[0]})' if asked else ''}; expected a run that fits. Likely cause: mem, lanes, segment or the model "
            "is too large for this machine",
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1


def _refused(name: str, error: BaseException, message: str) -> int:
    """Print a user's error after the name of the command and, of several processes, that of the one in which it was raised."""
    print(f"{', '.join([name, *getattr(error, '__notes__', [])])}: {message}", file=sys.stderr)
    return USER_ERROR


def _dispatch(words: list[str]) -> int:
    command, *rest = words or ["--help"]
    if not all(word.isprintable() for word in words):
        from memexp.cli.arguments import refuse_unreadable

        for word in words:
            refuse_unreadable(word)
    if command in ("help", "--help", "-h") and rest and rest[0] not in ("help", "--help", "-h"):
        command, rest = rest[0], [*rest[1:], "--help"]
    if command in ("help", "--help", "-h", "--version", "-V") and rest and rest != ["--help"]:
        raise UserError(f"{command} takes no {escape(rest[0])!r}; expected it alone, or `memexp help COMMAND`")
    if command in ("help", "--help", "-h"):
        from memexp.cli.help import overview

        print(overview())
    elif command in ("--version", "-V"):
        print(f"memexp {__version__}")
    elif command == "completion":
        from memexp.cli.completion import script

        print(script(rest), end="")
    elif command == "__complete":
        from memexp.cli.completion import candidates

        print("\n".join(candidates(rest)))
    elif command in COMMANDS:
        return _run(command, rest)
    else:
        from memexp.config.synonyms import meant_command, suggestion

        known = [*COMMANDS, "completion"]
        meant = suggestion(meant_command(command, known), "memexp ")
        raise UserError(f"there is no command {escape(command)!r}; expected one of {', '.join(known)}{meant}")
    return 0


def _run(command: str, rest: list[str]) -> int:
    from memexp.cli.arguments import parse

    arguments = parse(command, rest)
    if arguments.help:
        from memexp.cli.help import show

        show(command, arguments.overrides)
        return 0

    composed: list[Any] = []
    _through_hydra(command, arguments.for_hydra(), composed)
    if composed and (unused := [word for word in arguments.overrides if word.startswith("hydra")]):
        raise UserError(f"{unused[0]} has an effect only in a sweep; expected the flag -m with it")
    for config in composed:
        _call(command, config)
    return 0


def _through_hydra(command: str, words: list[str], composed: list[Any]) -> None:
    """Run Hydra with these words; the configuration of a single job is appended to `composed`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # pass errors through unchanged
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from memexp.config.compose import register
    from memexp.config.hydra_errors import in_one_line
    from memexp.config.introspection import CONF
    from memexp.launch import sweep
    from memexp.launch.hydra import register_plugins

    def task(config: Any) -> None:
        if HydraConfig.get().mode == RunMode.RUN:
            composed.append(config)  # it is run later, outside Hydra, which would add its own lines to an error
        else:
            _call(command, config)  # a job of another launcher, maybe in another process

    register()
    register_plugins()
    if command == "train":
        sweep.show_finished = _show_finished
    with in_one_line(command), _argv(["memexp", *words]):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)()


def _call(command: str, config: Any) -> None:
    from memexp.config.compose import typed
    from memexp.config.hydra_errors import in_one_line

    with in_one_line(command):
        settings = typed(config)
    if isinstance(settings, TrainConfig) and settings.dry_run:
        from memexp.launch.sweep import Job, print_plan

        print_plan([Job(0, [], f"arch={settings.arch.name} mem={settings.mem}", settings)])
    else:
        command_module(command).run(settings)


def _show_finished(runs: list[Path]) -> None:
    from memexp.cli.commands.table import show_finished

    show_finished(runs)


def command_module(command: str) -> Any:
    """The module of a command; its `run(config)` executes the command."""
    return import_module(f"memexp.cli.commands.{command}")


@contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """Let Hydra find these words, which it reads from `sys.argv`; what was typed is in `memexp.terminal`."""
    before = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = before
