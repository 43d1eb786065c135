"""Help: for the program as plain text, for a command as tables with the values that the command line gives."""

from dataclasses import Field
from typing import Any

from memexp.config.arch import ARCHS
from memexp.config.commands import COMMANDS
from memexp.config.field import AS_TYPED, SIZE_UNITS
from memexp.config.introspection import (
    CONF,
    TYPED_AS,
    choices_of,
    description_of,
    groups_of,
    is_list,
    is_offered,
    settings_of,
    source_of,
    value_type,
)
from memexp.files import parse_yaml

USAGE = {
    "prepare": "memexp prepare [data=NAME] [key=value ...]",
    "data": "memexp data list | inspect NAME [key=value ...]",
    "train": "memexp train [-m] [group=choice ...] [key=value ...]",
    "eval": "memexp eval [-m] RUN [key=value ...]",
    "reproduce": "memexp reproduce NAME [key=value ...]",
    "plan": "memexp plan NAME [key=value ...]",
    "generate": "memexp generate RUN prompt=TEXT [key=value ...]",
    "table": "memexp table [RUN ...] [key=value ...]",
    "diff": "memexp diff A B [key=value ...]",
    "report": "memexp report [key=value ...]",
    "runs": "memexp runs [key=value ...]",
    "bench": "memexp bench [NAME ...] [key=value ...]",
}

EXAMPLES = {
    "prepare": ["memexp prepare data=stdlib", "memexp prepare data=text data.path=DIR"],
    "data": ["memexp data list", "memexp data inspect code", "memexp data inspect text data.path=DIR split=test"],
    "train": [
        "memexp train arch=knn mem=64k",
        "memexp train -m arch=knn mem=0,8k,64k jobs=2",
        "memexp train arch=knn lanes=256 devices=8 nodes=4 launcher=slurm",
        "memexp train -m arch=vanilla,xl seed=0,1 --dry-run",
        "memexp train arch=knn mem=8k init_from=RUN",
    ],
    "eval": ["memexp eval RUN mem=64k", "memexp eval RUN memory=off", "memexp eval -m RUN mem=0,8k,64k"],
    "reproduce": [
        "memexp reproduce memorizing/table4 data=code budget=2h",
        "memexp reproduce memorizing/table4 --dry-run",
        "memexp reproduce all --dry-run",
    ],
    "plan": ["memexp plan memorizing/table4", "memexp plan blockrecurrent/table1 hardware=tpu-v4 devices=32"],
    "generate": [
        "memexp generate RUN prompt='import '",
        "memexp generate RUN prompt_file=FILE tokens=2k temperature=0.8 top_p=0.95",
    ],
    "table": [
        "memexp table memorizing/table4 data=code",
        "memexp table tag=demo",
        "memexp table RUN RUN metric=bits_per_byte",
        "memexp table RUN RUN baseline=xl out=DIR",
    ],
    "diff": ["memexp diff RUN_A RUN_B out=DIR", "memexp diff RUN@0 RUN@8192"],
    "report": ["memexp report", "memexp report local=false"],
    "runs": ["memexp runs", "memexp runs tag=demo"],
    "bench": ["memexp bench search step", "memexp bench gpu", "memexp bench gpu only=[search,archs] minutes=5"],
}

FLAGS = [
    ("-m, --multirun", "sweep: run every combination of values written as a,b,c"),
    ("--dry-run", "print the jobs without running them"),
    ("--plan", "measure nothing: print what the largest memory needs on an accelerator"),
    ("--cfg job", "print the settings instead of running; with --resolve, references are replaced by values"),
    ("--config-dir DIR", "read further group files from DIR"),
]

SOURCE = "data.source."

_SHORT = 24
"""The longest value of a source's option that is shown, in characters."""

SETTING_OF = {"--dry-run": "dry_run", "--plan": "plan"}
"""Flags that set a setting; they are shown only for commands that have it."""


def summary_of(command: str) -> str:
    """What a command does, in one line."""
    return (COMMANDS[command].__doc__ or "").partition(": ")[2].rstrip(".")


def overview() -> str:
    """The help of the program."""
    width = max(map(len, COMMANDS)) + 5
    lines = ["memexp: train, evaluate and compare transformers with memory", "", "Commands"]
    lines += [f"  {name:{width}}{summary_of(name)}" for name in COMMANDS]
    lines += [
        f"  {'completion':{width}}print the completion script of a shell: completion bash, completion zsh",
        "",
        "Settings are written key=value; sizes may be written 64k. All settings of a command:",
        "  memexp COMMAND --help",
        "",
        "Examples",
        "  memexp train arch=knn mem=65536",
        "  memexp train -m arch=knn mem=0,8192,65536",
        "  memexp table",
    ]
    return "\n".join(lines)


