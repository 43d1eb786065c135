"""launcher=slurm: what Slurm is asked for, jobs that are found again, and a job whose time is over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from memexp.cli.arguments import parse
from memexp.data.library import prepare
from memexp.errors import UserError
from memexp.launch import slurm
from memexp.launch.slurm import SlurmJob, Task
from memexp.ranks.place import LOST
from memexp.store.folder import all_runs

from ..messages import says
from ..tiny import TINY, configure
from .fake_slurm import PROGRAMS

CHECKOUT = Path(__file__).resolve().parents[2]
HANG = 240


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on PATH with the programs of a Slurm that is not there."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    text = (Path(__file__).parent / "fake_slurm.py").read_text()
    (folder / "fake").write_text(f"#!{sys.executable}\n{text}")
    (folder / "fake").chmod(0o755)
    for name in PROGRAMS:
        (folder / name).symlink_to("fake")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder
    for step in folder.glob("*.step"):  # of a test that failed
        for task in map(int, step.read_text().split()):
            with suppress(ProcessLookupError):
                os.killpg(task, signal.SIGKILL)


def numbers(cluster: Path) -> list[int]:
    return sorted(int(path.stem) for path in cluster.glob("*.script"))


@pytest.mark.hard
def test_without_submitit_or_slurm_nothing_starts(memexp, empty, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "train", "root=.", "arch=xl", "launcher=slurm"
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = memexp(*words)
    assert result.code == 2
    assert says("launcher=slurm", "submitit", "not installed", "expected `pip install memexp[slurm]`")(result.err)
    monkeypatch.setitem(sys.modules, "submitit", object())
    monkeypatch.setenv("PATH", str(empty))
    result = memexp(*words)
    assert result.code == 2
    assert says("sbatch, squeue, srun", "not found", "expected", "launcher=local")(result.err)
    assert not (empty / "results").exists()


@pytest.mark.hard
def test_what_slurm_is_asked_for(memexp, empty, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the jobs get the words of their own, not those about the cluster."""
    (cluster / "full").touch()
    asked_for: list[SlurmJob] = []

    def run(jobs: list[SlurmJob], **_: object) -> int:
        for job in jobs:
            asked_for.append(job)
            job.start()
        return signal.SIGINT

    monkeypatch.setattr("memexp.launch.launcher.run_jobs", run)
    asked = (
        "launcher=slurm",
        "slurm.time=2h",
        "slurm.partition=gpu",
        "slurm.account=lab",
        "slurm.options=--qos=high --exclusive",
        "slurm.setup=module load x",
    )
    memexp("train", "-m", "root=.", "arch=xl,knn", "lanes=16", "devices=4", "nodes=2", *asked)
    assert numbers(cluster) == [1, 2]
    script = (cluster / "1.script").read_text()
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    expected = {
        "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=4", "time=120", "signal=USR2@300", "requeue", "partition=gpu",
        "account=lab", "qos=high", "exclusive", "open-mode=append",
    }  # fmt: skip
    assert expected <= lines
    assert "--kill-on-bad-exit=0" in script
    assert "module load x\n" in script
    assert [job.command[5:] for job in asked_for] == [
        ["root=.", f"arch={arch}", "lanes=16", "devices=4", "nodes=2"] for arch in ("xl", "knn")
    ]
    assert len({"", *(job.result for job in asked_for)}) == 3
    for words in (["device=cpu"], ["slurm.gpus=false"]):
        memexp("train", "root=.", "arch=xl", "launcher=slurm", *words)  # no sweep, no GPUs
    assert numbers(cluster) == [1, 2, 3, 4]
    assert not any("gpus" in (cluster / f"{number}.script").read_text() for number in (3, 4))


