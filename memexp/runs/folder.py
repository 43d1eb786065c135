"""Run folders: where they are, what they hold, and which process may write to them. Does not import torch.

results/runs/<name>/
  config.yaml               resolved settings
  identity.json             the settings and data that determine the result, and their hash
  metrics.jsonl             one JSON object per line: step, tokens, loss, rate, gauges, ...
  summary.json              final numbers; exists only when the run is done
  checkpoints/step-N.pt     the newest checkpoints
  lock                      held by the training process
  eval/<split>-<documents>x<max_document>-<mem>-<memory>/
    token_nats.npy          float32, the nats of each scored token, documents one after another
    tokens.npy              uint32, the scored tokens in the same order
    retrieved.npy           RETRIEVED, one row per scored token; exists only if it was asked for
    documents.json          [{"id", "tokens", "nats"}, ...]: for each document the number of scored tokens and the sum of
                            their nats, in order; with answers also the number of "correct" tokens
    summary.json            means, sizes and the settings of the score
"""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memexp.config.arch import ARCHS, RETIRED
from memexp.config.checks import check_values
from memexp.config.groups import Data, Scored
from memexp.config.shape import CONFIG, METRICS, SCORE, SUMMARY, checked, checked_documents, plain_yaml
from memexp.config.sources import SourceOptions, filled, read_source
from memexp.config.train import TrainConfig
from memexp.errors import UserError, did_you_mean
from memexp.files import parse_json, read_json, read_sealed, read_text
from memexp.lock import hold, is_held

COPIES = "runs.jsonl"
"""Name of the packed file beside a table, with light copies of its runs; see `memexp.runs.archive`."""

RETRIEVED = [("distance", "<i4"), ("weight", "<f2")]
"""NumPy type of a memory position that was read to predict a token. `distance`: how many tokens it lies before the input token,
which is the token before the scored one. `weight`: its share of the attention. Both are 0 in unused entries."""


class ScoreName(NamedTuple):
    """The settings of a score, which also name its folder."""

    split: str
    documents: int
    max_document: int
    mem: int
    memory: str

    @property
    def folder(self) -> str:
        """The name of the folder in a run's `eval/`."""
        return f"{self.split}-{self.documents}x{self.max_document}-{self.mem}-{self.memory}"

    def matches(self, scored: Scored) -> bool:
        """Whether the score is of these documents, with any memory."""
        return (self.split, self.documents, self.max_document) == (scored.split, scored.documents, scored.max_document)


