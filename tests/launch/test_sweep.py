"""Sweeps: nothing starts before every job is checked, and jobs that run do so apart from each other."""

import json
import os
import time

import pytest

from memexp.config.compose import compose
from memexp.machine import cores

from ..messages import says

SWEEP = ("train", "-m", "root=.")


def test_plan_lists_every_job_and_refusal_and_starts_nothing(memexp, jobs, empty) -> None:
    result = memexp(*SWEEP, "arch=knn,vanilla", "mem=0,8k", "--dry-run")
    rows = {line.split()[0]: line for line in result.out.splitlines() if line.split()[0].isdigit()}
    assert list(rows) == ["4", "0", "1", "2", "3"]
    assert rows["4"].startswith("4 jobs; nothing is started")
    assert "arch=knn mem=8192" in rows["1"]
    assert "6144" in rows["1"]
    assert "arch=vanilla mem=8192" in rows["3"]
    assert says("mem is 8192", "no memory")(rows["3"])
    assert result.code == 0
    assert not (empty / "results").exists()


def test_a_refused_job_stops_the_sweep_and_all_are_listed(memexp, jobs, empty) -> None:
    result = memexp(*SWEEP, "arch=vanilla,knn", "mem=0,8k,x", "arch.neighbours=8")
    without = "arch.neighbours", "expected", "arch=knn or arch=knn_routed or arch=block_knn"
    expected = [
        ("refused arch=vanilla mem=0: ", *without),
        ("refused arch=vanilla mem=8192: ", *without),
        ("refused arch=vanilla mem=x: ", *without),
        ("refused arch=knn mem=x: ", "mem is 'x'", "expected a whole number", "4096 or 64k"),
        ("memexp train: ", "4 of 6 jobs are refused", "nothing was started", "skip_refused=true"),
    ]
    lines = result.err.splitlines()
    assert len(lines) == len(expected)
    assert all(says(*words)(line) for words, line in zip(expected, lines, strict=True))
    assert result.code == 2
    assert not (empty / "results").exists()


def test_the_same_job_twice_is_refused(memexp, jobs, empty) -> None:
    result = memexp(*SWEEP, "arch=knn", "seed=0,1,0")
    assert result.code == 2
    assert says("refused seed=0: ", "job 0", "expected")(result.err.splitlines()[0])


@pytest.mark.parametrize("words", [["size=glob(y*)"], ["mem=a,b", "skip_refused=true"]])
def test_a_sweep_without_jobs_is_an_error(words, memexp, jobs) -> None:
    result = memexp(*SWEEP, *words)
    assert result.code == 2
    assert says("sweep", "no job")(result.err.splitlines()[-1])


def test_skip_refused_drops_them_and_runs_the_rest_side_by_side(memexp, jobs, empty) -> None:
    result = memexp(*SWEEP, "seed=1,2,x", "skip_refused=true", "jobs=2", "tag=pair")
    assert result.code == 0
    assert says("dropped seed=x: ", "seed is 'x'", "expected a whole number")(result.err)
    assert all((empty / f"run-{seed}" / "ended").exists() for seed in (1, 2))  # neither does without the other
    groups = {(empty / f"run-{seed}" / "group").read_text() for seed in (1, 2)}
    assert len(groups | {str(os.getpgrp())}) == 3  # so that a terminal's Ctrl-C reaches the jobs through us only
    words = json.loads((empty / "run-1" / "words.json").read_text())
    assert "seed=1" in words
    assert f"threads={max(1, cores() // 2)}" in words
    assert "step 1/1,367  loss 2.500  1,000 tokens/s  run-1" in result.out
    assert [line.split()[0] for line in result.out.splitlines() if "seed=2" in line] == ["starting", "running", "done"]


