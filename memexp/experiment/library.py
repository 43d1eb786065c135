"""Finds the run and the score that fill a cell, by their settings and not by the names of their folders."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from memexp.config.field import default_of
from memexp.config.revisions import Revision, in_force
from memexp.config.sources import SourceOptions, read_source
from memexp.data.corpus import content_of
from memexp.data.library import prepared
from memexp.errors import UserError
from memexp.experiment.settings import Wanted, determining
from memexp.files import fingerprint, read_json
from memexp.store.archive import LightCopy, copies_of_tables, with_positions
from memexp.store.folder import CONFIG_FILE, WEIGHTS, Run, Score
from memexp.store.identity import read_identity, revisions_of


def _as_today(config: dict[str, Any], schema: Any, path: Path, group: str = "") -> dict[str, Any]:
    """The settings of a run, completed to today's `schema`: settings that are newer than the run get their defaults.

    Args:
        path: the file of the settings, for the message.
        group: the group that `config` is, such as "arch."; empty for the whole.

    Raises:
        UserError: the run has a setting that the schema does not have.
    """
    known = {item.name: item for item in fields(schema)}
    for name in config:
        if name not in known:
            raise UserError(
                f"{path}: there is no setting {group}{name} in this version of memexp; expected settings that it knows. Likely "
                "cause: the run was made by another version"
            )
    complete = {name: config.get(name, default_of(item)) for name, item in known.items()}
    for name, value in complete.items():
        if isinstance(nested := getattr(schema, name), SourceOptions):
            complete[name] = _source_as_today(value)
        elif is_dataclass(nested):
            value = value if isinstance(value, dict) else asdict(value)
            complete[name] = _as_today(value, nested, path, f"{group}{name}.")
    return complete


_sources: dict[str, dict[str, Any]] = {}


def _source_as_today(options: Any) -> dict[str, Any]:
    """The options of a source, completed to today's schema. Many runs have the same, and checking their types is slow."""
    key = repr(options)
    if key not in _sources:
        _sources[key] = asdict(read_source(options))
    return _sources[key]


