"""Jobs on a cluster: submitit hands them to Slurm, and a repeated command finds those that are still there.

A job has a folder, `results/slurm/KEY`, whose name follows from its command:

    job.log         what it printed
    job.number      its number in Slurm
    job.json        its run folder, once it is known
    job.code        its exit code, once it has ended; it goes away when Slurm starts the job again
    job.request     what Slurm was asked for
    N_submitted...  files of submitit, such as the batch script

Some time before the job's time is over, Slurm sends SIGUSR2. The first process then lets all save, and puts the job into the
queue again, in which it continues.
"""

import functools
import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from memexp.config.groups import Slurm
from memexp.config.words import seconds_in
from memexp.errors import UserError
from memexp.files import SUMMARY, is_there, write_atomically, write_json
from memexp.launch.processes import INTERRUPTED, JOB_FILE, JobProcess, import_path
from memexp.machine import PARENT
from memexp.ranks.place import LOST
from memexp.terminal import escape, same_command, warn

SAVING_SECONDS = 300
"""How long before the end of its time a job begins to save; at most a quarter of its time."""
MOST_RETURNS = 1000
"""How often a job may go into the queue again because its time was over."""
LOOK_SECONDS = 2.0
"""Time between two looks at the files of a job, which may be on a server."""
QUEUE_SECONDS = 15.0
"""Time between two questions to Slurm, which answers for all jobs at once."""
GONE_SECONDS = 45.0
"""How long a job may have left the queue before its exit code is seen here."""

PROGRAMS = ("sbatch", "squeue", "srun")


def advice() -> str:
    """What is said before jobs are submitted."""
    return (
        f"The jobs go to Slurm, with their logs and batch scripts below results/slurm. Ctrl-C leaves them there, and {same_command()} shows "
        "them again; `scancel NUMBER` ends one."
    )


def require_slurm() -> None:
    """Refuse a machine from which no jobs can be submitted.

    Raises:
        UserError: submitit or a program of Slurm is missing.
    """
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError(
            "launcher=slurm needs the package submitit, which is not installed; expected `pip install memexp[slurm]`, or launcher=local"
        ) from error
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise UserError(
            f"launcher=slurm needs {', '.join(missing)}, which {'was' if len(missing) == 1 else 'were'} not found; expected a machine "
            "from which jobs can be submitted to Slurm, or launcher=local"
        )


