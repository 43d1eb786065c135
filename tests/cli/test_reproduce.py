"""`memexp reproduce`: what is done is left alone, what is missing is done in waves, and the table comes last."""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memexp.cli.commands import reproduce
from memexp.cli.main import main
from memexp.config.commands import ReproduceConfig
from memexp.errors import UserError
from memexp.experiment import definition, paper_table, published, queue
from memexp.experiment.library import Library
from memexp.experiment.paper_table import open_table
from memexp.experiment.published import Number, Published
from memexp.launch.processes import JobProcess, run_jobs
from memexp.launch.slurm import SlurmJob
from memexp.report.statistics import Gap
from memexp.store.archive import light_copies

from ..messages import says

EXPERIMENT = """
title: Tiny, Table 1
metric: perplexity
seeds: [0]
columns:
  Letters:
    paper: {data: tiny}
    small: {data: tiny}
rows:
  cache: {set: {arch: xl, segment: 16, mem: 16}}
  memory: {set: &knn {arch: knn, segment: 16, arch.cache: 16, mem: 64}, init_from: cache}
  without: {scores: memory, memory: "off"}
scales:
  paper: {set: {size: tiny}}
  small:
    set: {size: tiny, eval.documents: 2, eval.max_document: 32}
    tokens_a_step: 32
    steps: 2
"""

PUBLISHED = """
table1:
  cites: T
  metric: perplexity
  source: made up
  columns: [Letters]
  rows:
    cache: [20.0]
    memory: [16.0]
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root, and an experiment instead of those that are there."""
    path = tmp_path / "conf" / "experiment" / "tiny" / "table1.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT)
    monkeypatch.setattr(definition, "CONF", tmp_path / "conf")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, whose jobs are done in this process and listed by their first words."""
    monkeypatch.setenv("COLUMNS", "200")
    done: list[str] = []

    def in_process(jobs: list[JobProcess], *, at_a_time: int, show: Callable[[], None], until: float) -> bool:
        for job in jobs:
            job.log.write_text("$\n")
            words = job.command[job.command.index("memexp") + 1 :]
            done.append(f"{words[0]} {job.label}")
            job.state = "done" if main(words) == 0 else "failed"
            show()
        done.append("-")
        return False

    monkeypatch.setattr(queue, "run_jobs", in_process)

    def run(*words: str) -> tuple[int, str, str]:
        done.clear()
        code = main([*words, f"root={here}"])
        captured = capsys.readouterr()
        return code, captured.out, " | ".join(done) or captured.err

    return run


@pytest.mark.hard
def test_what_became_ready_comes_next(call: Call, here: Path) -> None:
    _, _, done = call("reproduce", "tiny/table1", "seeds=[0,1]")
    words = done.split(" | ")
    assert [f"{what}, {seed}" for what, seed in zip(words[::3], words[2::3], strict=False)] == [
        "train cache, seed 0", "train memory, seed 0", "eval without, seed 0",
        "train cache, seed 1", "train memory, seed 1", "eval without, seed 1",
    ]  # fmt: skip


@pytest.mark.hard
def test_all_tables_come_one_after_another_the_most_informative_first(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second table has the only pair of rows that a paper decides, so it is first; the third cannot be run."""
    folder = definition.CONF / "experiment" / "tiny"
    (folder / "table2.yaml").write_text(EXPERIMENT.replace("segment: 16", "segment: 8").replace("Table 1", "Table 2"))
    (folder / "table3.yaml").write_text(EXPERIMENT + "needs: a labelled corpus\n")
    numbers = {("cache", "Letters"): Number(20.0), ("memory", "Letters"): Number(16.0)}
    known = {"table1": Published("T", "", "", {}), "table2": Published("T", "", "", numbers)}
    monkeypatch.setattr(paper_table, "load_published", lambda _, table: known[table])
    code, out, done = call("reproduce", "all", "--dry-run")
    assert (code, done) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip().startswith("tiny/")]
    assert [(words[0], " ".join(words[1:4]), words[-1]) for words in lines] == [
        ("tiny/table2", "0 of 3", "128"), ("tiny/table1", "0 of 3", "128"),
    ]  # fmt: skip
    assert not (here / "results").exists()

    code, out, done = call("reproduce", "all")
    assert code == 0
    assert done.count("train") == 4
    assert out.index("Table 2, scale=small") < out.index("Table 1, scale=small")
    lines = [line.split() for line in out.splitlines() if line.strip().startswith("tiny/table")][-2:]
    assert [" ".join(words[1:4]) for words in lines] == ["3 of 3", "3 of 3"]
    assert call("reproduce", "all")[2] == ""  # all is done
    _, out, done = call("reproduce", "all", "close=true")  # in the second table no pair can be decided with one seed
    assert "close=true: one more seed of 2 cells" in out
    assert done.count("seed 1") == 2

    code, _, error = call("reproduce", "all", "data=nosuch")
    assert code == 2
    assert says("data is 'nosuch'", "expected a column of some table")(error)


