"""How far the jobs of a sweep are, on a terminal and before anything is known."""

import sys
import time

from memexp.launch.processes import JobProcess

from .conftest import tell


def test_a_live_table_shows_progress(jobs, empty, capsys) -> None:
    from rich.console import Console

    from memexp.launch.progress import clock, shown

    job = JobProcess("seed=1", [sys.executable, "job.py", "seed=1"], empty / "0.log", steps=10)
    console = Console(force_terminal=True, width=120)
    with shown([job], console) as show:
        job.start()
        while job.running:
            show()
            tell([job])
            time.sleep(0.05)
            job.poll()
        show()
    assert "1/10" in capsys.readouterr().out
    assert job.run == empty / "run-1"
    assert [clock(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_progress_before_anything_is_scored(empty) -> None:
    from memexp.launch.progress import progress_words

    latest = {"step": 2, "loss": None, "tokens_per_second": 9.0}
    job = JobProcess("seed=1", [], empty / "0.log", steps=10, latest=latest)
    assert progress_words(job) == ["step 2/10", "9 tokens/s"]
