"""Light copies of finished runs, small enough to commit: settings, summaries, metrics and the loss of every document.

results/<paper>/<table>/runs.jsonl holds those of a table: a line for each run, sorted by name. A line is a JSON object that has,
in this order,
  run         the run's name
  config, identity, metrics, summary    what the files of these names hold in the run's folder; of metrics.jsonl a list
  eval        the scores, by the name of their folder: each has documents and summary
  checksum    of all of it
Such a copy is called as if the file was a folder: results/<paper>/<table>/runs.jsonl/<run>.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memexp.errors import UserError
from memexp.files import read_json, rewrite, sealed, unsealed
from memexp.runs.folder import COPIES, Run, Score, ScoreName

_BEGIN = re.compile(r'\{"run": "([^"\\]+)", ')


@dataclass(frozen=True)
class CopiedScore(Score):
    """A score of a light copy, without what each token lost."""

    content: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = unsealed(self.content["summary"], self.path / "summary")
        return summary

    @property
    def documents(self) -> list[dict[str, Any]]:
        if "documents" not in self.content:
            raise UserError(
                f"{self.path} does not list its documents; expected their lengths and losses. Likely cause: an older version "
                "made the copy"
            )
        documents: list[dict[str, Any]] = self.content["documents"]
        return documents


@dataclass(frozen=True)
class LightCopy(Run):
    """A run of which a line of a packed file is kept. It can be read and compared, not scored or started from.

    Attributes:
        path: the packed file with the run's name behind it, as if the file was a folder.
        line: read when something of it is asked for.
    """

    line: str = field(repr=False, compare=False)

    @cached_property
    def content(self) -> dict[str, Any]:
        """All that the line holds.

        Raises:
            UserError: it is damaged or was edited.
        """
        try:
            content = json.loads(self.line)
        except ValueError as error:
            raise UserError(f"cannot read {self.path}: {error}; expected JSON. It was edited or damaged") from error
        content = unsealed(content, self.path)
        if missing := {"config", "identity", "metrics", "summary", "eval"} - set(content):
            raise UserError(f"{self.path} lacks {', '.join(sorted(missing))}; expected all of a light copy")
        assert isinstance(content, dict)
        return content

    @property
    def saved_config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.content["config"]
        return config

    @property
    def identity(self) -> Any:
        return self.content["identity"]

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = unsealed(self.content["summary"], self.path / "summary")
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        metrics: list[dict[str, Any]] = self.content["metrics"]
        return metrics

    @property
    def scores(self) -> list[Score]:
        return [self._score(name) for name in sorted(self.content["eval"])]

    def score(self, name: ScoreName) -> Score | None:
        return self._score(name.folder) if name.folder in self.content["eval"] else None

    def _score(self, folder: str) -> Score:
        return CopiedScore(self.path / "eval" / folder, self.content["eval"][folder])

    @property
    def state(self) -> str:
        return "done"


def light_copies(file: Path) -> list[LightCopy]:
    """The copies in a packed file, in its order; none where it is absent.

    Raises:
        UserError: it cannot be read, or a line does not begin with a run's name.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}; expected light copies of runs, one a line") from error
    return [LightCopy(file / name, line) for name, line in _lines(file, text).items()]


def _lines(file: Path, text: str) -> dict[str, str]:
    """The lines of a packed file by the run's name, which each begins with."""
    lines: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        match = _BEGIN.match(line)
        if match is not None and match[1] not in lines:
            lines[match[1]] = line
        elif line:
            seen = f"again holds {match[1]}" if match else f"begins with {line[:20]!r}"
            raise UserError(
                f'line {number} of {file} {seen}; expected {{"run": "NAME", and each run once. Likely cause: it was edited, or '
                "two versions of it were merged"
            )
    return lines


def copies_of_tables(root: Path) -> list[LightCopy]:
    """Those in the packed files of `results/<name>` and `results/<paper>/<table>`, in the order of the files.

    Files further below hold runs that are set apart: they fill no cell of a table.
    """
    return _copies(root, f"*/{COPIES}", f"*/*/{COPIES}")


def copies_named(root: Path, start: str) -> list[LightCopy]:
    """Those whose names begin so, or the one of that name, wherever they are kept; of a run that is kept twice the first."""
    copies = {copy.name: copy for copy in reversed([*copies_of_tables(root), *_copies(root, f"*/*/*/{COPIES}")])}
    return [copies[start]] if start in copies else [copies[name] for name in sorted(copies) if name.startswith(start)]


def _copies(root: Path, *patterns: str) -> list[LightCopy]:
    files = [file for pattern in patterns for file in sorted((root / "results").glob(pattern))]
    return [copy for file in files for copy in light_copies(file)]


def keep(runs: Iterable[Run], root: Path, experiment: str) -> None:
    """Put what is light of finished runs and of their scores into the packed file of the experiment, where it is not there yet or
    is of another training or scoring.

    Of a run that tables share there is one copy, in the first file that has it. What is a copy itself, or lies elsewhere than
    in `results/runs`, is left alone.
    """
    places = {copy.name: copy for copy in reversed(copies_of_tables(root))}
    home = root / "results" / experiment / COPIES
    changed: dict[Path, dict[str, str]] = {}
    for run in runs:
        if isinstance(run, LightCopy) or run.path.parent != root / "results" / "runs":
            continue
        there, line = places.get(run.name), line_of(run)
        if there is None or there.line != line:
            changed.setdefault(there.path.parent if there else home, {})[run.name] = line
    for file, lines in changed.items():
        rewrite(file, lambda text, file=file, lines=lines: _merged(_lines(file, text) | lines))  # type: ignore[misc]


def _merged(lines: Mapping[str, str]) -> str:
    return "".join(f"{lines[name]}\n" for name in sorted(lines))


def line_of(run: Run) -> str:
    """A run as its line in a packed file."""
    scores = {
        score.path.name: {"documents": documents_of(score), "summary": read_json(score.path / "summary.json")}
        for score in run.scores
    }
    content = {
        "run": run.name,
        "config": run.saved_config,
        "identity": run.identity,
        "metrics": run.metrics,
        "summary": read_json(run.path / "summary.json"),
        "eval": scores,
    }
    return json.dumps(sealed(content), ensure_ascii=False)


def documents_of(score: Score) -> list[dict[str, Any]]:
    """Id, scored tokens and summed nats of each document of a score; nothing where an older light copy does not list them.

    Raises:
        UserError: its files are damaged or do not belong together.
    """
    if isinstance(score, CopiedScore):
        return score.documents if "documents" in score.content else []
    rows = score.documents
    if all("nats" in row for row in rows):
        return rows
    try:
        nats = np.load(score.path / "token_nats.npy")
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {score.path / 'token_nats.npy'}: {error}; expected the nats of every token, for documents.json does "
            "not sum them. Score again with force=true"
        ) from error
    ends = np.cumsum([row["tokens"] for row in rows])
    if not rows or ends[-1] != len(nats):
        raise UserError(
            f"{score.path / 'token_nats.npy'} holds {len(nats):,} numbers; expected as many as documents.json says. It was cut "
            "short or edited; score again with force=true"
        )
    sums = [float(part.sum(dtype=np.float64)) for part in np.split(nats, ends[:-1])]
    return [row | {"nats": total} for row, total in zip(rows, sums, strict=True)]