def show(command: str, overrides: list[str]) -> None:
    """Print a command's groups, settings, flags and examples.

    Args:
        overrides: settings of the command line, whose values are shown.

    Raises:
        UserError: `overrides` cannot be composed.
    """
    from memexp.config.compose import compose
    from memexp.config.hydra_errors import in_one_line
    from memexp.terminal import Fitting, console

    with in_one_line(command):
        config = compose(command, overrides)
    screen = console(highlight=False, piped=80)
    screen.print(f"{USAGE[command]}\n\n{summary_of(command)[:1].upper()}{summary_of(command)[1:]}.\n", markup=False)
    groups = groups_of(command)
    if groups:
        screen.print(Fitting(_group_table(groups, config)))
    known = settings_of(command, arch=_chosen("arch", config), source=source_of(_chosen("data", config) or ""))
    screen.print(Fitting(_settings_table(known, config, groups)))
    if "arch" in groups:
        screen.print(Fitting(_mem_table()))
    if "data" in groups:
        screen.print(Fitting(_source_table(config, known)))
    flags = [flag for flag in FLAGS if SETTING_OF.get(flag[0]) in (None, *settings_of(command))]
    screen.print(Fitting(_plain_table("Flags", flags)))
    screen.print("Examples", style="bold")
    for example in EXAMPLES[command]:
        screen.print(f"  {example}", markup=False)


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=True,
        padding=(0, 1),
        show_header=bool(columns),
    )
    for column in columns:
        table.add_column(column, overflow="fold", header_style="dim")
    return table


def _plain_table(title: str, rows: list[tuple[str, str]]) -> Any:
    from rich.markup import escape

    table = _table(title)
    for row in rows:
        table.add_row(*map(escape, row))
    table.add_row("")
    return table


def _group_table(groups: dict[str, list[str]], config: Any) -> Any:
    table = _table("Groups, written group=choice", "group", "choice", "")
    for group, choices in groups.items():
        chosen = config.data.task if group == "task" else (config.get(group) or {}).get("name")
        for number, choice in enumerate(choices):
            mark = " *" if choice == chosen else ""
            table.add_row(group if number == 0 else "", f"{choice}{mark}", description_of(group, choice))
    table.add_row("", "* chosen", "")
    table.add_row("")
    return table


def _chosen(group: str, config: Any) -> str | None:
    """The chosen option of a group; None if the command does not have the group."""
    return str(config[group].name) if group in config else None


def _settings_table(known: dict[str, Field[Any]], config: Any, groups: dict[str, list[str]]) -> Any:
    from rich.markup import escape

    table = _table("Settings, written key=value, with the values that this command line gives", "setting", "value", "")
    # Settings without a group first: they are changed most often.
    for name, item in sorted(known.items(), key=lambda pair: pair[0].partition(".")[0] in groups):
        if is_offered(name) and not name.startswith(SOURCE):  # these have their own table
            table.add_row(TYPED_AS.get(name, name), escape(_value(config, name)), escape(describe(item)))
    table.add_row("")
    return table


def _value(config: Any, name: str) -> str:
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(config, name) or any(
        OmegaConf.is_missing(config, part) for part in [name.partition(".")[0]]
    ):
        return "must be given"
    value = OmegaConf.select(config, name)
    if value is None or value == "":
        return "-"
    if OmegaConf.is_config(value):
        values = OmegaConf.to_container(value, resolve=True)
        return f"[{','.join(map(str, values))}]" if isinstance(values, list) else f"of {name.partition('.')[0]}="
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(item: Field[Any]) -> str:
    """The help of a setting, with its unit and allowed values."""
    unit, low, high, choices = (item.metadata[name] for name in ("unit", "low", "high", "choices"))
    notes = []
    if choices:
        notes.append(" | ".join(choices))
    elif value_type(item) is bool:
        notes.append("true | false")
    if unit and unit not in ("path", "run", "runs", "experiment", AS_TYPED):
        notes.append(f"in {unit}, 64k allowed" if unit in SIZE_UNITS else f"in {unit}")
    if low is not None and high is not None:
        notes.append(f"{low:g} to {high:g}")
    elif low is not None:
        notes.append(f"{low:g} or more")
    if is_list(item):
        notes.append("a list, [a,b]")
    return str(item.metadata["help"]) + (f" ({'; '.join(notes)})" if notes else "")


def _source_table(config: Any, known: dict[str, Field[Any]]) -> Any:
    """The options of the chosen corpus's source; for a long value only "of data=", as the corpus's file in conf/data holds it."""
    from rich.markup import escape

    table = _table(f"Settings of data.source with data={config.data.name}", "setting", "value", "")
    for name, item in known.items():
        if name.startswith(SOURCE) and is_offered(name):
            value = _value(config, name)
            table.add_row(name, escape(value if len(value) <= _SHORT else "of data="), escape(describe(item)))
    table.add_row("")
    return table


def _mem_table() -> Any:
    table = _table("What `mem` counts", "arch", "unit", "default")
    for choice in choices_of("arch"):
        content = parse_yaml((CONF / "arch" / f"{choice}.yaml").read_text(encoding="utf-8"))
        table.add_row(choice, ARCHS[choice].mem_unit or "nothing", str(content["mem"]))
    table.add_row("")
    return table
