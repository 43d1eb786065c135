"""Selecting the runs of a report by name and tag."""

from collections.abc import Sequence
from pathlib import Path

from memexp.errors import UserError, did_you_mean
from memexp.store.archive import copies_named, light_copies
from memexp.store.folder import COPIES, UNREADABLE, Run, all_runs, find_run, tag_of


def select_runs(root: Path, names: Sequence[str] = (), *, tag: str | None = None) -> list[Run]:
    """The runs whose names begin with one of `names`; without names, all runs; with `tag`, only runs with this tag.

    Light copies are selected only by name: by the start of a name that no whole run has, by a packed file (all of its copies),
    or as FILE/NAME, by the start of a name in that file.

    Raises:
        UserError: no run matches.
    """
    runs = all_runs(root, tag=tag)
    matches = {name: _beginning(runs, name) or _with_tag(_light_copies(root, name), tag) for name in names}
    if not runs and not any(matches.values()):
        tags = sorted({tag_of(run) for run in all_runs(root)} - {"", UNREADABLE})
        if tag is not None and tags:
            raise UserError(f"no run has the tag {tag!r}; expected one of: {', '.join(tags)}{did_you_mean(tag, tags)}")
        tagged = f" with the tag {tag!r}" if tag is not None else ""
        raise UserError(
            f"there is no run{tagged} in {root / 'results' / 'runs'}; expected runs. Make some with `memexp train arch=vanilla` "
            "or `make demo`, or set root=DIR to the folder whose results/runs holds them"
        )
    if not names:
        return runs
    chosen = {run.path: run for name in names for run in (matches[name] or [find_run(root, name)])}
    return list(chosen.values())


def _light_copies(root: Path, name: str) -> list[Run]:
    """The light copies that `name` selects; empty if it is neither a packed file nor the start of a copy's name."""
    path = Path(name).expanduser()
    if COPIES not in path.parts:
        return [*copies_named(root, name)] if name else []
    end = path.parts.index(COPIES) + 1
    file, start = Path(*path.parts[:end]), "/".join(path.parts[end:])
    copies = light_copies(file)
    if not (chosen := _beginning(copies, start)):
        seen = f"no run {start!r} in {file} ({len(copies)} runs)" if file.exists() else f"no file {file}"
        raise UserError(
            f"there is {seen}; expected a file of light copies, or FILE/NAME with the start of a run's name"
            f"{did_you_mean(start, [copy.name for copy in copies])}"
        )
    return chosen


def _with_tag(runs: Sequence[Run], tag: str | None) -> list[Run]:
    return [run for run in runs if tag is None or tag_of(run) in (tag, UNREADABLE)]


def _beginning(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
