"""Shell completion: a small script per shell, which asks `memexp __complete` for the words that fit at the cursor."""

from collections.abc import Iterable
from dataclasses import Field
from typing import Any

from memexp.cli.arguments import CFG, FLAGS, OWN_FLAGS, POSITIONALS
from memexp.config.commands import COMMANDS
from memexp.config.introspection import TYPED_AS, groups_of, is_offered, settings_of, source_of, value_type
from memexp.errors import UserError, did_you_mean
from memexp.experiment.definition import ALL, experiments

BASH = """\
_memexp() {
    local line=${COMP_LINE:0:COMP_POINT} word words IFS=$'\\n'
    IFS=' ' read -ra words <<< "$line"
    [[ $line == *' ' ]] && words+=('')
    word=${words[-1]}
    COMPREPLY=($("${words[0]/#\\~/$HOME}" __complete "${words[@]:1}" 2> /dev/null))
    # Readline takes only the text after the last = for the word.
    [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace 2> /dev/null
}
complete -o default -F _memexp memexp
"""

ZSH = """\
#compdef memexp
_memexp() {
    local -a found open closed
    found=("${(@f)$("${words[1]/#\\~/$HOME}" __complete "${(@)words[2,CURRENT]}" 2> /dev/null)}")
    open=(${(M)found:#*[=.]})
    closed=(${found:#*[=.]})
    compadd -S '' -- $open
    compadd -- $closed
    (( ${#open} + ${#closed} )) || _files
}
compdef _memexp memexp
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH}


def script(words: list[str]) -> str:
    """The completion script of a shell, or the help of this command.

    Raises:
        UserError: `words` is not the name of one known shell.
    """
    if words in (["--help"], ["-h"]):
        return USAGE
    if len(words) != 1 or words[0] not in SCRIPTS:
        hint = did_you_mean(words[0], SCRIPTS) if words else ""
        raise UserError(f"the shell is {' '.join(words) or 'not given'}; expected one of {', '.join(SCRIPTS)}{hint}")
    return SCRIPTS[words[0]]


USAGE = """\
memexp completion bash | zsh

Print a script that makes your shell complete commands, settings, their values and the names of runs. To use it now:
  source <(memexp completion bash)
"""


def candidates(words: list[str]) -> list[str]:
    """The possible completions of the last word.

    Args:
        words: the words after the program's name, up to the cursor; the last one is completed and may be empty.
    """
    current = words[-1] if words else ""
    if len(words) <= 1:
        return _starting(current, [*COMMANDS, "completion", "help", "--help", "--version"])
    command = words[0]
    if command == "completion":
        return _starting(current, SCRIPTS)
    if command == "help":
        return _starting(current, COMMANDS)
    if command not in COMMANDS:
        return []
    if current.startswith("-"):
        return _starting(current, [*FLAGS, *OWN_FLAGS])
    if words[-2] in ("--cfg", "-c"):
        return _starting(current, CFG)
    return _settings(command, current, words)


def _settings(command: str, current: str, words: list[str]) -> list[str]:
    groups = groups_of(command)
    chosen = dict(word.split("=", 1) for word in words[:-1] if word.startswith(("arch=", "data=")))
    known = settings_of(command, arch=chosen.get("arch"), source=source_of(chosen.get("data", "")))
    key, equals, value = current.partition("=")
    if equals:
        # In a list of values, the last one is completed.
        before, comma, last = value.rpartition(",")
        values = groups.get(key) or (_values(known[key], command) if key in known else [])
        return [f"{key}={before}{comma}{match}" for match in _starting(last, values)]
    names = [f"{TYPED_AS.get(name, name)}=" for name in [*groups, *filter(is_offered, known)]]
    # Settings of a group are offered only after its name and the dot are typed.
    shown = {
        name if name.count(".") <= current.count(".") else ".".join(name.split(".")[: current.count(".") + 1]) + "."
        for name in names
    }
    bare = [
        name
        for setting in POSITIONALS.get(command, ())
        for name in (_values(known[setting], command) if setting in known else groups[setting])
    ]
    return _starting(current, [*sorted(shown), *bare])


def _values(item: Field[Any], command: str) -> list[str]:
    unit = item.metadata["unit"]
    if unit == "experiment":
        return [ALL, *experiments()] if command == "reproduce" else experiments()  # a plan is of one table
    if unit in ("run", "runs"):
        from memexp.files import find_root
        from memexp.store.folder import all_runs

        runs = [run.name for run in all_runs(find_root(None))]
        return [*runs, ALL, *experiments()] if unit == "runs" else runs
    if value_type(item) is bool:
        return ["true", "false"]
    return list(item.metadata["choices"])


def _starting(prefix: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(prefix)]