def job(root: Path, **settings: object) -> SlurmJob:
    return SlurmJob.of("a job", ["python", "train"], root, **settings)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The states of the jobs in the queue, by number; the jobs that are submitted get the numbers 7, 8, ..."""
    states: dict[str, str] = {}
    numbers = map(str, range(7, 20))
    monkeypatch.setattr(slurm, "_queue", slurm._Queue())
    monkeypatch.setattr(slurm._queue, "now", lambda: states)
    monkeypatch.setattr(SlurmJob, "_submit", lambda self: next(numbers))
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "GONE_SECONDS", 0.0)
    return states


def started(root: Path, **settings: object) -> SlurmJob:
    one = job(root, **settings)
    one.start()
    return one


def test_a_job_in_the_queue_is_found_again(tmp_path: Path, queue: dict[str, str]) -> None:
    queue["7"] = "PENDING"
    first = started(tmp_path)
    first.poll()
    assert (first.state, first.number, first.place) == ("queued", "7", "job 7")
    assert first.signal(signal.SIGINT)
    first.poll()
    assert first.state == "stopped"
    again = started(tmp_path)
    assert (again.state, again.number) == ("queued", "7")
    queue["7"] = "RUNNING"
    again.poll()
    assert again.state == "starting"
    del queue["7"]
    again.poll()
    time.sleep(0.01)
    again.poll()
    assert again.state == "failed"
    assert says("job 7 left Slurm's queue", "cancelled", "machine failed", "`sacct -j 7`")(again.reason)
    third = started(tmp_path)
    assert third.number == "8"
    third.log.with_suffix(".code").write_text("0")
    queue["8"] = "RUNNING"  # what Slurm said some seconds ago
    third.poll()
    assert third.state == "done"


def test_a_job_that_ended_while_nobody_watched_is_not_submitted_again(tmp_path: Path, queue: dict[str, str]) -> None:
    """If its run is done, and the same command still means that run."""
    run = tmp_path / "run"
    run.mkdir()

    def again(code: int, *, result: str = "a") -> tuple[str, str]:
        first = started(tmp_path, result="a")
        first.log.with_suffix(".json").write_text(json.dumps({"run": str(run)}))
        first.log.with_suffix(".code").write_text(str(code))
        found = started(tmp_path, result=result)
        return found.state, str(int(found.number) - int(first.number))

    assert again(0) == ("queued", "1")
    (run / "summary.json").touch()
    assert again(0, result="b") == ("queued", "1")
    assert again(2) == ("queued", "1")
    assert again(0) == ("done", "0")
    assert job(tmp_path, result="a").log.with_suffix(".code").exists()


@pytest.mark.parametrize("code", [143, 2])
def test_a_job_that_slurm_starts_again_goes_on(code: int, tmp_path: Path, queue: dict[str, str]) -> None:
    """The exit code of its last turn does not end it."""
    first = started(tmp_path)
    first.log.with_suffix(".code").write_text(str(code))
    for state, shown in (("PENDING", "queued"), ("RUNNING", "starting")):
        queue["7"] = state
        first.poll()
        again = started(tmp_path)
        assert (first.state, again.state, again.number) == (shown, "queued", "7")
    queue["7"] = "COMPLETING"
    first.poll()
    assert first.state == ("queued" if code == 143 else "failed")
    assert started(tmp_path).number == "8"


def test_settings_that_do_not_reach_a_job_are_named(
    tmp_path: Path, queue: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    queue["7"] = "PENDING"
    for _ in range(2):
        assert started(tmp_path, asks=slurm.Slurm(time="24h", setup="a b")).number == "7"
    assert capsys.readouterr().err == ""
    assert started(tmp_path, asks=slurm.Slurm(time="48h", partition="gpu", setup="a b")).number == "7"
    (line,) = capsys.readouterr().err.splitlines()
    assert says(
        "warning: slurm.time=48h, slurm.partition=gpu", "job 7", "slurm.time=24h, slurm.partition=null", "`scancel 7`"
    )(line)
    assert "setup" not in line


def test_files_that_stay_in_a_folder_are_not_of_the_new_job(
    tmp_path: Path, queue: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server keeps files that a process has open."""
    first = started(tmp_path)
    for suffix in (".code", ".json"):
        first.log.with_suffix(suffix).write_text("1")
    (first.log.parent / ".nfs1").touch()
    monkeypatch.setattr(slurm.shutil, "rmtree", lambda folder, **_: None)
    again = started(tmp_path)
    assert (again.number, again.exit_code, again.log.with_suffix(".json").exists()) == ("8", None, False)


def test_a_question_that_slurm_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends nothing, once there is a job, and is said once."""
    answers = [(0, "1 RUNNING\n"), (1, ""), (1, ""), (0, "2 RUNNING\n"), (1, "")]
    answer = iter([(1, ""), *answers])
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.0)
    monkeypatch.setattr(
        slurm.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], *next(answer), "timed out\n")
    )
    queue = slurm._Queue()
    with pytest.raises(UserError, check=says("squeue fails: timed out", "expected the jobs", "tries again")):
        queue.now()
    assert queue.now() == {"1": "RUNNING"}
    queue.add("2")
    for _ in range(2):
        assert queue.now() == {"1": "RUNNING", "2": "PENDING"}
    (line,) = capsys.readouterr().err.splitlines()
    assert says("warning: squeue fails: timed out", "may be old")(line)
    assert queue.now() == {"2": "RUNNING"}
    queue.now()
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 1e9)
    answer = iter([(0, "3 RUNNING\n")])
    queue.add("3")
    assert queue.now() == {"3": "RUNNING"}  # a new job is a reason to ask


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The place of a task, as submitit tells it."""
    place = SimpleNamespace(global_rank=0)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(JobEnvironment=lambda: place))
    monkeypatch.setitem(sys.modules, "submitit.helpers", SimpleNamespace(DelayedSubmission=lambda task: task))
    return place


def test_a_new_turn_forgets_the_exit_code_of_the_last_one(tmp_path: Path, rank: SimpleNamespace) -> None:
    """Before its command starts, which may take long; only the first process does it."""
    code = tmp_path / "job.code"
    task = Task(["test", "!", "-e", str(code)], tmp_path / "job.log")
    code.write_text("143")
    rank.global_rank = 1
    with pytest.raises(SystemExit):
        task()
    code.write_text("143")
    rank.global_rank = 0
    task()
    assert code.read_text() == "0"


