"""The program: what it hands to commands, its exit codes, and what it leaves behind."""

import subprocess
import sys

import pytest

import memexp as package
from memexp.errors import UserError
from memexp.terminal import typed_words

from ..messages import says


def test_a_command_gets_its_typed_settings(memexp) -> None:
    [settings] = memexp("train", "arch=knn", "mem=64k", "tag=a-1").settings
    assert type(settings).__name__ == "TrainConfig"
    assert type(settings.arch).__name__ == "KnnArch"
    assert (settings.mem, settings.tag, settings.arch.cache) == (65536, "a-1", 64)


def test_words_become_settings(memexp) -> None:
    [settings] = memexp("eval", "knn-code@x.1/2", "mem=8k").settings
    assert (settings.run, settings.mem) == ("knn-code@x.1/2", 8192)
    [settings] = memexp("table", "a-1", "true", "3").settings
    assert settings.runs == ["a-1", "true", "3"]
    [settings] = memexp("diff", "run@512-off", "it's").settings
    assert (settings.a, settings.b) == ("run@512-off", "it's")
    [settings] = memexp("bench", "search", "step").settings
    assert settings.what == ["search", "step"]


def test_a_command_sees_the_line_that_was_typed(memexp, monkeypatch) -> None:
    from types import SimpleNamespace

    from memexp.cli import main

    seen = []
    module = SimpleNamespace(run=lambda settings: seen.append(typed_words()))
    memexp("runs")
    monkeypatch.setattr("memexp.cli.main.command_module", lambda command: module)
    main.main(["runs", "tag=x"])
    assert seen == [["runs", "tag=x"]]


def test_cfg_prints_the_job_and_runs_nothing(memexp) -> None:
    import yaml

    result = memexp("train", "--cfg", "job", "arch=xl", "segment=1k")
    assert yaml.safe_load(result.out)["segment"] == 1024
    assert result.settings == []


def test_nothing_is_left_in_the_working_directory(memexp, empty) -> None:
    assert memexp("runs", "tag=x").code == 0
    assert memexp("train", "size=tiny").code == 0
    assert memexp("train", "-m", "mem=0", "seed=0,1", "--dry-run").code == 0
    assert memexp("train", "mem=bad").code == 2
    assert list(empty.iterdir()) == []


def test_dry_run_of_one_job_trains_nothing(memexp) -> None:
    result = memexp("train", "--dry-run", "arch=knn")
    assert result.settings == []
    assert "arch=knn mem=4096" in result.out
    assert "nothing is started" in result.out


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (UserError("no\nsuch thing"), 2, ("no such thing",)),
        (KeyboardInterrupt(), 130, ("interrupted",)),
        (SystemExit(143), 143, ()),
        (OSError(36, "File name too long", "aaa"), 2, ("aaa: File name too long", "expected")),
        (OSError(28, "No space left on device"), 2, ("No space left on device", "expected")),
    ],
)
def test_exit_codes(raised, code, words, memexp, monkeypatch, capsys) -> None:
    from types import SimpleNamespace

    from memexp.cli.main import main

    def run(settings: object) -> None:
        raise raised

    monkeypatch.setattr("memexp.cli.main.command_module", lambda command: SimpleNamespace(run=run))
    assert main(["runs"]) == code
    error = capsys.readouterr().err
    assert says("memexp runs: ", *words)(error) if words else error == ""


def test_version(process) -> None:
    assert process("-m", "memexp", "--version").stdout == f"memexp {package.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])  # rich prints the second
def test_a_reader_that_has_enough_hears_nothing(words, empty, environment) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "memexp", *words],
        cwd=empty, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(timeout=300) == 141


def test_a_closed_output_is_no_error(empty, environment) -> None:
    done = subprocess.run(
        f"exec {sys.executable} -P -m memexp --version >&-",
        shell=True,
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