@dataclass
class SlurmJob(JobProcess):
    """A job in Slurm's queue. It goes on when this process ends; a signal only ends the watching."""

    here: ClassVar[bool] = False

    nodes: int = 1
    gpus: bool = True
    """Whether its `devices` can be GPUs."""
    asks: Slurm = field(default_factory=Slurm)
    result: str = ""
    """A hash of the settings that determine its run; the same command may mean others later. Empty if it trains nothing."""
    number: str = ""
    """Slurm's."""
    _left_alone: bool = False
    _looked: float = 0.0
    _gone: float | None = None
    """Since when it is not in the queue, on the clock of `time.monotonic`."""

    @classmethod
    def of(cls, label: str, command: list[str], root: Path, **settings: Any) -> "SlurmJob":
        """A job that is not submitted yet.

        Args:
            command: the whole command of one of its processes.
            settings: the other fields.
        """
        key = hashlib.sha256(shlex.join(command[1:]).encode()).hexdigest()[:12]
        return cls(label, command, root.absolute() / "results" / "slurm" / key / "job.log", **settings)

    @property
    def place(self) -> str:
        return super().place or f"job {self.number}"

    @property
    def submitted(self) -> bool:
        """Whether an earlier command has submitted it, and it is in the queue."""
        number = _text(self.log.with_suffix(".number"))
        if not number or (state := _queue.now().get(number)) is None:
            return False
        # With an exit code it may still wait for its next turn: Slurm starts a job again whose machine was taken from it.
        return state != "COMPLETING" or self.exit_code is None

    @property
    def _finished(self) -> bool:
        """Whether an earlier command has submitted it, and its run is done."""
        if self.exit_code != 0 or not self.result or self._request().get("result") != self.result:
            return False
        self._look()
        return self.run is not None and is_there(self.run / SUMMARY)

    def _request(self) -> dict[str, Any]:
        """What Slurm was asked for when it was submitted; empty if that is not known."""
        try:
            return dict(json.loads(_text(self.log.with_suffix(".request"))))
        except (ValueError, TypeError):
            return {}

    def start(self) -> None:
        """Submit it, unless it is in the queue or done already.

        Raises:
            UserError: Slurm refuses it.
        """
        self._left_alone, self._gone = False, None
        self.number = _text(self.log.with_suffix(".number"))
        if self._finished:
            self.state = "done"
            return
        if self.submitted:
            self._warn_of_other_requests()
            self.state = "queued"
            return
        self._make_folder()
        self.number = self._submit()
        write_atomically(self.log.with_suffix(".number"), self.number.encode())
        _queue.add(self.number)
        self.state = "queued"

    def _make_folder(self) -> None:
        self.run, self.latest, self._first = None, {}, None
        shutil.rmtree(self.log.parent, ignore_errors=True)  # a server may keep files that a process has open
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".number", ".json", ".code", ".request"):  # an old one would be taken for the new job's
            self.log.with_suffix(suffix).unlink(missing_ok=True)
        self.log.write_text(f"$ {shlex.join(self.command)}\n", encoding="utf-8")
        write_json(self.log.with_suffix(".request"), {"asks": asdict(self.asks), "result": self.result})

    def _warn_of_other_requests(self) -> None:
        before, now = self._request().get("asks"), asdict(self.asks)
        if not isinstance(before, dict):
            return
        if other := [name for name in now if name in before and before[name] != now[name]]:
            is_, was = (", ".join(f"slurm.{name}={_shown(of[name])}" for name in other) for of in (now, before))
            warn(
                f"{is_} does not reach job {self.number}, which is in Slurm's queue with {was}; expected the settings that it was submitted "
                f"with. `scancel {self.number}` ends it, and then {same_command()} submits it with the new ones"
            )

    def _submit(self) -> str:
        import submitit

        seconds = seconds_in("slurm.time", self.asks.time)
        executor = submitit.SlurmExecutor(self.log.parent, max_num_timeout=MOST_RETURNS)
        executor.update_parameters(
            job_name="memexp",
            time=int(seconds // 60),
            nodes=self.nodes,
            ntasks_per_node=self.devices,
            cpus_per_task=self.asks.cpus,
            gpus_per_node=self.devices if self.gpus and self.asks.gpus else None,
            partition=self.asks.partition,
            account=self.asks.account,
            signal_delay_s=int(min(SAVING_SECONDS, seconds / 4)),
            stderr_to_stdout=True,
            setup=[*_exports(self.asks.cpus), self.asks.setup],
            # A process that fails ends the others itself; srun would kill those that still save.
            srun_args=["--kill-on-bad-exit=0", f"--cpus-per-task={self.asks.cpus}"],
            wckey=None,  # submitit's own would be refused by clusters that check keys
            additional_parameters={"requeue": True} | self.asks.others,
        )
        try:
            with redirect_stderr(StringIO()):  # submitit prints what sbatch says, and raises it too
                return str(executor.submit(Task(self.command, self.log)).job_id)
        except submitit.core.utils.FailedJobError as error:
            said = [line.strip() for line in str(error).splitlines() if line.startswith("sbatch: ")]
            reason = escape(said[-1].removeprefix("sbatch: ").removeprefix("error: ")) if said else "it says nothing"
            raise UserError(
                f"sbatch refuses the job {escape(self.label)}: {reason}; expected one that this cluster takes. See slurm.partition, "
                "slurm.time, slurm.options, devices and nodes"
            ) from error

    def signal(self, number: int) -> bool:
        """Leave it in the queue, whatever the signal; returns whether it is there."""
        there = self.running and not self._left_alone
        self._left_alone = True
        return there

    def kill(self) -> None:
        self._left_alone = True

    def wait(self) -> None:
        """It goes on without us."""

    def forget(self) -> None:
        shutil.rmtree(self.log.parent, ignore_errors=True)

    def poll(self) -> None:
        if self._left_alone:
            self.state = "stopped"
            return
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._look()
        code, state = self.exit_code, _queue.now().get(self.number)
        leaves = state is None or (state == "COMPLETING" and code not in INTERRUPTED)
        if code is not None and (code == 0 or leaves):  # otherwise Slurm starts it again, or did
            self._end(code)
            return
        if state is not None:
            self._gone = None
            waits = state in ("PENDING", "CONFIGURING", "COMPLETING", "REQUEUED")
            self.state = "queued" if waits else "running" if self.latest else "starting"
            return
        self._gone = self._gone or time.monotonic()
        if time.monotonic() - self._gone > GONE_SECONDS:
            self.state = "failed"

    @property
    def exit_code(self) -> int | None:
        text = _text(self.log.with_suffix(".code"))
        return int(text) if text else None

    @property
    def reason(self) -> str:
        if self.exit_code is None:
            return (
                f"job {self.number} left Slurm's queue without an exit code. Likely cause: it was cancelled, its machine failed, it had too "
                f"little memory, or it did not save in time; `sacct -j {self.number}` may tell"
            )
        return super().reason


class Task:
    """One process of a job, as submitit starts it: the command, which saves when the job's time is over."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the command.

        Raises:
            SystemExit: its exit code, if it is not 0.
        """
        import submitit

        rank = submitit.JobEnvironment().global_rank
        if rank == 0:
            self._log.with_suffix(".code").unlink(missing_ok=True)  # of an earlier turn
        told = {JOB_FILE: str(self._log.with_suffix(".json")), PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | told,
                # Slurm signals all processes of a job. This one asks the command to save, but it must be asked only once.
                preexec_fn=functools.partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN),
            )  # fmt: skip
        self._wait()
        code = self._process.wait()
        self._tell(code, first=rank == 0)
        if code:
            raise SystemExit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Called by submitit in the first process, near the end of the job's time: all processes save and end.

        Returns:
            What is done when the job's turn comes again: its command, which continues. None, so that there is no other turn, if it has
            failed, as on a full disk.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            code = self._wait()
            if code != 0 and code not in INTERRUPTED:
                self._tell(code, first=True)
                return None
        return DelayedSubmission(Task(self._command, self._log))

    def _wait(self) -> int:
        """Wait until the command ends; returns its exit code, as Popen does."""
        assert self._process is not None
        if self._process.returncode is not None:
            return self._process.returncode
        # Not Popen.wait: it holds a lock, for which `checkpoint` would wait, called by the handler of a signal.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _tell(self, code: int, *, first: bool) -> None:
        """Write the exit code of the job: that of the first process, or of another that says why all end."""
        path = self._log.with_suffix(".code")
        if code == LOST and path.exists():
            return
        if first or (code and code != LOST and code not in INTERRUPTED):
            write_atomically(path, str(code).encode())


