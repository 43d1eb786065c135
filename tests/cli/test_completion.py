"""Completion, driven through the shells themselves."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memexp.cli.completion import candidates, script
from memexp.config.commands import COMMANDS
from memexp.config.introspection import choices_of

CASES = {
    "memexp tr": ["train"],
    "memexp train ar": ["arch.", "arch="],
    "memexp train arch=": choices_of("arch"),
    "memexp train -m arch=knn,v": ["knn,vanilla"],
    "memexp train arch.neigh": ["arch.neighbours="],
    "memexp train arch=vanilla arch.neigh": [],
    "memexp train arch=knn arch.combine=": ["gate", "joint"],
    "memexp train dry_run=": ["true", "false"],
    "memexp train data.tokenizer.k": ["data.tokenizer.kind="],
    "memexp train --dr": ["--dry-run"],
    "memexp train --cfg ": ["job", "hydra", "all"],
    "memexp completion ": ["bash", "zsh"],
    "memexp eval knn": ["knn-a"],
    "memexp train task=": ["classify", "predict"],
    "memexp train data.ta": [],
    "memexp data inspect ti": ["tiny"],
    "memexp reproduce memorizing/table1": ["memorizing/table14", "memorizing/table15", "memorizing/table16"],
    "memexp plan rmt/eq": ["rmt/equations"],
    "memexp table rmt/e": ["rmt/enwik8", "rmt/equations"],
    "memexp nonsense ": [],
}


@pytest.fixture
def shell(empty: Path, environment: dict[str, str]):
    """Runs a shell's program in a folder with one run, with `memexp` on its path."""
    from memexp.files import find_root

    program = empty / "bin" / "memexp"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nimport memexp.store.folder\nfrom memexp.cli.main import main\n"
        "memexp.files.find_root = lambda root: __import__('pathlib').Path.cwd()\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    run = find_root(str(empty)) / "results" / "runs" / "knn-a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("tag: ''\n")

    def call(name: str, text: str) -> str:
        path = f"{program.parent}:{environment['PATH']}"
        done = subprocess.run(
            [name, *(["-f"] if name == "zsh" else ["--norc"]), "-c", text],
            cwd=empty,
            env=environment | {"PATH": path},
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert done.stderr == ""
        return done.stdout

    return call


@pytest.mark.hard
def test_bash(shell) -> None:
    tries = "\n".join(f"try {line!r}" for line in CASES)
    found = shell("bash", f"""
        source <(memexp completion bash)
        complete -p memexp
        try() {{ COMP_LINE=$1; COMP_POINT=${{#1}}; COMPREPLY=(); _memexp memexp; (IFS=,; echo "$1>${{COMPREPLY[*]}}"); }}
        {tries}
    """)  # fmt: skip
    lines = found.splitlines()
    assert lines[0] == "complete -o default -F _memexp memexp"
    assert lines[1:] == [f"{line}>{','.join(wanted)}" for line, wanted in CASES.items()]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed here")
def test_zsh(shell) -> None:
    # Outside of a real completion `compadd` and `compdef` do not exist: these stand-ins print what would be offered.
    found = shell("zsh", """
        compdef() { }; _files() { print files }
        compadd() { while [[ $1 != -- ]]; do shift; done; shift; (( $# )) && print -l -- "$@"; return 0 }
        source <(memexp completion zsh)
        words=(memexp train arch=); CURRENT=3; _memexp
        words=(memexp train arch.neigh); CURRENT=3; _memexp
        words=(memexp train ar); CURRENT=3; _memexp
        words=(memexp train data.path=); CURRENT=3; _memexp
    """)  # fmt: skip
    assert found.splitlines() == [
        *(f"arch={name}" for name in choices_of("arch")),
        "arch.neighbours=",
        "arch.",
        "arch=",
        "files",
    ]


def test_help_says_how_to_use_it(memexp) -> None:
    result = memexp("completion", "--help")
    assert result.code == 0
    assert "source <(memexp completion bash)" in result.out


def test_scripts_parse() -> None:
    for shell in filter(shutil.which, ("bash", "zsh")):
        assert subprocess.run([shell, "-n"], input=script([shell]), text=True, capture_output=True).stderr == ""


def test_settings_that_nobody_sets_are_not_offered() -> None:
    assert candidates(["train", "arch.name"]) == []
    assert candidates(["train", "arch._"]) == []


def test_all_is_offered_where_it_is_taken(empty: Path) -> None:
    offered = {command: candidates([command, "al"]) for command in COMMANDS}
    assert {command for command, words in offered.items() if words} == {"reproduce", "table"}
