"""Files and folders that the system refuses to read: no run and no corpus is left out without a word."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from memexp.cli.main import main

from ..messages import says

PLACES = ("", "config.yaml", "metrics.jsonl", "summary.json", "eval", "eval/test-8x8192-512-on")
"""Parts of a run's folder."""


def forbid(patch: pytest.MonkeyPatch, place: Path) -> None:
    """Let the system refuse what is in a folder, or the content of a file, also to root."""
    of_folder = place.is_dir()

    def refuse(path: Any, *, looked_at: bool) -> None:
        if isinstance(path, int):
            return
        path = Path(os.fspath(path)).absolute()
        if (place in path.parents) if looked_at and of_folder else (not looked_at and path.is_relative_to(place)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def wrap(name: str, *, looked_at: bool) -> None:
        real = getattr(os, name)

        def wrapped(path: Any = ".", *args: Any, **named: Any) -> Any:
            refuse(path, looked_at=looked_at)
            return real(path, *args, **named)

        patch.setattr(os, name, wrapped)

    for name in ("stat", "lstat"):
        wrap(name, looked_at=True)
    for name in ("open", "listdir", "scandir"):
        wrap(name, looked_at=False)


@pytest.mark.parametrize("command", ["runs", "table"])
@pytest.mark.parametrize("part", [PLACES[0], *(pytest.param(part, marks=pytest.mark.hard) for part in PLACES[1:])])
def test_a_run_that_cannot_be_read_is_named(
    part: str, command: str, compared: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with monkeypatch.context() as patch:
        forbid(patch, compared.root / "results" / "runs" / "knn-512-s1" / part)
        assert main([command, f"root={compared.root}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    if (part, command) == ("metrics.jsonl", "table"):  # a table needs no metrics of a run that is done
        return
    assert says("knn-512-s1", "Permission denied", "another user")(printed)
    assert says("25.79", "vanilla", "xl")(printed)  # the others are shown


def test_a_corpus_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "mine-bpe512-0123abcd"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    with monkeypatch.context() as patch:
        forbid(patch, folder)
        assert main(["data", "list", f"root={tmp_path}"]) == 0
    assert says(folder.name, "Permission denied", "another user")(" ".join(capsys.readouterr().out.split()))


def test_a_folder_of_results_that_cannot_be_read_is_named(
    compared: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memexp.report.site import pages

    folder = compared.root / "results" / "mine" / "more"
    folder.mkdir(parents=True)
    problems: list[str] = []
    with monkeypatch.context() as patch:
        forbid(patch, folder)
        pages(compared.root / "results", [], page=compared.root / "index.html", skipped=(), problems=problems)
    assert len(problems) == 1
    assert says(str(folder), "Permission denied", "expected")(problems[0])
