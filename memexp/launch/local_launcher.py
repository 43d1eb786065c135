"""The default launcher of sweeps: every job is a separate process on this machine, and `jobs` of them run at a time."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from memexp.config.introspection import settings_of
from memexp.config.words import typed_again
from memexp.errors import USER_ERROR, UserError
from memexp.launch.processes import JobCrashed, JobProcess, labels, run_jobs
from memexp.launch.progress import shown
from memexp.machine import cores
from memexp.terminal import console, escape_lines, same_command
from memexp.train.interrupt import Stopped


class LocalLauncher(Launcher):
    """Runs jobs as processes: a job that fails does not stop the others, and each job starts with empty memory."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for them.

        Returns:
            One result per job; for a failed job it holds the error, for a finished one the run folder if it has one.

        Raises:
            Stopped: a signal arrived; the jobs have saved and ended.
        """
        folder = Path(str(self._config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        composed = [self._context.config_loader.load_sweep_config(self._config, list(job)) for job in job_overrides]
        at_a_time = int(composed[0].get("jobs", 1))
        known = settings_of(self._config.hydra.job.config_name)
        jobs = []
        for number, (given, label, settings) in enumerate(
            zip(job_overrides, labels(job_overrides), composed, strict=True)
        ):
            words = [typed_again(word, known) for word in given]
            devices = max(1, settings.get("devices", 1))
            if at_a_time > 1 and settings.get("threads") == 0:
                words.append(f"threads={max(1, cores() // (min(at_a_time, len(job_overrides)) * devices))}")
            log = folder / f"{initial_job_idx + number}.log"
            jobs.append(JobProcess(label, self._command(words), log, steps=settings.get("steps", 0), devices=devices))
        screen = console()
        with shown(jobs, screen) as show:
            interrupted = run_jobs(jobs, at_a_time=at_a_time, show=show)
        for job in jobs:
            if job.state == "done" and not job.steps:  # a command that trains nothing: its output is its result
                screen.rule(job.label, align="left")
                screen.out(escape_lines(job.output.rstrip()), highlight=False)
        if interrupted:
            raise Stopped(interrupted)
        if all(job.state == "done" and not job.steps for job in jobs):  # everything in the logs was shown
            for job in jobs:
                job.log.unlink()
                job.log.with_suffix(".json").unlink(missing_ok=True)
            with suppress(OSError):  # it holds other files
                folder.rmdir()
        return [_result(job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]

    def _command(self, overrides: list[str]) -> list[str]:
        # Settings of Hydra itself are not inherited: all that have an effect are of the sweep, and a job is none.
        folders = [
            source.path for source in self._config.hydra.runtime.config_sources if source.provider == "command-line"
        ]
        flags = [word for folder in folders for word in ("--config-dir", folder)]
        # -P: a file in the working directory must not be imported in place of a module.
        return [
            sys.executable,
            "-P",
            "-m",
            "memexp",
            self._config.hydra.job.config_name,
            *flags,
            *overrides,
        ]


def _result(job: JobProcess, overrides: Sequence[str]) -> JobReturn:
    result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED if job.state == "done" else JobStatus.FAILED)
    if job.state == "done":
        result.return_value = job.run
    elif job.state == "failed":
        message = job.reason.partition(": ")[2] or job.reason
        result.return_value = (
            UserError(message) if job.exit_code == USER_ERROR else JobCrashed(f"{job.reason}; see {job.log}")
        )
    elif job.state == "stopped":
        result.return_value = UserError(f"it was interrupted; {same_command()} continues it")
    return result