def test_a_run_is_not_scored_by_a_second_job_while_the_first_one_does(call: Call, here: Path) -> None:
    config = ReproduceConfig(table="tiny/table1", root=str(here))
    work = queue.Work(open_table("tiny/table1", scale="small"), Library(here), config)
    [job] = work.ready()
    job.state = "running"
    code, _, _ = call(*job.command[job.command.index("memexp") + 1 : -1])
    [score] = here.glob("results/runs/*/eval/*")
    shutil.rmtree(score)
    assert code == 0
    assert [one.label for one in work.ready()] == ["memory | Letters | seed 0"]
    job.state = "done"  # and yet there is no score
    [again] = work.ready()
    assert again.label == "cache | Letters | seed 0"
    assert "eval" in again.command


def test_a_job_that_is_added_while_others_run_is_run(tmp_path: Path) -> None:
    jobs = [JobProcess(str(at), [sys.executable, "-c", ""], tmp_path / f"{at}.log") for at in range(2)]
    first, late = jobs.copy(), jobs.pop()

    def show() -> None:
        if first[0].state == "done" and len(jobs) == 1:
            jobs.append(late)

    assert not run_jobs(jobs, at_a_time=2, show=show)
    assert [job.state for job in first] == ["done", "done"]


@pytest.mark.hard
def test_waves_copies_and_the_table(call: Call, here: Path) -> None:
    code, out, _ = call("reproduce", "tiny/table1", "--dry-run")
    assert "3 commands, 128 tokens to train" in out
    assert code == 0
    assert "0 of 3 cells are done" in out
    assert not (here / "results").exists()
    planned = dict(line.strip().split(": memexp ") for line in out.splitlines() if ": memexp " in line)
    assert planned["cache | Letters | seed 0"].startswith("train precision=fp32 size=tiny")
    assert "arch=xl" in planned["cache | Letters | seed 0"]
    assert planned["memory | Letters | seed 0"].endswith("seed=0 init_from=RUN tag=tiny/table1")
    assert (
        planned["without | Letters | seed 0"]
        == "eval RUN eval.split=test eval.documents=2 eval.max_document=32 memory=off"
    )

    code, out, done = call("reproduce", "tiny/table1")
    assert code == 0
    assert done == (
        "train cache | Letters | seed 0 | train memory | Letters | seed 0 | eval without | Letters | seed 0 | -"
    )
    assert "Tiny, Table 1, scale=small: perplexity" in out
    assert "Missing" not in out
    kept = here / "results" / "tiny" / "table1"
    copies = light_copies(kept / "runs.jsonl")
    assert (len(copies), sum(len(copy.scores) for copy in copies)) == (2, 3)
    assert sorted(path.name for path in kept.glob("small.*")) == ["small.csv", "small.html", "small.md", "small.tex"]

    shutil.rmtree(kept)
    code, out, _ = call("reproduce", "tiny/table1", "--dry-run")
    assert code == 0
    assert "3 of 3 cells are done" in out
    assert not kept.exists()
    code, out, done = call("reproduce", "tiny/table1")
    assert code == 0
    assert "3 of 3 cells are done" in out
    assert done == ""
    # what was committed is enough
    (here / "results" / "runs").rename(here / "elsewhere")
    code, out, done = call("reproduce", "tiny/table1")
    assert code == 0
    assert "3 of 3 cells are done" in out
    assert done == ""
    code, table, _ = call("table", "tiny/table1", "data=tiny")
    assert code == 0
    assert not (kept / "small-tiny.md").exists()
    assert call("table", "tiny/table1", "data=tiny", f"out={kept}")[0] == 0
    assert (kept / "small-tiny.md").exists()
    assert table.splitlines()[:8] == out.splitlines()[1:9]


