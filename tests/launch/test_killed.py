"""What is said of a job that a signal killed."""

import signal
import sys
from pathlib import Path

import pytest

from memexp.launch.processes import JobProcess, run_jobs

KILLED = [
    (signal.SIGKILL, "killed by SIGKILL (out of memory?)"),
    (signal.SIGSEGV, "killed by SIGSEGV"),
    (signal.SIGBUS, "killed by SIGBUS"),
    (signal.SIGABRT, "killed by SIGABRT"),
    (signal.SIGXCPU, "killed by SIGXCPU"),
]


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize(("number", "words"), KILLED)
def test_the_signal_is_named_and_not_the_last_line(
    number: signal.Signals, words: str, shell: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memexp.launch.processes.POLL_SECONDS", 0.02)
    ends = f"sys.exit({128 + number})" if shell else f"os.kill(os.getpid(), {int(number)})"
    program = f"import os, sys; print('warning: nothing to see', flush=True); {ends}"
    job = JobProcess("a", [sys.executable, "-c", program], tmp_path / "0.log")
    assert not run_jobs([job], at_a_time=1, show=lambda: None)
    assert job.state == "failed"
    assert words in job.reason


def test_a_job_that_ends_by_itself_is_known_by_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memexp.launch.processes.POLL_SECONDS", 0.02)
    job = JobProcess("a", [sys.executable, "-c", "print('bad luck'); exit(2)"], tmp_path / "0.log")
    run_jobs([job], at_a_time=1, show=lambda: None)
    assert job.reason == "bad luck"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_half_written_announcement_breaks_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memexp.launch.processes.POLL_SECONDS", 0.02)
    (tmp_path / "0.json").write_bytes(content)
    job = JobProcess("a", [sys.executable, "-c", ""], tmp_path / "0.log")
    assert not run_jobs([job], at_a_time=1, show=lambda: None)
    assert (job.state, job.run) == ("done", None)
