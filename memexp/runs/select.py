"""Which runs a report is about."""

from collections.abc import Sequence
from pathlib import Path

from memexp.errors import UserError, did_you_mean
from memexp.runs.folder import Run, all_runs, find_run


def select_runs(root: Path, names: Sequence[str] = (), *, tag: str | None = None) -> list[Run]:
    """The runs whose names begin with one of `names` (all without names), of those that carry `tag` if one is given.

    Raises:
        UserError: there is none.
    """
    runs = all_runs(root, tag=tag)
    if not runs:
        tags = sorted({str(run.config.get("tag")) for run in all_runs(root) if run.config.get("tag")})
        if tag is not None and tags:
            raise UserError(f"no run has the tag {tag!r}; expected one of: {', '.join(tags)}{did_you_mean(tag, tags)}")
        tagged = f" with the tag {tag!r}" if tag is not None else ""
        raise UserError(
            f"there is no run{tagged} below {root / 'results' / 'runs'}; expected some, as "
            "`memexp train arch=vanilla` or `make demo` makes them, or root=DIR where they are"
        )
    if not names:
        return runs
    chosen = {run.path: run for name in names for run in (_beginning(runs, name) or [find_run(root, name)])}
    return list(chosen.values())


def _beginning(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
