"""Sweeps: every job is composed and checked before the first job runs, and all refused jobs are listed."""

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, ValueType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, open_dict
from rich.table import Table
from rich.text import Text

from memexp.config.checks import remarks
from memexp.config.commands import EvalConfig
from memexp.config.compose import typed
from memexp.config.hydra_errors import explain
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.files import find_root
from memexp.launch.processes import JobCrashed, labels
from memexp.store.folder import find_run
from memexp.store.identity import trained_settings
from memexp.terminal import Fitting, console, same_command, tell

show_finished: Callable[[list[Path]], None] | None = None
"""Shows the runs of a sweep's finished jobs, by their folders. The program sets it, because reports are not known here."""

LARGEST = "largest_mem"
"""The setting by which a sweep makes its jobs read and score the same."""
MOST_JOBS = 10_000
"""Jobs of a sweep; each is composed before the first one runs."""


@dataclass
class Job:
    """One job of a sweep, before it runs."""

    number: int
    overrides: list[str]
    label: str
    """The overrides that not all jobs of the sweep share."""
    settings: Any = None
    """The command's dataclass; None if it could not be composed."""
    refusal: str = ""
    """Why the job cannot run; empty if it can."""

    @property
    def what(self) -> str:
        """What it does: equal for jobs that do the same."""
        if self.settings is None or not any(word.startswith("precision=") for word in self.overrides):
            return repr(self.overrides)
        from memexp.train.spec import settled_here  # this module loads torch

        return repr(settled_here(self.settings).config)


class CheckedSweeper(Sweeper):
    """Makes a job of every combination of swept values, as Hydra's sweeper does, and launches none before all are checked."""

    def __init__(self, *, max_batch_size: int | None, params: dict[str, str]) -> None:
        self._batch, self._params = max_batch_size, params

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Check all jobs, then launch them, or print the plan of a dry run.

        Raises:
            UserError: there is no job; or jobs are refused without skip_refused=true; or jobs failed.
        """
        # Imported late: Hydra's scan for plugins executes this module again, and the class of the first import would be stale.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader: Any = _OwnChoices(self._context.config_loader)
        parser = OverridesParser.create(config_loader=loader)
        given = parser.parse_overrides([*(f"{key}={value}" for key, value in self._params.items()), *arguments])
        if (count := math.prod(_values(each) for each in given)) > MOST_JOBS:
            raise UserError(
                f"the sweep has {count:,} jobs; expected at most {MOST_JOBS:,}. Likely cause: a range with too many values"
            )
        [chosen] = BasicSweeper.split_arguments(given, None)
        if not chosen:
            raise UserError(
                "the sweep has no job; expected at least one value for each swept setting. Likely cause: a glob that matches nothing"
            )
        jobs = [self._checked(number, *job) for number, job in enumerate(zip(chosen, labels(chosen), strict=True))]
        seen: dict[str, int] = {}
        for job in jobs:
            if (first := seen.setdefault(job.what, job.number)) < job.number:
                job.refusal = f"it is the same as job {first}; expected each value of a setting only once"
        self._read_the_same(jobs, given)
        if _asked("dry_run", given, jobs):
            return print_plan(jobs)
        kept = _without_refused(jobs, skip=_asked("skip_refused", given, jobs))
        tell(line for job in kept for line in remarks(job.settings))
        results: list[JobReturn] = []
        size = self._batch or len(kept)
        for start in range(0, len(kept), size):
            batch = [job.overrides for job in kept[start : start + size]]
            results += self._launcher.launch(batch, initial_job_idx=start)
        runs = [each.return_value for each in results if each.status == JobStatus.COMPLETED]
        if show_finished is not None and (folders := [run for run in runs if isinstance(run, Path)]):
            show_finished(folders)
        _report_failures(kept, results)
        return results

    def _read_the_same(self, jobs: list[Job], given: list[Override]) -> None:
        """Choose the lengths of all jobs for the largest memory among them, if some would read or score less than others.

        Otherwise a difference between two memories would be one between their texts.
        """
        largest = max((getattr(job.settings, LARGEST, 0) for job in jobs), default=0)
        if any(override.key_or_group == LARGEST for override in given):
            return
        for job in jobs:
            if isinstance(job.settings, TrainConfig) and job.settings.largest_mem < largest:
                same = self._checked(job.number, [*job.overrides, f"{LARGEST}={largest}"], job.label)
                if replace(same.settings or job.settings, largest_mem=job.settings.largest_mem) != job.settings:
                    jobs[job.number] = same

    def _checked(self, number: int, overrides: list[str], label: str) -> Job:
        job = Job(number, overrides, label)
        command = self._config.hydra.job.config_name
        try:
            composed = self._context.config_loader.load_sweep_config(self._config, overrides)
            with open_dict(composed):
                del composed["hydra"]
            job.settings = typed(composed)
            if isinstance(job.settings, EvalConfig):
                _check_score(job.settings)
        except Exception as error:
            reason = explain(error, command)
            if reason is None:
                raise
            job.refusal = reason
        return job


def _check_score(config: EvalConfig) -> None:
    """Refuse a score that the run cannot have.

    Raises:
        UserError: there is no such run, or its memory cannot have this size.
    """
    from memexp.eval.evaluate import with_mem  # this module loads torch

    run = find_run(find_root(config.root), config.run)
    with_mem(trained_settings(run), config.mem, run=run)


class _OwnChoices:
    """The choices of a group that a glob can mean: the files that a user can choose, not the schemas that they begin with."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def get_group_options(self, group_name: str, results_filter: Any = None) -> list[str]:
        names = self._loader.get_group_options(group_name, results_filter)
        return [name for name in names if name != "base" and not name.startswith("base_")]


