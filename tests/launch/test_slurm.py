"""launcher=slurm: what Slurm is asked for, jobs that are found again, and a job whose time is over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
    started: list[SlurmJob] = []

    def run(jobs: list[SlurmJob], **_: object) -> int:
        for job in jobs:
            started.append(job)
            job.start()
        return signal.SIGINT

    monkeypatch.setattr("memexp.launch.local_launcher.run_jobs", run)
    asked = (
        "launcher=slurm",
        "slurm.time=2h",
        "slurm.partition=gpu",
        "slurm.options=--qos=high --exclusive",
        "slurm.setup=module load x",
    )
    memexp("train", "-m", "root=.", "arch=xl,knn", "lanes=16", "devices=4", "nodes=2", *asked)
    assert numbers(cluster) == [1, 2]
    script = (cluster / "1.script").read_text()
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    expected = {
        "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=4", "time=120", "signal=USR2@300", "requeue", "partition=gpu",
        "qos=high", "exclusive", "open-mode=append",
    }  # fmt: skip
    assert expected <= lines
    assert "--kill-on-bad-exit=0" in script
    assert "module load x\n" in script
    assert [job.command[5:] for job in started] == [
        ["root=.", f"arch={arch}", "lanes=16", "devices=4", "nodes=2"] for arch in ("xl", "knn")
    ]
    for words in (["device=cpu"], ["slurm.gpus=false"]):
        memexp("train", "root=.", "arch=xl", "launcher=slurm", *words)  # no sweep, no GPUs
    assert numbers(cluster) == [1, 2, 3, 4]
    assert not any("gpus" in (cluster / f"{number}.script").read_text() for number in (3, 4))


def job(root: Path, **settings: object) -> SlurmJob:
    return SlurmJob.of("a job", ["python", "train"], root, **settings)


def test_a_job_in_the_queue_is_found_again(tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = {"7": "PENDING"}
    monkeypatch.setattr(slurm._queue, "now", lambda: queue)
    submitted = iter(["7", "8", "9"])
    monkeypatch.setattr(SlurmJob, "_submit", lambda self: next(submitted))
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "GONE_SECONDS", 0.0)
    first = job(tmp_path)
    first.start()
    first.poll()
    assert (first.state, first.number, first.place) == ("queued", "7", "job 7")
    assert first.signal(signal.SIGINT)
    first.poll()
    assert first.state == "stopped"
    again = job(tmp_path)
    again.start()
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
    third = job(tmp_path)
    third.start()
    assert third.number == "8"
    third.log.with_suffix(".code").write_text("0")
    queue["8"] = "COMPLETING"
    third.poll()
    assert third.state == "done"
    fourth = job(tmp_path)
    fourth.start()
    assert (fourth.number, fourth.exit_code) == ("9", None)


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
        assert time.monotonic() < end
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
        assert "arch=xl" not in out.split("queued")[0]
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