def _same_corpus(config: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether two runs with the same settings of the result have the same settings of the corpus."""
    if settings["size"]["weights"] is None:
        return bool(config["data"] == settings["data"])
    # the checksum of a checkpoint covers its tokenizer, wherever that is
    ours, theirs = (
        each["data"] | {"tokenizer": each["data"]["tokenizer"] | {"path": None}} for each in (config, settings)
    )
    return bool(ours == theirs)


@dataclass
class Library:
    """The finished runs below a root: those in `results/runs`, and the light copies beside the tables.

    If the corpus of a cell is prepared here, only runs on exactly this corpus count as runs of the cell. A light copy of a
    run on a different corpus of that name, made on another machine, is called foreign. A run that was made before a revision
    of its settings is no run of the cell.

    Attributes:
        left_out: one line for each run that belongs to a cell by its name but cannot be read.
    """

    root: Path
    left_out: list[str] = field(default_factory=list)
    _finished_of: dict[str, list[Run]] = field(default_factory=dict)
    _copies: list[LightCopy] | None = None
    _corpora: dict[str, Mapping[str, str] | None] = field(default_factory=dict)

    def runs(self, wanted: Wanted) -> list[Run]:
        """The finished runs of a cell, light copies last."""
        return [run for run in self._finished(wanted) if self._read_this_corpus(run, wanted)]

    def with_weights(self, wanted: Wanted) -> Run | None:
        """The finished run of a cell that still has its weights, so that it can be scored or started from."""
        return next((run for run in self.runs(wanted) if (run.path / WEIGHTS).exists()), None)

    def score(self, wanted: Wanted) -> tuple[Run, Score] | None:
        """The score of a cell, with its run."""
        return self._scored(self.runs(wanted), wanted)

    def foreign_score(self, wanted: Wanted) -> tuple[Run, Score] | None:
        """The score of a cell in a foreign light copy, with its run."""
        foreign = [run for run in self._finished(wanted) if not self._read_this_corpus(run, wanted)]
        return self._scored(foreign, wanted)

    def unfinished(self, wanted: Wanted) -> Run | None:
        """The run of a cell that was started and is not done."""
        begun = [run for run in self._named(wanted) if run.state != "done"]
        return next((run for run in begun if self._fits(run, wanted) and self._read_this_corpus(run, wanted)), None)

    def made_before(self, wanted: Wanted) -> list[Revision]:
        """The revisions of the cell's settings since a finished run with these settings; none if there is no such run."""
        done = [run for run in self._named(wanted) if run.state == "done"]
        return next((later for run in done if (later := self._revisions_since(run, wanted))), [])

    def seeds(self, wanted: Wanted) -> set[int]:
        """The seeds of all runs that, by their names, may belong to the cell's row and column."""
        matches = (re.search(r"-s(\d+)-[^-]*$", run.name) for run in self._named(wanted, seed="*"))
        return {int(match[1]) for match in matches if match}

    def forget(self) -> None:
        """Read everything again, because new runs and corpora may exist."""
        self._finished_of.clear()
        self._copies = None
        self._corpora = {key: corpus for key, corpus in self._corpora.items() if corpus is not None}

    def _finished(self, wanted: Wanted) -> list[Run]:
        """The finished runs of a cell by their settings, including foreign copies."""
        key = wanted.result
        if key not in self._finished_of:
            done = [run for run in self._named(wanted) if run.state == "done"]
            self._finished_of[key] = [run for run in done if self._is_of(run, wanted)]
        return self._finished_of[key]

    def _scored(self, runs: Sequence[Run], wanted: Wanted) -> tuple[Run, Score] | None:
        scores = ((run, run.score(wanted.score)) for run in runs)
        found = next(((run, score) for run, score in scores if score is not None), None)
        if found is None:
            return None
        run, score = found
        copy = next((one for one in runs if isinstance(one, LightCopy) and one.name == run.name), None)
        with suppress(UserError):  # whoever reads the score hears of it
            score = with_positions(score, copy)
        return run, score

    def _named(self, wanted: Wanted, *, seed: str = "") -> Sequence[Run]:
        """Runs whose names have the cell's architecture, data, memory and seed; run folders come before light copies."""
        settings = wanted.settings
        names = f"{settings.arch.name}-{settings.data.name}-mem{settings.mem}-s{seed or settings.seed}-*"
        folders = sorted((self.root / "results" / "runs").glob(names))
        if self._copies is None:
            self._copies = copies_of_tables(self.root)
        copies = [copy for copy in self._copies if fnmatchcase(copy.name, names)]
        return [*(Run(path) for path in folders if (path / CONFIG_FILE).exists()), *copies]

    def _is_of(self, run: Run, wanted: Wanted) -> bool:
        if not self._fits(run, wanted):
            return False
        if wanted.start is None:
            return True
        return read_identity(run).get("init_from") in [
            read_identity(start)["hash"] for start in self._finished(wanted.start)
        ]

    def _fits(self, run: Run, wanted: Wanted) -> bool:
        """Whether a run has the cell's settings with the meaning of today, and its corpus.

        The run that it started from is not compared.
        """
        return self._revisions_since(run, wanted) == []

    def _revisions_since(self, run: Run, wanted: Wanted) -> list[Revision] | None:
        """The revisions of the cell's settings that a run was made before; None if it is not a run of the settings.

        The corpus must have the cell's settings or the content of the corpus here. The run that it started from is not
        compared.
        """
        try:
            config = _as_today(run.config, wanted.settings, run.path / CONFIG_FILE)
        except UserError as error:
            if str(error) not in self.left_out:
                self.left_out.append(str(error))
            return None
        settings = asdict(wanted.settings)
        revisions = in_force(settings)
        later = [revision for revision in revisions if revision.name not in revisions_of(run)]
        for group, _, name in (setting.partition(".") for revision in later for setting in revision.came_with):
            config[group][name] = settings[group][name]
        started = config["init_from"] is not None
        if started != (wanted.start is not None) or determining(config) != determining(settings):
            return None
        by_settings = isinstance(run, LightCopy) or self._corpus(wanted) is None
        if not (by_settings and _same_corpus(config, settings)) and (
            self._corpus(wanted) is None or not self._read_this_corpus(run, wanted)
        ):
            return None
        unknown = set(revisions_of(run)) - {revision.name for revision in revisions}  # a newer version made the run
        return None if unknown else later

    def _read_this_corpus(self, run: Run, wanted: Wanted) -> bool:
        """Whether a run read the corpus that is prepared here; true if none is prepared."""
        corpus = self._corpus(wanted) or {}
        of_run = read_identity(run)["data"] if corpus else {}
        return all(of_run.get(name) == value for name, value in corpus.items())

    def _corpus(self, wanted: Wanted) -> Mapping[str, str] | None:
        """The content of the cell's corpus; None if it is not prepared."""
        data = wanted.settings.data
        key = fingerprint(asdict(data))
        if key not in self._corpora:
            path = prepared(data, self.root)
            self._corpora[key] = None if path is None else content_of(read_json(path / "manifest.json"))
        return self._corpora[key]
