"""Commands that only read write nothing: neither what git would show nor what it ignores."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memexp.cli.main import main
from memexp.config.commands import COMMANDS

from ..tiny import TINY

CHECKOUT = Path(__file__).resolve().parents[2]

READ = [
    ["--help"],
    ["--version"],
    ["help", "runs"],
    ["completion", "bash"],
    ["__complete", "3", "memexp", "table", ""],
    ["runs"],
    ["table"],
    ["table", "xl", "metric=nats"],
    ["table", "nobody"],
    ["data", "list"],
    ["diff", "xl-64-s0", "knn-512-s0"],
]
"""Commands on runs that a test made up."""

READ_SLOWLY = [
    *([command, "--help"] for command in COMMANDS),
    *([command, "--cfg", "job"] for command in ("train", "table", "report")),
    ["table", "memorizing/table4"],
    ["plan", "memorizing/table4"],
    ["train", "--dry-run"],
    ["train", *TINY, "--dry-run"],
    ["train", "-m", "arch=knn,vanilla", "mem=0,8", "--dry-run"],
    ["reproduce", "memorizing/table4", "data=code", "--dry-run"],
    ["bench", "--plan"],
]

ON_TRAINED = [
    ["runs"],
    ["table"],
    ["table", "-m", "metric=perplexity,nats"],
    ["diff", "xl", "knn"],
    ["data", "list"],
    ["data", "inspect", "tiny"],
    ["generate", "knn", "prompt=def f", "tokens=2", "device=cpu"],
]
"""Commands on runs that were trained."""

WRITE = {
    "prepare": "data/",
    "train": "results/runs/, results/sweeps/",
    "eval": "results/runs/",
    "reproduce": "results/",
    "report": "results/index.html, results/pages/",
    "bench": "results/bench/",
}
"""Commands whose purpose is to write, and where. The others write only into the folder that `out` names."""


def committed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """Commit everything below `root` and go there; returns a function that says what is new or changed since then."""
    (root / ".gitignore").write_text((CHECKOUT / ".gitignore").read_text())
    author = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "-Af"], [*author, "commit", "-qm", "All"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    monkeypatch.chdir(root)

    def contents() -> dict[str, str]:
        files = [path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts]
        return {str(path): str(path.stat().st_mtime_ns) for path in files}

    before = contents()

    def changed() -> dict[str, str]:
        shown = subprocess.run(
            ["git", "status", "--porcelain", "--ignored"], cwd=root, check=True, capture_output=True, text=True
        ).stdout
        since = contents()
        return {"git": shown} | dict(since.items() ^ before.items()) if shown or since != before else {}

    return changed


def rooted(line: list[str], root: Path) -> list[str]:
    return [*line, f"root={root}"] if line[0] in COMMANDS and "--help" not in line else line


def test_every_command_reads_or_says_what_it_writes() -> None:
    reading = {words[0] for words in [*READ, *READ_SLOWLY, *ON_TRAINED] if "--help" not in words}
    assert set(COMMANDS) <= reading | set(WRITE)
    assert not set(WRITE) & {words[0] for words in [*READ, *ON_TRAINED]}


def test_what_reads_writes_nothing(compared: Any, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = committed(compared.root, monkeypatch)
    for line in READ:
        assert main(rooted(line, compared.root)) == (2 if "nobody" in line else 0), line
        assert changed() == {}, line


@pytest.mark.hard
@pytest.mark.parametrize("line", READ_SLOWLY, ids=" ".join)
def test_what_reads_slowly_writes_nothing(line: list[str], compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = committed(compared.root, monkeypatch)
    assert main(rooted(line, compared.root)) == 0
    assert changed() == {}


@pytest.mark.hard
def test_what_reads_trained_runs_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    """In processes of their own, as users start them."""
    words = [*TINY, f"root={tmp_path}", "steps=2"]
    assert main(["train", *words, "arch=knn"]) == 0
    assert main(["train", *words, "arch=xl"]) == 0
    changed = committed(tmp_path, monkeypatch)
    for line in ON_TRAINED:
        command = [sys.executable, "-P", "-m", "memexp", *rooted(line, tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert changed() == {}, line


@pytest.mark.hard
def test_the_pages_of_all_results_are_ignored_by_git(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = committed(compared.root, monkeypatch)
    assert main(["report", f"root={compared.root}"]) == 0
    assert sorted(changed()["git"].splitlines()) == ["!! results/index.html", "!! results/pages/"]
