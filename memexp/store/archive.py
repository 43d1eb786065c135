"""Light copies of finished runs, small enough to commit: settings, summaries, metrics and the loss of every document.

The packed file results/<paper>/<table>/runs.jsonl holds the runs of a table, one line per run, sorted by name. A line is a JSON
object with these keys, in this order:
  run         the run's name
  config, identity, metrics, summary    contents of the files of these names in the run's folder; metrics.jsonl as a list
  eval        the scores by the name of their folder, each with documents and summary; and positions, if text was scored
  checksum    of all the above
A copy is addressed as if the file was a folder: results/<paper>/<table>/runs.jsonl/<run>.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memexp.config.shape import METRICS, POSITIONS, RUN_SUMMARY, SCORE_SUMMARY, checked, checked_documents
from memexp.errors import UserError
from memexp.files import SUMMARY, parse_json, read_json, read_text, rewrite, sealed, unsealed
from memexp.store.folder import COPIES, TOKEN_NATS, Run, Score, ScoreName

_COPY = {
    "run": str, "config": dict, "identity": dict, "metrics": METRICS, "summary": dict,
    "eval": {None: {"summary": dict, "documents": list, "positions": POSITIONS}},
}  # fmt: skip
"""What a line holds; see `memexp.config.shape`."""

SHORTEST = 512
"""Tokens in the first range of positions; each further range ends at twice the position."""

_BEGIN = re.compile(r'\{"run": "([^"\\]+)", ')


@dataclass(frozen=True)
class CopiedScore(Score):
    """A score of a light copy, without the nats of each token."""

    content: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def summary(self) -> dict[str, Any]:
        path = self.path / "summary"
        summary: dict[str, Any] = checked(unsealed(self.content["summary"], path), SCORE_SUMMARY, path)
        return summary

    @property
    def documents(self) -> list[dict[str, Any]]:
        if "documents" not in self.content:
            raise UserError(
                f"{self.path} does not list its documents; expected their lengths and losses. Likely cause: an older version of "
                "memexp made the copy"
            )
        return checked_documents(self.content["documents"], self.path / "documents")


@dataclass(frozen=True)
class LightCopy(Run):
    """A run that is kept as a line of a packed file. It can be read and compared, but not scored or used as a start.

    Attributes:
        path: the packed file followed by the run's name, as if the file was a folder.
        line: the JSON text; it is parsed when `content` is first used.
    """

    line: str = field(repr=False, compare=False)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The JSON object of the line.

        Raises:
            UserError: the line is damaged or was edited.
        """
        content = unsealed(parse_json(self.line, self.path), self.path)
        if missing := {"config", "identity", "metrics", "summary", "eval"} - set(content):
            raise UserError(f"{self.path} lacks {', '.join(sorted(missing))}; expected all keys of a light copy")
        checked(content, _COPY, self.path)
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
        path = self.path / "summary"
        summary: dict[str, Any] = checked(unsealed(self.content["summary"], path), RUN_SUMMARY, path)
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
    """The copies in a packed file, in the file's order; an absent file has none.

    Raises:
        UserError: the file cannot be read, or a line does not begin with a run's name.
    """
    try:
        text = read_text(file)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; expected light copies of runs, one a line") from error
    return [LightCopy(file / name, line) for name, line in _lines(file, text).items()]


def _lines(file: Path, text: str) -> dict[str, str]:
    """The lines of a packed file by the run's name, with which each line begins."""
    lines: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        match = _BEGIN.match(line)
        if match is not None and match[1] not in lines:
            lines[match[1]] = line
        elif line:
            seen = f"holds {match[1]} again" if match else f"begins with {line[:20]!r}"
            raise UserError(
                f'line {number} of {file} {seen}; expected {{"run": "NAME", and each run once. Likely cause: the file was edited, or '
                "two versions of it were merged"
            )
    return lines


def copies_of_tables(root: Path) -> list[LightCopy]:
    """The light copies in the packed files of `results/<name>` and `results/<paper>/<table>`, in the order of the files.

    Packed files in deeper folders hold runs that fill no cell of a table.
    """
    return _copies(root, f"*/{COPIES}", f"*/*/{COPIES}")


def copies_named(root: Path, start: str) -> list[LightCopy]:
    """The light copy named `start`, else all whose names begin with it, from every packed file; of two copies of a run, the first."""
    copies = {copy.name: copy for copy in reversed([*copies_of_tables(root), *_copies(root, f"*/*/*/{COPIES}")])}
    return [copies[start]] if start in copies else [copies[name] for name in sorted(copies) if name.startswith(start)]


def _copies(root: Path, *patterns: str) -> list[LightCopy]:
    files = [file for pattern in patterns for file in sorted((root / "results").glob(pattern))]
    return [copy for file in files for copy in light_copies(file)]