@dataclass(frozen=True)
class Score:
    """One evaluation of a run: a folder in its `eval/`."""

    path: Path

    @property
    def name(self) -> ScoreName | None:
        """The settings in the folder's name; None if it is not a score's name."""
        match = re.fullmatch(r"([a-z]+)-(\d+)x(\d+)-(\d+)-(on|off|foreign)", self.path.name)
        if match is None:
            return None
        split, documents, max_document, mem, memory = match.groups()
        return ScoreName(split, int(documents), int(max_document), int(mem), memory)

    @property
    def summary(self) -> dict[str, Any]:
        """The contents of summary.json: settings, sizes and means."""
        path = self.path / "summary.json"
        summary: dict[str, Any] = checked(read_sealed(path), SCORE, path)
        return summary

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The contents of documents.json: one entry for each document, in the order of the arrays."""
        path = self.path / "documents.json"
        return checked_documents(read_json(path), path)


@dataclass(frozen=True)
class Run:
    """A run, known by its folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings of the training, without settings that no longer exist."""
        config: dict[str, Any] = checked(self.saved_config, CONFIG, self.path / "config.yaml")
        if isinstance(arch := config.get("arch"), dict):
            return config | {"arch": {name: value for name, value in arch.items() if name not in RETIRED}}
        return config

    @property
    def saved_config(self) -> dict[str, Any]:
        """The contents of config.yaml."""
        try:
            config = plain_yaml(read_text(self.path / "config.yaml"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.path / 'config.yaml'}: {error}; expected a run folder") from error
        if not isinstance(config, dict):
            raise UserError(
                f"{self.path / 'config.yaml'} holds no settings; expected the settings of a run. Likely cause: it was edited or damaged"
            )
        return config

    @property
    def identity(self) -> Any:
        """The contents of identity.json, unchecked; `memexp.runs.identity.read_identity` also checks them."""
        return read_json(self.path / "identity.json")

    @property
    def settings(self) -> TrainConfig:
        """`config` as an instance of its schema.

        Raises:
            UserError: a setting is unknown to this version, or a needed setting is missing.
        """
        from omegaconf.errors import OmegaConfBaseException

        config = self.config
        try:
            data = dict(config["data"])
            source = self._source(data.pop("source"))
            schema = TrainConfig(arch=ARCHS[config["arch"]["name"]](), data=Data(source=source))
            settings = filled(schema, config | {"data": data})
        except (OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
            seen = str(error).splitlines()[0]
            raise UserError(
                f"{self.path / 'config.yaml'} does not fit this version of memexp ({seen}); expected settings that "
                "this version knows. Likely cause: another version trained the run, or the file was edited"
            ) from error
        assert isinstance(settings, TrainConfig)
        try:
            check_values(settings)
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}. Likely cause: the file was edited") from error
        return settings

    def _source(self, given: Any) -> SourceOptions:
        try:
            return read_source(given)
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}") from error

    @property
    def summary(self) -> dict[str, Any] | None:
        """Final numbers, or None while the run is not done."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        summary: Any = read_sealed(path)
        if not isinstance(summary, dict):
            raise UserError(
                f"{path} holds no summary; expected the summary of a run. Likely cause: it was edited or damaged"
            )
        checked(summary, SUMMARY, path)
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl; a last line that is still being written is left out."""
        path = self.path / "metrics.jsonl"
        try:
            lines = read_text(path).split("\n")[:-1]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {path}: {error}; expected one JSON object per line. Likely cause: it was edited or damaged"
            ) from error
        metrics: list[dict[str, Any]] = checked([parse_json(line, path) for line in lines], METRICS, path)
        return metrics

    def within(self, path: Path) -> Path:
        """`path`, a place in the folder to write to, if no link leads out of the folder on the way.

        Raises:
            UserError: a link does. The folder may come from somebody else, and its links must not choose what is overwritten.
        """
        home = self.path.resolve()
        if not path.resolve().is_relative_to(home):
            raise UserError(
                f"{path} is a link that leads out of {self.path}, to {path.resolve()}; expected a folder of the run. Likely cause: the "
                "run comes from somebody else; remove the link"
            )
        return path

    @property
    def scores(self) -> list[Score]:
        """Finished evaluations, sorted by name."""
        return [Score(path.parent) for path in sorted(self.path.glob("eval/*/summary.json"))]

    def score(self, name: ScoreName) -> Score | None:
        """The finished evaluation with these settings; None if there is none."""
        path = self.path / "eval" / name.folder
        return Score(path) if (path / "summary.json").exists() else None

    @property
    def state(self) -> str:
        """'done', 'running' (a process holds its lock) or 'stopped'."""
        if (self.path / "summary.json").exists():
            return "done"
        return "running" if is_held(self.path / "lock") else "stopped"

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder for writing; the lock ends with the process.

        Raises:
            UserError: another process holds the lock, or the folder cannot be written.
        """

        def refuse(process: str) -> None:
            raise UserError(
                f"{self.path} is in use by {process}; expected a run that no other process trains. "
                "Wait for that process, or change a setting or the seed"
            )

        return hold(self.path / "lock", busy=refuse)


def all_runs(root: Path, *, tag: str | None = None) -> list[Run]:
    """Every run in `root`, sorted by name; with `tag`, only the runs with this tag."""
    runs = [Run(path.parent) for path in sorted((root / "results" / "runs").glob("*/config.yaml"))]
    return [run for run in runs if tag is None or run.config.get("tag") == tag]


def find_run(root: Path, name: str, *, tag: str | None = None) -> Run:
    """The run whose folder or name is `name`, or the only run whose name begins with it.

    Args:
        tag: look only among the runs with this tag; a folder is taken whatever its tag.

    Raises:
        UserError: no run matches, or more than one.
    """
    if (Path(name) / "config.yaml").is_file():
        return Run(Path(name).resolve())
    if COPIES in Path(name).parts:
        raise UserError(
            f"{name} is a light copy, without weights and without the loss of each token; expected a whole run. `memexp table "
            f"{name}` prints the command that trains it again"
        )
    runs = all_runs(root, tag=tag)
    matches = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(
            f"{name!r} is the start of {len(matches)} runs ({', '.join(run.name for run in matches[:3])}{', ...' if len(matches) > 3 else ''}); expected the name of one run"
        )
    names = [run.name for run in runs]
    raise UserError(
        f"there is no run {name!r}{f' with the tag {tag!r}' if tag else ''} in {root / 'results' / 'runs'} ({len(runs)} runs); expected a run's folder or the "
        f"start of a name that `memexp runs` lists{did_you_mean(name, names)}"
    )
