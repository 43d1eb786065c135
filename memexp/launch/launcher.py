"""The launcher of sweeps: every job is a command of its own, on this machine, where `jobs` of them run at a time, or on a cluster."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from memexp.config.introspection import settings_of
from memexp.config.words import typed_again
from memexp.errors import USER_ERROR, UserError
from memexp.files import find_root, fingerprint
from memexp.launch.processes import JobCrashed, JobProcess, labels, run_jobs
from memexp.launch.progress import shown
from memexp.launch.slurm import SlurmJob, advice, require_slurm
from memexp.machine import cores
from memexp.store.identity import result_settings
from memexp.terminal import console, escape_lines, same_command
from memexp.train.interrupt import Stopped

OF_SWEEPS = ("launcher=", "slurm.")
"""How settings begin that say where the jobs run; the jobs themselves do not get them."""


class JobLauncher(Launcher):
    """Runs jobs as processes, here or on a cluster: a job that fails does not stop the others, and each starts with empty memory."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for them.

        Returns:
            One result per job; for a failed job it holds the error, for a finished one the run folder if it has one.

        Raises:
            Stopped: a signal arrived; the jobs have saved and ended, those on a cluster stay there.
        """
        composed = [self._context.config_loader.load_sweep_config(self._config, list(job)) for job in job_overrides]
        known = settings_of(self._config.hydra.job.config_name)
        commands = [
            self._command([typed_again(word, known) for word in job if not word.startswith(OF_SWEEPS)])
            for job in job_overrides
        ]
        names = labels([[word for word in job if not word.startswith(OF_SWEEPS)] for job in job_overrides])
        jobs: list[JobProcess]
        if on_cluster := composed[0].get("launcher") == "slurm":
            require_slurm()
            jobs = [_for_slurm(*each) for each in zip(names, commands, composed, strict=True)]
            at_a_time = len(jobs)
        else:
            at_a_time = int(composed[0].get("jobs", 1))
            folder = Path(str(self._config.hydra.sweep.dir))
            folder.mkdir(parents=True, exist_ok=True)
            logs = [folder / f"{initial_job_idx + number}.log" for number in range(len(commands))]
            together = min(at_a_time, len(commands))
            jobs = [_here(*each, together=together) for each in zip(names, commands, composed, logs, strict=True)]
        screen = console()
        if on_cluster:
            screen.print(advice(), soft_wrap=True, highlight=False)
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
                job.forget()
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


def _here(label: str, command: list[str], settings: DictConfig, log: Path, *, together: int) -> JobProcess:
    """A job on this machine.

    Args:
        together: how many run at a time.
    """
    devices = max(1, settings.get("devices", 1))
    if settings.get("jobs", 1) > 1 and settings.get("threads") == 0:
        command = [*command, f"threads={max(1, cores() // (together * devices))}"]
    return JobProcess(label, command, log, steps=settings.get("steps", 0), devices=devices)


def _for_slurm(label: str, command: list[str], settings: DictConfig) -> SlurmJob:
    """A job on a cluster."""
    return SlurmJob.of(
        label,
        command,
        find_root(settings.root),
        steps=settings.get("steps", 0),
        devices=max(1, settings.get("devices", 1)),
        nodes=settings.get("nodes", 1),
        gpus=settings.get("device") != "cpu",
        asks=OmegaConf.to_object(settings.slurm),
        result=_determining(settings) if settings.get("steps", 0) else "",
    )


def _determining(settings: DictConfig) -> str:
    """A hash of the settings that determine a run."""
    own = OmegaConf.masked_copy(settings, [str(name) for name in settings if name != "hydra"])
    content = OmegaConf.to_container(own, resolve=True)
    assert isinstance(content, dict)
    return fingerprint(result_settings({str(name): value for name, value in content.items()}))


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
