"""A small program in the place of the jobs of a sweep."""

import sys
from pathlib import Path

import pytest

from memexp.launch.launcher import JobLauncher
from memexp.launch.processes import JobProcess
from memexp.launch.progress import Lines

JOB = """
import json, os, signal, sys, time
from pathlib import Path
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
stopped = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stopped.append(1))
run = Path.cwd() / ("run-" + words["seed"])
run.mkdir()
(run / "group").write_text(str(os.getpgrp()))
(run / "words.json").write_text(json.dumps(sys.argv[1:]))
(run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.5, "tokens_per_second": 1000.0}) + "\\n{half a li")
told = Path(os.environ["MEMEXP_JOB_FILE"])
told.with_suffix(".part").write_text(json.dumps({"run": str(run)}))
told.with_suffix(".part").rename(told)
(run / "began").touch()
if words["seed"] == "13":
    print("memexp train: bad luck")
    sys.exit(2)
if words["seed"] == "14":
    1 / 0
def may_end():
    beside = words.get("tag") != "pair" or len(list(Path.cwd().glob("run-*/began"))) == 2
    return beside and words["seed"] != "99" and (run / "shown").exists()
hangs = time.monotonic() + 300
while not (stopped or may_end()):
    if time.monotonic() > hangs:
        sys.exit(3)
    time.sleep(0.02)
(run / "ended").touch()
sys.exit(130 if stopped else 0)
"""
"""It ends once it was seen to run; of seed 99 only when it is interrupted; tagged as a pair only beside another."""


def tell(jobs: list[JobProcess]) -> None:
    """Let jobs that were shown to run end."""
    for job in jobs:
        if job.state == "running" and job.run is not None:
            (job.run / "shown").touch()


@pytest.fixture
def jobs(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a small program in the place of `memexp train` in the jobs of a sweep."""
    (empty / "job.py").write_text(JOB)
    monkeypatch.setattr("memexp.launch.processes.POLL_SECONDS", 0.02)
    monkeypatch.setattr(JobLauncher, "_command", lambda self, overrides: [sys.executable, "job.py", *overrides])
    show = Lines.__call__

    def show_and_tell(self: Lines) -> None:
        show(self)
        tell(self._jobs)

    monkeypatch.setattr(Lines, "__call__", show_and_tell)