def test_a_failed_job_does_not_lose_the_others(memexp, jobs, empty, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr("memexp.cli.main._show_finished", shown.extend)
    result = memexp(*SWEEP, "seed=13,14,1", "threads=1")
    assert shown == [empty / "run-1"]
    lines = result.err.splitlines()
    assert len(lines) == 3
    assert says("failed seed=13: ", "bad luck")(lines[0])
    assert says("failed seed=14: ", "ZeroDivisionError: division by zero", "1.log")(lines[1])
    assert says("2 of 3 jobs failed; `memexp train ", "skips the finished jobs")(lines[2])
    assert result.code == 1
    assert (empty / "run-1" / "ended").exists()
    assert [word for word in json.loads((empty / "run-1" / "words.json").read_text()) if "threads" in word] == [
        "threads=1"
    ]


@pytest.mark.hard
def test_what_is_shown_after_a_sweep_may_compose_settings(memexp, jobs, empty, monkeypatch) -> None:
    composed = []
    monkeypatch.setattr("memexp.cli.main._show_finished", lambda runs: composed.append(compose("train", ["size=tiny"])))
    result = memexp(*SWEEP, "seed=1,2", "threads=1")
    assert (result.code, result.err) == (0, "")
    assert [config.size.name for config in composed] == ["tiny"]


def test_only_refusals_exit_with_2(memexp, jobs) -> None:
    assert memexp(*SWEEP, "seed=13,1").code == 2


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_signals_reach_running_jobs_once_and_they_are_waited_for(number, memexp, jobs, empty) -> None:
    import signal
    import threading

    def interrupt() -> None:
        while not (empty / "run-99" / "began").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), getattr(signal, number))

    before = signal.getsignal(getattr(signal, number))
    thread = threading.Thread(target=interrupt)
    thread.start()
    result = memexp(*SWEEP, "seed=99,1")
    thread.join()
    assert result.code == 128 + getattr(signal, number)
    assert says("memexp train: interrupted; `memexp train ", "continues from there")(result.err)
    assert (empty / "run-99" / "ended").exists()
    assert not (empty / "run-1").exists()
    stopped = {line.split()[1] for line in result.out.splitlines() if line.startswith("stopped")}
    assert stopped == {"seed=99", "seed=1"}
    assert signal.getsignal(getattr(signal, number)) is before


@pytest.mark.parametrize("launcher", ["basic"])
@pytest.mark.hard
def test_another_launcher_runs_checked_jobs(launcher, memexp) -> None:
    result = memexp(*SWEEP, f"hydra/launcher={launcher}", "seed=1,2")
    assert (result.code, [settings.seed for settings in result.settings]) == (0, [1, 2])
    result = memexp(*SWEEP, f"hydra/launcher={launcher}", "seed=1,x")
    assert result.code == 2
    assert result.settings == []


@pytest.mark.parametrize(
    ("words", "largest"),
    [
        (["mem=0,8192,65536"], 65536),
        # nothing follows a memory as small as these, so no word is added
        pytest.param(["mem=0,256,4096"], None, marks=pytest.mark.hard),
        pytest.param(["mem=0,8192,65536", "largest_mem=16k"], 16384, marks=pytest.mark.hard),
        pytest.param(["mem=0", "seed=1,2"], None, marks=pytest.mark.hard),
        pytest.param(["arch=xl,knn", "mem=64,64k"], 65536, marks=pytest.mark.hard),
    ],
)
def test_all_jobs_of_a_sweep_read_and_score_the_same(words: list[str], largest: int | None, memexp) -> None:
    result = memexp(*SWEEP, "hydra/launcher=basic", "arch=knn", *words)
    assert result.code == 0
    lengths = {
        (settings.steps, settings.data.max_document, settings.data.grow_from, settings.eval.max_document)
        for settings in result.settings
    }
    assert lengths == {(6144, largest, 4096, largest) if largest else (1367, 4096, 0, 8192)}
    added = {settings.largest_mem for settings in result.settings} - {settings.mem for settings in result.settings}
    assert added <= {largest}


@pytest.mark.hard
def test_lengths_that_are_given_stay(memexp) -> None:
    result = memexp(*SWEEP, "hydra/launcher=basic", "arch=knn", "mem=0,64k", "steps=7", "eval.max_document=100")
    assert {(each.steps, each.eval.max_document, each.data.max_document) for each in result.settings} == {
        (7, 100, 65536)
    }