def keep(runs: Iterable[Run], root: Path, experiment: str) -> list[str]:
    """Put light copies of finished runs into the packed file of the experiment, unless the same copy is already there.

    A run that several tables share has one copy, in the first file that has it. Runs that are copies themselves, or are not
    in `results/runs`, are skipped.

    Returns:
        A line for each run that cannot be copied, because a file is damaged; its old copy stays.
    """
    places = {copy.name: copy for copy in reversed(copies_of_tables(root))}
    home = root / "results" / experiment / COPIES
    changed: dict[Path, dict[str, str]] = {}
    skipped = []
    for run in runs:
        if isinstance(run, LightCopy) or run.path.parent != root / "results" / "runs":
            continue
        copy = places.get(run.name)
        try:
            line = line_of(run, copy)
        except UserError as error:  # other runs may be training meanwhile
            skipped.append(f"no new light copy of {run.name}: {error}")
            continue
        if copy is None or copy.line != line:
            changed.setdefault(copy.path.parent if copy else home, {})[run.name] = line
    for file, lines in changed.items():
        rewrite(file, lambda text, file=file, lines=lines: _merged(_lines(file, text) | lines))  # type: ignore[misc]
    return skipped


def _merged(lines: Mapping[str, str]) -> str:
    return "".join(f"{lines[name]}\n" for name in sorted(lines))


def line_of(run: Run, before: LightCopy | None = None) -> str:
    """The line of a packed file that holds a run.

    Args:
        before: an older copy; of scores whose losses of tokens were deleted since then, it has those by position.

    Raises:
        UserError: a file of the run is damaged, or the older copy is where it is needed.
    """
    scores = {
        score.path.name: {
            "documents": documents_of(score),
            "summary": _checked(score.path / SUMMARY),
            **({"positions": found} if (found := positions_of(with_positions(score, before))) else {}),
        }
        for score in run.scores
    }
    content = {
        "run": run.name,
        "config": run.saved_config,
        "identity": run.identity,
        "metrics": run.metrics,
        "summary": _checked(run.path / SUMMARY),
        "eval": scores,
    }
    return json.dumps(sealed(content), ensure_ascii=False, allow_nan=False)


def _checked(path: Path) -> Any:
    """The content of a sealed file with its checksum, after a comparison with it."""
    content = read_json(path)
    unsealed(content, path)
    return content


def documents_of(score: Score) -> list[dict[str, Any]]:
    """Id, number of scored tokens and sum of nats of each document; empty for an older light copy that does not list them.

    Raises:
        UserError: the files of the score are damaged or do not belong together.
    """
    if isinstance(score, CopiedScore):
        return score.documents if "documents" in score.content else []
    rows = score.documents
    if all("nats" in row for row in rows):
        return rows
    nats, ends = _token_nats(score), np.cumsum([row["tokens"] for row in rows])
    sums = [float(part.sum(dtype=np.float64)) for part in np.split(nats, ends[:-1])]
    return [row | {"nats": total} for row, total in zip(rows, sums, strict=True)]


def with_positions(score: Score, copy: LightCopy | None) -> Score:
    """What a light copy holds of a score, if only the copy still has the losses by position; else `score`.

    Raises:
        UserError: a file of the score, or the copy, is damaged.
    """
    if copy is None or isinstance(score, CopiedScore) or (score.path / TOKEN_NATS).exists():
        return score
    kept = copy.content["eval"].get(score.path.name, {})
    # scored again, other documents or losses are another score
    same = "positions" in kept and kept.get("documents") == score.documents
    return copy._score(score.path.name) if same else score


def positions_of(score: Score) -> dict[str, dict[str, Any]]:
    """Number and summed nats of the scored tokens in each range of positions, by its end: up to 512, from there to 1,024, and so on.

    The position of a token is the number of tokens of its document before it. Empty if only answers are scored, or if the losses of
    the tokens are not there.

    Raises:
        UserError: the files of the score are damaged or do not belong together.
    """
    if isinstance(score, CopiedScore):
        return dict(score.content.get("positions", {}))
    if "accuracy" in score.summary or not (score.path / TOKEN_NATS).exists():
        return {}
    rows, nats_N = score.documents, _token_nats(score)
    position_N = np.concatenate([np.arange(1, row["tokens"] + 1) for row in rows])
    end_N = SHORTEST << np.ceil(np.log2(np.maximum(position_N / SHORTEST, 1))).astype(int)
    return {
        str(end): {"tokens": int((end_N == end).sum()), "nats": float(nats_N[end_N == end].sum(dtype=np.float64))}
        for end in np.unique(end_N)
    }


def _token_nats(score: Score) -> np.ndarray:
    """The nats of every token of a score, as many as its list of documents says.

    Raises:
        UserError: the file is absent or damaged, or holds another number.
    """
    rows = score.documents
    try:
        path = score.verified(TOKEN_NATS)
        if not path.is_file():
            raise ValueError("it is no ordinary file")
        nats_N: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {score.path / TOKEN_NATS}: {error}; expected the nats of every token. Likely cause: it was "
            f"deleted or damaged; {score.again}"
        ) from error
    tokens = sum(row["tokens"] for row in rows)
    if not rows or tokens != len(nats_N):
        raise UserError(
            f"{score.path / TOKEN_NATS} holds {len(nats_N):,} numbers; expected {tokens:,}, as documents.json says. Likely cause: it "
            f"was cut short or edited; {score.again}"
        )
    return nats_N
