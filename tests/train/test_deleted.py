"""A run folder that disappears while it is written, and values that no file can hold."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from memexp.cli.main import main
from memexp.data.corpus import Corpus
from memexp.errors import UserError
from memexp.eval import evaluate as scoring
from memexp.files import read_json
from memexp.store.folder import Run, all_runs
from memexp.train import checkpoint, loop
from memexp.train.spec import specify

from ..messages import says
from ..tiny import TINY, configure
from .conftest import Train, assert_same_result


def update_then(change: Callable[[Any], None], step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something to the run's folder after that step, once."""
    update = loop.update

    def changing(session: Any, **how: Any) -> Any:
        result = update(session, **how)
        if session.step == step:
            monkeypatch.setattr(loop, "update", update)
            change(session.spec.run.path)
        return result

    monkeypatch.setattr(loop, "update", changing)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def made_again(folder: Path) -> None:
    """As by another process that starts the same command."""
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "lock").write_text("1")


@pytest.mark.parametrize("change", [shutil.rmtree, moved, made_again])
@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[] if step == 2 else pytest.mark.hard) for step in range(1, 7)]
)
def test_a_folder_that_disappears_ends_the_run_and_the_next_trains_anew(
    change: Callable[[Any], None], step: int, run: Train, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("steps=6", "checkpoint_every=2", "log_every=3")
    (tmp_path / "other").mkdir()
    expected = run(*settings, root=tmp_path / "other")
    update_then(change, step, monkeypatch)
    with pytest.raises(UserError, check=says("deleted or moved", "same command")):
        run(*settings)
    shutil.rmtree(root / "results" / "runs" / "elsewhere", ignore_errors=True)
    assert all_runs(root) == []
    assert_same_result(run(*settings), expected)


@pytest.mark.parametrize("kept", [("weights.pt", "summary.json"), ("summary.json",)])
def test_what_an_older_version_left_of_a_deleted_folder_is_no_obstacle(
    kept: tuple[str, ...], run: Train, root: Path
) -> None:
    done = run()
    for path in done.path.iterdir():
        if path.name not in kept:
            path.unlink()
    again = run()
    assert again.config["steps"] == 4
    assert again.identity == read_json(done.path / "identity.json")
    assert (again.path / "weights.pt").exists()


def test_a_folder_that_disappears_while_it_is_scored_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = scoring.score_with_progress

    def deleting(*given: Any, **named: Any) -> Any:
        result = score(*given, **named)
        shutil.rmtree(root / "results")
        return result

    monkeypatch.setattr(scoring, "score_with_progress", deleting)
    assert main(["train", *TINY, f"root={root}"]) == 2
    assert says("deleted or moved", "expected")(capsys.readouterr().err.splitlines()[-1])
    assert not list(root.glob("results/**/summary.json"))


BAD = "caf\udce9"
"""The text of a word on the command line in Latin-1."""


def texts(config: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    """Where settings hold text, or may hold it."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from texts(value, *path, name)
        elif isinstance(value, str | None):
            yield *path, name


@pytest.mark.parametrize("place", list(texts(asdict(configure()))), ids=".".join)
def test_a_setting_that_is_not_utf8_is_never_written(place: tuple[str, ...], tmp_path: Path) -> None:
    config = asdict(configure())
    *folders, name = place
    node = config
    for folder in folders:
        node = node[folder]
    node[name] = BAD
    with pytest.raises(UserError, check=says("caf\\udce9", "UTF-8")):
        Run(tmp_path).write_config(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("tag", "command"), [(BAD, "memexp train"), ("", f"memexp train tag={BAD}")])
def test_text_that_is_not_utf8_is_refused_before_training(tag: str, command: str, corpus: Corpus, root: Path) -> None:
    with pytest.raises(UserError, check=says("caf\\udce9", "UTF-8")):
        loop.train(specify(replace(configure(), tag=tag), corpus, root), command=command)
    assert not (root / "results").exists()


def test_a_done_run_keeps_its_settings_when_a_tag_cannot_be_written(run: Train) -> None:
    done = run("tag=good")
    before = (done.path / "config.yaml").read_bytes()
    with pytest.raises(UserError, check=says("UTF-8")):
        done.write_config(done.config | {"tag": BAD})
    assert (done.path / "config.yaml").read_bytes() == before
    assert done.config["tag"] == "good"


def test_a_refused_run_leaves_no_folder(run: Train, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: Any) -> None:
        raise UserError("it cannot be")

    monkeypatch.setattr(loop, "open_session", refuse)
    with pytest.raises(UserError, check=says("it cannot be")):
        run()
    assert not list((root / "results" / "runs").iterdir())


@pytest.mark.hard
@pytest.mark.parametrize("task", ["copy", "reverse", "passkey"])
def test_what_holds_nothing_to_score_is_refused_before_training(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["size=tiny", "device=cpu", f"data={task}", "data.source.documents=[20,2,2]", f"root={tmp_path}"]
    words += ["data.source.test_lengths=[]"] if task == "passkey" else []
    for scored in (["eval.split=test"], ["eval.split=train"], ["eval.split=valid"]):
        assert main(["train", *words, *scored, "segment=64", "eval.max_document=8"]) == 2
        assert says("holds nothing to score", "eval.max_document=8", "expected")(
            capsys.readouterr().err.splitlines()[-1]
        )
    assert not (tmp_path / "results").exists()


def test_a_refused_score_leaves_no_folder(run: Train, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run()
    (done.path / "weights.pt").write_bytes(b"")
    assert main(["eval", done.name, "device=cpu", f"root={root}"]) == 2
    assert "weights.pt" in capsys.readouterr().err
    assert not (done.path / "eval").exists()


def test_a_checkpoint_makes_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, check=says("cannot write", "checkpoints")):
        checkpoint.save(tmp_path / "gone" / "checkpoints" / "step-0000001.pt", {"step": 1})
    assert not list(tmp_path.iterdir())