def _values(override: Override) -> int:
    """How many values an override sweeps over, counted without making them."""
    swept: Any = override.value()
    if override.value_type == ValueType.RANGE_SWEEP:
        return max(0, math.ceil((swept.stop - swept.start) / swept.step)) if swept.step else MOST_JOBS + 1
    return len(swept.list) if isinstance(swept, ChoiceSweep) else 1


def _asked(name: str, given: list[Override], jobs: list[Job]) -> bool:
    # A refused job has no settings, so the typed overrides count as well.
    was_typed = any(override.key_or_group == name and override.value() is True for override in given)
    return was_typed or any(getattr(job.settings, name, False) for job in jobs)


def _without_refused(jobs: list[Job], *, skip: bool) -> list[Job]:
    refused = [job for job in jobs if job.refusal]
    kept = [job for job in jobs if not job.refusal]
    errors = console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for job in refused:
        errors.print(f"{'dropped' if skip else 'refused'} {job.label}: {job.refusal}")
    count = f"{len(refused)} of {len(jobs)} jobs {'is' if len(refused) == 1 else 'are'} refused"
    if refused and not skip:
        raise UserError(
            f"{count} and nothing was started; correct the sweep, or drop these jobs with skip_refused=true"
        )
    if not kept:
        raise UserError(f"{count}, so the sweep has no job left; expected at least one valid job")
    return kept


def print_plan(jobs: Sequence[Job]) -> None:
    """Print the jobs of a sweep, with the reason for each that would be refused, and all that the others would remark when they begin."""
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    table = Table(title=f"{count}; nothing is started", title_justify="left", box=None, pad_edge=False)
    for name in ("job", "settings", "steps", "would be refused because"):
        table.add_column(name, justify="right" if name in ("job", "steps") else "left", overflow="fold")
    for job in jobs:
        table.add_row(
            str(job.number),
            Text(job.label),
            str(getattr(job.settings, "steps", "")),
            Text(job.refusal),
            style="red" if job.refusal else "",
        )
    console().print(Fitting(table))
    settings = [job.settings for job in jobs if isinstance(job.settings, TrainConfig) and not job.refusal]
    if settings:
        from memexp.train.remarks import remarks as remarks_of_a_run

        tell(line for each in settings for line in remarks_of_a_run(each))


def _report_failures(jobs: list[Job], results: Sequence[JobReturn]) -> None:
    # The property `return_value` would print a line of Hydra's and raise at the first failure.
    failures = [
        (job, result._return_value)
        for job, result in zip(jobs, results, strict=True)
        if result.status == JobStatus.FAILED
    ]
    if not failures:
        return
    errors = console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for job, error in failures:
        errors.print(f"failed {job.label}: {error}")
        if not isinstance(error, UserError | JobCrashed):
            traceback.print_exception(error)
    count = f"{len(failures)} of {len(jobs)} jobs failed"
    if all(isinstance(error, UserError) for _, error in failures):
        raise UserError(f"{count}; once that is mended, {same_command()} skips the finished jobs")
    errors.print(f"{count}; {same_command()} skips the finished jobs and continues the others")
    raise SystemExit(1)