@pytest.mark.hard
def test_close_rows_get_one_more_seed_and_no_second_one(
    call: Call, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper tells the cache from the memory, untrained models do not."""
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "tiny.yaml").write_text(PUBLISHED)
    monkeypatch.setattr(published, "PUBLISHED", tmp_path / "published")
    experiment = tmp_path / "conf" / "experiment" / "tiny" / "table1.yaml"
    experiment.write_text(EXPERIMENT.replace("seeds: [0]", "seeds: [0, 1]"))
    dry = ("reproduce", "tiny/table1", "close=true", "--dry-run")
    assert "close=true: the cells that get one more seed are known only after these commands" in call(*dry)[1]
    code, out, done = call("reproduce", "tiny/table1")
    assert code == 0
    assert "seed 2" not in done
    assert "trains one more seed" not in out  # they are so alike that no number of seeds tells them apart
    assert "one more seed of 0 cells" in call(*dry)[1]
    monkeypatch.setattr(Gap, "seeds_to_decide", lambda self, **_: 3)
    words = "memexp reproduce tiny/table1 scale=small data=tiny close=true"
    assert f"Letters: {words} trains one more seed of 2 rows in undecided pairs." in call("table", "tiny/table1")[1]
    code, out, done = call(*dry)
    assert code == 0
    assert done == ""
    assert "  cache | Letters | seed 2: memexp train precision=fp32 size=tiny" in out
    code, out, done = call("reproduce", "tiny/table1", "data=tiny", "close=true")
    assert code == 0
    assert done == "train cache | Letters | seed 2 | train memory | Letters | seed 2 | -"
    assert "close=true: one more seed of 2 cells" in out
    assert "undecided pairs" not in out
    code, out, done = call("reproduce", "tiny/table1", "data=tiny", "close=true")
    assert code == 0
    assert done == ""
    assert "close=true: one more seed of 0 cells" in out


@pytest.mark.hard
def test_another_launcher_gets_a_job_each(call: Call, here: Path) -> None:
    """Hydra's own launcher, which runs them in the process that asks."""
    code, _, done = call("reproduce", "tiny/table1", "launcher=basic")
    assert code == 0
    assert done.startswith("train cache | Letters | seed 0 | train memory")
    assert sum(len(copy.scores) for copy in light_copies(here / "results/tiny/table1/runs.jsonl")) == 3


@pytest.mark.hard
def test_cells_take_devices_here_or_on_a_cluster(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []
    monkeypatch.setattr(queue, "run_jobs", lambda ready, **_: jobs.extend(ready) or signal.SIGINT)
    monkeypatch.setattr("memexp.cli.commands.reproduce.require_slurm", lambda: None)
    monkeypatch.setattr(queue, "cores", lambda: 8)
    assert call("reproduce", "tiny/table1", "devices=2")[0] == 130
    assert jobs[0].devices == 2
    assert jobs[0].command[-3:-1] == ["devices=2", "threads=2"]
    code, out, _ = call("reproduce", "tiny/table1", "launcher=slurm", "devices=1", "nodes=2", "slurm.partition=gpu")
    assert code == 130
    assert says("Slurm", "results/slurm", "Ctrl-C", "`memexp reproduce tiny/table1 launcher=slurm")(
        next(line for line in out.splitlines() if "Slurm" in line)
    )
    job = jobs[-1]
    assert isinstance(job, SlurmJob)
    assert job.result
    assert (job.devices, job.nodes, job.asks.partition, job.gpus) == (1, 2, "gpu", True)
    assert job.command[-3:] == ["devices=1", "nodes=2", f"root={here}"]
    assert not any(word.startswith(("threads=", "launcher=", "slurm.")) for word in job.command)
    assert job.log.parent.parent == here / "results" / "slurm"


@pytest.mark.parametrize("others", [True, False])
def test_a_run_that_another_process_began_in_the_meantime(
    others: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a command is typed in two terminals at once: the job that comes second ends, and nothing has failed."""
    work = queue.Work(
        open_table("tiny/table1", scale="small"), Library(here), ReproduceConfig(table="tiny/table1", root=str(here))
    )
    [job] = work.ready()
    job.state = "failed"
    begun = type("Begun", (), {"state": "running"})()
    monkeypatch.setattr(Library, "unfinished", lambda self, cell: begun if others else None)
    shown = list[str]()
    work.watched([job], lambda: shown.append(job.state), Console(file=io.StringIO()))()
    assert shown == ["elsewhere" if others else "failed"]
    assert work.failed == ([] if others else [job])


def test_the_end_of_a_budget_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "run_jobs", lambda ready, **_: signal.SIGTERM)
    code, out, _ = call("reproduce", "tiny/table1", "budget=0.001s")
    assert code == 0
    assert says("the budget of 0.001s is used up", "`memexp reproduce tiny/table1", "goes on")(out.splitlines()[-1])


def test_a_run_that_a_job_trains_is_watched_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process trains it, too; but this is our job in the queue."""
    config = ReproduceConfig(table="tiny/table1", root=str(here), launcher="slurm")
    work = queue.Work(open_table("tiny/table1", scale="small"), Library(here), config)
    begun = type("Begun", (), {"state": "running"})()
    monkeypatch.setattr(Library, "unfinished", lambda self, cell: begun)
    assert work.ready() == []
    monkeypatch.setattr(SlurmJob, "submitted", True)
    assert [job.label for job in work.ready()] == ["cache | Letters | seed 0"]


def test_a_job_that_fails_is_named_and_not_tried_again(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memexp.cli.commands import train

    def fail(config: Any) -> None:
        raise UserError("bad luck")

    monkeypatch.setattr(train, "run", fail)
    code, out, done = call("reproduce", "tiny/table1")
    assert code == 1
    assert done == "train cache | Letters | seed 0 | -"
    assert "failed cache | Letters | seed 0" in out
    monkeypatch.setattr(JobProcess, "exit_code", 2)  # all that failed were refused: that the user can mend
    code, _, done = call("reproduce", "tiny/table1")
    assert code == 2
    assert done == "train cache | Letters | seed 0 | -"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("reproduce tiny/tabel1", ("'tiny/tabel1'", "expected", "did you mean tiny/table1?")),
        ("table tiny/tabel1", ("'tiny/tabel1'", "expected", "did you mean tiny/table1?")),
        ("reproduce tiny/table1 data=tinny", ("data is 'tinny'", "expected", "did you mean tiny?")),
        ("reproduce tiny/table1 budget=2", ("budget is '2'", "expected a number", "s, m, h or d", "90m or 2h")),
        ("reproduce tiny/table1 budget=1h launcher=basic", ("budget is 1h", "launcher=basic", "expected", "time limit")),
        ("reproduce tiny/table1 launcher=foo", ("launcher=foo", "expected one of basic, local")),
        ("reproduce tiny/table1 devices=7", ("tiny/table1: cache", "lanes", "7 devices", "expected")),
        ("reproduce tiny/table1 scale=big", ("scale is 'big'", "expected one of paper, small")),
        ("table tiny/table1 metric=nats", ("metric", "experiment tiny/table1", "expected", "scale, data, checkpoint, out, root")),
        ("table tiny/table1 eval.documents=3", ("eval.documents", "experiment tiny/table1", "expected", "scale, data, checkpoint, out, root")),
        ("table tiny/table1 rmt/enwik8", ("tiny/table1", "rmt/enwik8", "expected one experiment alone")),
        ("reproduce", ("table is not given", "expected", "experiment", "memorizing/table4")),
    ],
)  # fmt: skip
def test_refusals(call: Call, line: str, words: tuple[str, ...]) -> None:
    code, _, error = call(*line.split())
    assert code == 2
    assert says(f"memexp {line.split()[0]}: ", *words)(error)


def test_a_mistyped_path_of_a_run_is_no_experiment(call: Call, here: Path) -> None:
    (here / "results" / "runs" / "knn-a").mkdir(parents=True)
    (here / "results" / "runs" / "knn-a" / "config.yaml").write_text("tag: ''\n")
    for path in ("results/runs/knn-b", f"{here}/results/runs/knn-b", "./knn-b"):
        code, _, error = call("table", path)
        assert code == 2
        assert says(f"no run '{path}'", "expected")(error)


def test_what_cannot_be_run_says_so(call: Call, here: Path) -> None:
    path = here.parent / "conf" / "experiment" / "tiny" / "table1.yaml"
    path.write_text(EXPERIMENT + "needs: a telescope\n")
    code, _, error = call("reproduce", "tiny/table1")
    assert code == 2
    assert says("tiny/table1", "needs a telescope")(error)
    code, out, _ = call("table", "tiny/table1")
    assert code == 0
    assert "Not run: it needs a telescope" in out
    assert "memexp reproduce" not in out


def test_what_runs_nothing_fetches_no_checkpoint(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fetched = here.parent / "conf" / "experiment" / "tiny" / "table1.yaml", []

    def fetch(name: str, revision: str | None) -> Any:
        fetched.append(name)
        raise UserError("the hub was asked")

    monkeypatch.setattr("memexp.config.checkpoints._cached", lambda name, revision: None)
    monkeypatch.setattr("memexp.config.checkpoints._fetched", fetch)
    monkeypatch.setattr("memexp.cli.commands.reproduce._check_launcher", lambda name: None)  # it is slow
    asked = ReproduceConfig(table="tiny/table1", root=str(here))
    for needs, dry_run, words in [
        ("needs: a telescope\n", False, ("tiny/table1", "needs a telescope")),
        ("", True, ("tiny/model is not in the hub's cache", "expected", "`hf download tiny/model` fetches it")),
    ]:
        path.write_text(f"{EXPERIMENT}checkpoint: tiny/model\n{needs}")
        with pytest.raises(UserError, check=says(*words)):
            reproduce.run(replace(asked, dry_run=dry_run))
        assert fetched == []
    with pytest.raises(UserError, check=says("the hub was asked")):
        reproduce.run(asked)
    assert fetched == ["tiny/model"]


def test_jobs_are_interrupted_when_the_time_is_up(tmp_path: Path) -> None:
    program = "import time, signal; signal.signal(signal.SIGTERM, lambda *_: exit(143)); print(1, flush=True); time.sleep(300)"
    jobs = [JobProcess(str(at), [sys.executable, "-c", program], tmp_path / f"{at}.log") for at in range(2)]

    def ready() -> bool:
        return jobs[0].log.exists() and jobs[0].output == "1\n"

    clock = {"until": math.inf}
    shown = []

    def show() -> None:
        shown.append(ready())
        if ready():
            jobs[0].signal(signal.SIGCONT)
            clock["until"] = 0.0

    class Until(float):
        """A deadline that comes once the first job is up."""

        def __le__(self, now: object) -> bool:
            return clock["until"] == 0.0

    assert run_jobs(jobs, at_a_time=1, show=show, until=Until())
    assert [job.state for job in jobs] == ["stopped", "stopped"]  # the first would be done if it had been waited for


SAVES = """
import signal, time
asked = []
def ask(*_):
    asked.append(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGINT, ask)
signal.signal(signal.SIGTERM, ask)
print("up", flush=True)
while not asked:
    time.sleep(0.01)
print("saving", flush=True)
time.sleep(SECONDS)
print("saved", flush=True)
exit(130)
"""


def saving_job(folder: Path, *, seconds: int = 1) -> JobProcess:
    """A job that takes some time to save when it is interrupted, and dies when it is again."""
    (folder / "job.py").write_text(SAVES.replace("SECONDS", str(seconds)))
    return JobProcess("0", [sys.executable, str(folder / "job.py")], folder / "0.log")


@pytest.mark.parametrize(("signals", "last"), [(1, "saved"), (2, "saving")])
def test_after_the_budget_the_first_signal_lets_jobs_save(tmp_path: Path, signals: int, last: str) -> None:
    job = saving_job(tmp_path, seconds=1 if signals == 1 else 300)  # of the second one it dies long before it has saved
    to_send = [signal.SIGINT] * signals

    def show() -> None:
        if job.log.exists() and "saving" in job.output and to_send:
            os.kill(os.getpid(), to_send.pop())

    class Until(float):
        """A deadline that comes once the job is up."""

        def __le__(self, now: object) -> bool:
            return job.log.exists() and "up" in job.output

    assert run_jobs([job], at_a_time=1, show=show, until=Until())
    assert (job.reason, job.state) == (last, "stopped")
    assert not to_send


def test_a_job_that_was_just_being_started_hears_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes when there is a child, but nobody knows it yet."""
    popen = subprocess.Popen

    def started(*args: Any, **kwargs: Any) -> Any:
        process = popen(*args, **kwargs)
        while "up" not in job.output:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        return process

    job = saving_job(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", started)
    waits = "while not asked:\n    time.sleep(0.01)\n"
    patient = "for _ in range(30_000):\n    if asked:\n        break\n    time.sleep(0.01)\nelse:\n    exit(1)\n"
    (tmp_path / "job.py").write_text((tmp_path / "job.py").read_text().replace(waits, patient))
    assert run_jobs([job], at_a_time=1, show=lambda: None)
    assert (job.reason, job.exit_code) == ("saved", 130)


def test_jobs_in_the_background_hear_the_end_of_a_budget(tmp_path: Path) -> None:
    """A shell without job control has them ignore SIGINT, and so does what they start."""
    job = saving_job(tmp_path)
    ignoring = (
        (tmp_path / "job.py")
        .read_text()
        .replace("signal.signal(signal.SIGINT, ask)", "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    )
    (tmp_path / "job.py").write_text(ignoring)

    class Until(float):
        """A deadline that comes once the job is up."""

        def __le__(self, now: object) -> bool:
            return job.log.exists() and "up" in job.output

    assert run_jobs([job], at_a_time=1, show=lambda: None, until=Until())
    assert (job.reason, job.state) == ("saved", "stopped")


def test_jobs_save_and_end_when_what_shows_them_fails(tmp_path: Path) -> None:
    job = saving_job(tmp_path)

    def show() -> None:
        if job.log.exists() and "up" in job.output:
            raise UserError("the disk is full")

    with pytest.raises(UserError, check=says("the disk is full")):
        run_jobs([job], at_a_time=1, show=show)
    assert (job.reason, job.exit_code) == ("saved", 130)


def test_a_paper_has_several_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "memorizing", f"root={tmp_path}"]) == 2
    assert says("no run", "the tables of this paper are memorizing/figure1, memorizing/figure6")(
        capsys.readouterr().err
    )


def test_the_table_needs_no_torch(here: Path) -> None:
    program = (
        "import sys; from memexp.cli.main import main; "
        f"code = main(['table', 'memorizing/table4', 'root={here}']); "
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