@pytest.mark.parametrize(
    ("ends", "again", "told"),
    [("exit 143", True, ""), ("exit 0", True, ""), ("exit 2", False, "2"), ("kill -9 $$", False, "-9")],
)
def test_only_a_job_that_has_saved_goes_back_into_the_queue(
    ends: str, again: bool, told: str, tmp_path: Path, rank: SimpleNamespace
) -> None:
    task = Task([], tmp_path / "job.log")
    script = f"trap '{ends}' TERM; echo; while :; do sleep 0.01; done"
    task._process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    with task._process:
        assert task._process.stdout is not None
        task._process.stdout.readline()  # now it hears the signal
        assert (task.checkpoint() is not None) == again
    path = tmp_path / "job.code"
    assert (path.read_text() if path.exists() else "") == told


def test_what_sbatch_refuses_is_one_line(tmp_path: Path, cluster: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asks = slurm.Slurm(partition="nowhere")
    with pytest.raises(
        UserError, check=says("sbatch refuses the job a job", "Invalid partition", "expected", "slurm.partition")
    ):
        job(tmp_path, asks=asks).start()
    assert capfd.readouterr() == ("", "")


def test_the_exit_code_is_that_of_the_process_that_says_why(tmp_path: Path) -> None:
    def code(*told: tuple[int, bool]) -> str:
        path = tmp_path / "job.code"
        path.unlink(missing_ok=True)
        for each, first in told:
            Task([], tmp_path / "job.log")._tell(each, first=first)
        return path.read_text() if path.exists() else ""

    assert code((0, False)) == ""  # the first one is still there
    assert code((0, False), (0, True)) == "0"
    assert code((2, False), (LOST, True)) == "2"
    assert code((LOST, True), (2, False)) == "2"
    assert code((LOST, True)) == str(LOST)
    assert code((143, False)) == ""  # the first one puts the job into the queue again
    assert code((143, True)) == "143"


@contextmanager
def sweep(root: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "memexp", "train", "-m", *TINY, f"root={root}", "launcher=slurm", *words],
        env=os.environ | {"PYTHONPATH": path}, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(done: Callable[[], object]) -> None:
    end = time.monotonic() + HANG
    while not done():
        if time.monotonic() > end:
            raise AssertionError("it hangs")
        time.sleep(0.05)


@pytest.mark.hard
def test_a_job_whose_time_is_over_saves_and_continues(cluster: Path, tmp_path: Path) -> None:
    """The command that submitted it is ended before; the same command finds the job again, and then shows its table."""
    root = tmp_path / "root"
    root.mkdir()
    prepare(configure().data, root)
    words = ["arch=xl", "devices=2", "lanes=4", "steps=300", "log_every=1", "checkpoint_every=1000", "slurm.cpus=1"]

    def reached(step: int) -> bool:
        return any(run.metrics and run.metrics[-1]["step"] >= step for run in all_runs(root))

    try:
        with sweep(root, *words) as process:
            until(lambda: reached(5))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=HANG)
        assert process.returncode == 130
        assert out.partition("ends one.")[2].split()[0] == "queued"
        assert "job 1" in out
        with sweep(root, *words) as process:
            subprocess.run(["scancel", "1", "SIGUSR2"], check=True)
            out, err = process.communicate(timeout=HANG)
        assert process.returncode == 0, err
        assert numbers(cluster) == [1]
    finally:
        for step in cluster.glob("*.step"):
            subprocess.run(["scancel", step.stem, "SIGKILL"], capture_output=True)
    (log,) = root.glob("results/slurm/*/job.log")
    assert log.read_text().count("and saved") == 1
    (run,) = all_runs(root)
    assert run.summary is not None
    assert run.summary["devices"] == 2
    assert [line["step"] for line in run.metrics if "loss" in line] == list(range(1, 301))
    assert "xl" in out


@pytest.mark.parametrize("code", [140, 0, 143, 2])
def test_the_batch_script_of_the_page_goes_back_into_the_queue(code: int, tmp_path: Path) -> None:
    """When srun ends with the code of a run that SIGUSR2 has asked to save, and only then."""
    page = (CHECKOUT / "memexp/ranks/README.md").read_text(encoding="utf-8")
    lines = page[page.index("    #!/bin/bash") :].split("\n\n")[0].splitlines()
    (tmp_path / "script").write_text("\n".join(line.removeprefix("    ") for line in lines))
    (tmp_path / "srun").write_text(f'#!/bin/bash\necho "$@" > words\nexit {code}\n')
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" > asked\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(["bash", "script"], cwd=tmp_path, env=environment)
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert (done.returncode, asked) == ((0, "requeue 7\n") if code == 128 + signal.SIGUSR2 else (code, ""))
    words = (tmp_path / "words").read_text().split()
    assert parse("train", words[words.index("train") + 1 :]).overrides == [
        "arch=knn",
        "lanes=256",
        "devices=8",
        "nodes=4",
    ]
    assert {"#SBATCH --requeue", "#SBATCH --signal=USR2@300"} <= {line.strip() for line in lines}
