"""Which finished run and score fill a cell: those that were made with the cell's settings, whatever their folders are called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from memexp.config.field import default_of
from memexp.config.sources import SourceOptions, read_source
from memexp.data.corpus import content_of, prepared
from memexp.errors import UserError
from memexp.experiment.settings import Wanted, determining
from memexp.files import fingerprint, read_json
from memexp.runs.archive import LightCopy, copies_of_tables
from memexp.runs.folder import Run, Score
from memexp.runs.identity import read_identity


def _as_today(config: dict[str, Any], schema: Any, path: Path, group: str = "") -> dict[str, Any]:
    """The settings of a run with all that `schema` has: what is newer than the run at its default.

    Args:
        path: where they stand, for the message.
        group: where in them `config` stands, as in "arch.".

    Raises:
        UserError: it has a setting that is not known.
    """
    known = {item.name: item for item in fields(schema)}
    for name in config:
        if name not in known:
            raise UserError(
                f"{path}: there is no setting {group}{name} in this version of memexp; expected settings that it knows. The run "
                "was made by another version"
            )
    found = {name: config.get(name, default_of(item)) for name, item in known.items()}
    for name, value in found.items():
        if isinstance(nested := getattr(schema, name), SourceOptions):
            found[name] = asdict(read_source(value))
        elif is_dataclass(nested):
            value = value if isinstance(value, dict) else asdict(value)
            found[name] = _as_today(value, nested, path, f"{group}{name}.")
    return found


@dataclass
class Library:
    """The finished runs below a root: those of `results/runs`, and the light copies beside the tables.

    Where a cell's corpus is prepared, its runs are those that read it as it is; light copies of another one (made on a machine
    whose corpus of that name is not the same) are foreign.

    Attributes:
        left_out: one line for each run that is of a cell by its name but cannot be read.
    """

    root: Path
    left_out: list[str] = field(default_factory=list)
    _found: dict[str, list[Run]] = field(default_factory=dict)
    _copies: list[LightCopy] | None = None
    _corpora: dict[str, Mapping[str, str] | None] = field(default_factory=dict)

    def runs(self, wanted: Wanted) -> list[Run]:
        """The finished runs of a cell, light copies last."""
        return [run for run in self._finished(wanted) if self._read_what_is_here(run, wanted)]

    def with_weights(self, wanted: Wanted) -> Run | None:
        """The finished run of a cell that can be scored or started from."""
        return next((run for run in self.runs(wanted) if (run.path / "weights.pt").exists()), None)

    def score(self, wanted: Wanted) -> tuple[Run, Score] | None:
        """The score of a cell, and whose it is."""
        return self._scored(self.runs(wanted), wanted)

    def foreign_score(self, wanted: Wanted) -> tuple[Run, Score] | None:
        """The same of a foreign light copy."""
        others = [run for run in self._finished(wanted) if not self._read_what_is_here(run, wanted)]
        return self._scored(others, wanted)

    def unfinished(self, wanted: Wanted) -> Run | None:
        """The run of a cell that has begun and is not done."""
        begun = [run for run in self._named(wanted) if run.state != "done"]
        return next((run for run in begun if self._fits(run, wanted) and self._read_what_is_here(run, wanted)), None)

    def seeds(self, wanted: Wanted) -> set[int]:
        """The seeds of runs that may be of the cell's row and column."""
        found = (re.search(r"-s(\d+)-[^-]*$", run.name) for run in self._named(wanted, seed="*"))
        return {int(match[1]) for match in found if match}

    def forget(self) -> None:
        """Look again: runs have been made since, and the corpora that they needed."""
        self._found.clear()
        self._copies = None
        self._corpora = {key: corpus for key, corpus in self._corpora.items() if corpus is not None}

    def _finished(self, wanted: Wanted) -> list[Run]:
        """Those of a cell by their settings, foreign ones too."""
        key = wanted.result
        if key not in self._found:
            done = [run for run in self._named(wanted) if run.state == "done"]
            self._found[key] = [run for run in done if self._is_of(run, wanted)]
        return self._found[key]

    def _scored(self, runs: Sequence[Run], wanted: Wanted) -> tuple[Run, Score] | None:
        scores = ((run, run.score(wanted.score)) for run in runs)
        return next(((run, score) for run, score in scores if score is not None), None)

    def _named(self, wanted: Wanted, *, seed: str = "") -> Sequence[Run]:
        """Runs of that architecture, data, memory and seed by their name, whole ones before their light copies."""
        settings = wanted.settings
        names = f"{settings.arch.name}-{settings.data.name}-mem{settings.mem}-s{seed or settings.seed}-*"
        folders = sorted((self.root / "results" / "runs").glob(names))
        if self._copies is None:
            self._copies = copies_of_tables(self.root)
        copies = [copy for copy in self._copies if fnmatchcase(copy.name, names)]
        return [*(Run(path) for path in folders if (path / "config.yaml").exists()), *copies]

    def _is_of(self, run: Run, wanted: Wanted) -> bool:
        if not self._fits(run, wanted):
            return False
        if wanted.start is None:
            return True
        return read_identity(run).get("init_from") in [
            read_identity(start)["hash"] for start in self._finished(wanted.start)
        ]

    def _fits(self, run: Run, wanted: Wanted) -> bool:
        """Whether it has the settings, its corpus those settings or the content of the one here; which run it started from is
        not looked at."""
        try:
            config = _as_today(run.config, wanted.settings, run.path / "config.yaml")
        except UserError as error:
            if str(error) not in self.left_out:
                self.left_out.append(str(error))
            return False
        started = config["init_from"] is not None
        if started != (wanted.start is not None) or determining(config) != determining(asdict(wanted.settings)):
            return False
        by_settings = isinstance(run, LightCopy) or self._corpus(wanted) is None
        if by_settings and config["data"] == asdict(wanted.settings.data):
            return True
        return self._corpus(wanted) is not None and self._read_what_is_here(run, wanted)

    def _read_what_is_here(self, run: Run, wanted: Wanted) -> bool:
        """Whether a run read the corpus as it is here now; true where none is prepared to compare with."""
        corpus = self._corpus(wanted) or {}
        there = read_identity(run)["data"] if corpus else {}
        return all(there.get(name) == value for name, value in corpus.items())

    def _corpus(self, wanted: Wanted) -> Mapping[str, str] | None:
        """The content of the cell's corpus; None where it is not prepared."""
        data = wanted.settings.data
        key = fingerprint(asdict(data))
        if key not in self._corpora:
            path = prepared(data, self.root)
            self._corpora[key] = None if path is None else content_of(read_json(path / "manifest.json"))
        return self._corpora[key]