class _Queue:
    """The jobs of this user that Slurm knows, by number, with their states."""

    _states: dict[str, str] | None = None
    _asked: float = -math.inf
    _silent: bool = False

    def add(self, number: str) -> None:
        """Count a job that was submitted just now as waiting, until Slurm is asked again."""
        self._states = (self._states or {}) | {number: "PENDING"}
        self._asked = -math.inf

    def now(self) -> dict[str, str]:
        """The states, at most `QUEUE_SECONDS` old; those before if Slurm does not answer.

        Raises:
            UserError: Slurm has never answered.
        """
        if self._states is not None and time.monotonic() - self._asked < QUEUE_SECONDS:
            return self._states
        self._asked = time.monotonic()
        done = subprocess.run(["squeue", "--me", "--noheader", "--format=%i %T"], capture_output=True, text=True)
        if done.returncode == 0:
            self._states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
            self._silent = False
            return self._states
        why = f"squeue fails: {escape(' '.join(done.stderr.split()))}"
        if self._states is None:
            raise UserError(
                f"{why}; expected the jobs in Slurm's queue. Likely cause: Slurm does not "
                f"answer; {same_command()} tries again"
            )
        if not self._silent:
            warn(f"{why}; what is shown of the jobs may be old. Slurm is asked again every {QUEUE_SECONDS:g} seconds")
        self._silent = True
        return self._states


_queue = _Queue()


def _exports(cpus: int) -> list[str]:
    return [f"export PYTHONPATH={shlex.quote(import_path())}", f"export OMP_NUM_THREADS={cpus}"]


def _shown(value: object) -> str:
    """A setting's value as it is typed."""
    return "null" if value is None else shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
