"""One form for all warnings, and for the commands that continue what was stopped."""

import ast
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memexp.terminal import Remark, remembered, same_command, tell, warn

from .messages import says

CHECKOUT = Path(__file__).resolve().parents[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_warning_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    warn("two\nlines \x1b[2J")
    assert capsys.readouterr() == ("", "warning: two lines \\x1b[2J\n")


def test_its_first_word_is_yellow_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, expected in (
        ("TERM", "xterm", "\x1b[33mwarning:\x1b[0m a\n"),
        ("TERM", "dumb", "warning: a\n"),
        ("NO_COLOR", "1", "warning: a\n"),
    ):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        warn("a")
        assert terminal.getvalue() == expected


def test_remarks_are_told_once_and_notes_are_no_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    tell([Remark("a"), Remark("b", warns=False), Remark("a"), Remark("b", warns=False)])
    assert capsys.readouterr() == ("b\n", "warning: a\n")


LIBRARY = """
import sys, warnings
from memexp.cli import main
main._dispatch = lambda words: warnings.warn("first line\\nsecond line", UserWarning, stacklevel=1) or 0
sys.exit(main.main(["runs"]))
"""


def test_warnings_of_libraries_look_like_ours(process) -> None:
    done = process("-c", LIBRARY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "warning: first line\n")


def files_with(pattern: str) -> set[str]:
    """The files of the program with a text that matches and is no docstring."""
    found = set()
    for path in sorted([*(CHECKOUT / "memexp").rglob("*.py"), *(CHECKOUT / "cli").rglob("*.py")]):
        source = path.read_text(encoding="utf-8")
        if not re.search(pattern.replace("^", ""), source):  # parsing takes long
            continue
        tree = ast.parse(source)
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements
        ]
        if any(re.search(pattern, text) for text in texts):
            found.add(str(path.relative_to(CHECKOUT)))
    return found


def test_no_other_place_writes_a_warning() -> None:
    assert files_with("^[Ww]arning:") == {"memexp/terminal.py"}


def test_no_message_speaks_of_the_same_command() -> None:
    """It writes the command itself; only the help of settings, which belongs to no command line, speaks of it."""
    assert files_with("the same (?:`memexp|command)") <= {
        "memexp/terminal.py",
        "memexp/config/commands.py",
        "memexp/store/folder.py",
    }


@pytest.mark.parametrize("words", [["train", "tag=a  b"], ["prepare", "data.path=it's $HOME", "a;b", "*", '"', "`ls`"]])
def test_a_shell_reads_the_command_as_it_was_typed(words: list[str]) -> None:
    with remembered(words):
        line = same_command()
    assert line[0] == line[-1] == "`"
    read = subprocess.run(
        ["sh", "-c", f"memexp() {{ printf '%s\\n' \"$@\"; }}\n{line[1:-1]}"], capture_output=True, text=True, check=True
    )
    assert read.stdout.splitlines() == words
    assert same_command() == "the same command"


@pytest.mark.hard
def test_the_command_of_an_interrupted_run_is_pasted_and_continues(tmp_path: Path, environment: dict[str, str]) -> None:
    """A run is stopped twice in a folder whose name has a space; what it prints, pasted into a shell, goes on from there."""
    root, program = tmp_path / "my root", tmp_path / "bin" / "memexp"
    (root / "results").mkdir(parents=True)
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m memexp "$@"\n')
    program.chmod(0o755)
    environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    line = shlex.join(
        [
            "memexp",
            "train",
            "size=tiny",
            "data=tiny",
            "device=cpu",
            "steps=40",
            "checkpoint_every=1",
            "tag=a  b",
            f"root={root}",
        ]
    )
    for stops in (True, True, False):
        with subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as run:
            before = {path.name for path in root.glob("results/runs/*/checkpoints/*.pt")}
            while (
                stops
                and run.poll() is None
                and {path.name for path in root.glob("results/runs/*/checkpoints/*.pt")} <= before
            ):
                time.sleep(0.05)
            if stops:
                run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=300)
        assert run.returncode == (130 if stops else 0), err
        if before:
            assert "continues from step" in out
        if stops:
            assert says("stopped at step", "continues from there")(err.splitlines()[-1])
            (line,) = re.findall(r"`(.*)`", err.splitlines()[-1])
    assert len(list(root.glob("results/runs/*/summary.json"))) == 1
