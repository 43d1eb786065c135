"""Runs as folders: where they lie, what is in them, and who may write there. Reads and writes files only, no torch.

results/runs/<name>/
  config.yaml               resolved settings
  identity.json             what determines the result, and its hash
  metrics.jsonl             one JSON object a line: step, tokens, loss, rate, gauges, ...
  summary.json              final numbers; there only when the run is done
  checkpoints/step-N.pt     the newest ones
  lock                      held by the process that trains
  eval/<split>-<documents>x<max_document>-<mem>-<memory>/
    token_nats.npy          float32, one number a scored token, documents one after another
    tokens.npy              uint32, the token that each number is about
    retrieved.npy           RETRIEVED, one row a scored token; there only where it was asked for
    documents.json          [{"id", "tokens", "nats"}, ...]: of each document the scored tokens and their sum, in order; of
                            answers also how many are "correct"
    summary.json            means, sizes and what was scored
"""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memexp.config.arch import ARCHS, RETIRED
from memexp.config.groups import Data, Scored
from memexp.config.sources import read_source
from memexp.config.train import TrainConfig
from memexp.errors import UserError, did_you_mean
from memexp.files import read_json, read_sealed
from memexp.lock import hold, is_held

COPIES = "runs.jsonl"
"""The packed file beside a table that holds light copies of its runs; see `memexp.runs.archive`."""

RETRIEVED = [("distance", "<i4"), ("weight", "<f2")]
"""NumPy's type of a place that a token's memory was read at: how many tokens before the token that was read, which is the one before the
scored token, and its share of the attention; both 0 where there was none."""


class ScoreName(NamedTuple):
    """What a score was asked to be; its folder is named by it."""

    split: str
    documents: int
    max_document: int
    mem: int
    memory: str

    @property
    def folder(self) -> str:
        """The folder's name below a run's `eval/`."""
        return f"{self.split}-{self.documents}x{self.max_document}-{self.mem}-{self.memory}"

    def matches(self, scored: Scored) -> bool:
        """Whether it is about these documents, at any memory."""
        return (self.split, self.documents, self.max_document) == (scored.split, scored.documents, scored.max_document)


@dataclass(frozen=True)
class Score:
    """One evaluation of a run: a folder below its `eval/`."""

    path: Path

    @property
    def name(self) -> ScoreName | None:
        """What it was asked to be; None for a folder that is not named as scores are."""
        match = re.fullmatch(r"([a-z]+)-(\d+)x(\d+)-(\d+)-(on|off|foreign)", self.path.name)
        if match is None:
            return None
        split, documents, max_document, mem, memory = match.groups()
        return ScoreName(split, int(documents), int(max_document), int(mem), memory)

    @property
    def summary(self) -> dict[str, Any]:
        """What was scored and the means; see `memexp.eval.score`."""
        summary: dict[str, Any] = read_sealed(self.path / "summary.json")
        return summary

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Id and number of scored tokens of each document, in the order of the arrays."""
        documents: list[dict[str, Any]] = read_json(self.path / "documents.json")
        return documents


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings that `train` was given, without those that no longer exist."""
        config = self.saved_config
        if isinstance(arch := config.get("arch"), dict):
            return config | {"arch": {name: value for name, value in arch.items() if name not in RETIRED}}
        return config

    @property
    def saved_config(self) -> dict[str, Any]:
        """What config.yaml holds."""
        import yaml

        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C where there is one
            config = yaml.load((self.path / "config.yaml").read_text(encoding="utf-8"), Loader=loader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            seen = " ".join(str(error).split())  # of YAML it has many lines
            raise UserError(f"cannot read {self.path / 'config.yaml'}: {seen}; expected a run folder") from error
        if not isinstance(config, dict):
            raise UserError(
                f"{self.path / 'config.yaml'} holds no settings; expected those of a run. It was edited or damaged"
            )
        return config

    @property
    def identity(self) -> Any:
        """What identity.json holds; `memexp.runs.identity.read_identity` also checks it."""
        return read_json(self.path / "identity.json")

    @property
    def settings(self) -> TrainConfig:
        """`config` as the schema that `train` was given.

        Raises:
            UserError: it holds what this version does not know, or lacks what it needs.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        config = self.config
        try:
            data = dict(config["data"])
            source = read_source(data.pop("source"))
            schema = OmegaConf.structured(TrainConfig(arch=ARCHS[config["arch"]["name"]](), data=Data(source=source)))
            settings = OmegaConf.to_object(OmegaConf.merge(schema, config | {"data": data}))
        except (OmegaConfBaseException, KeyError, TypeError) as error:
            seen = str(error).splitlines()[0]
            raise UserError(
                f"{self.path / 'config.yaml'} does not fit this version of memexp ({seen}); expected settings that it "
                "knows. The run was made by another version, or the file was edited"
            ) from error
        assert isinstance(settings, TrainConfig)
        return settings

    @property
    def summary(self) -> dict[str, Any] | None:
        """Final numbers, or None while the run is not done."""
        path = self.path / "summary.json"
        summary = read_sealed(path) if path.exists() else None
        if summary is not None and not isinstance(summary, dict):
            raise UserError(f"{path} holds no summary; expected that of a run. It was edited or damaged")
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Whole lines of metrics.jsonl; a last line that is being written is left out."""
        path = self.path / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            return [json.loads(line) for line in lines]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise UserError(
                f"cannot read {path}: {error}; expected JSON, one object a line. It was edited or damaged"
            ) from error

    @property
    def scores(self) -> list[Score]:
        """Finished evaluations, sorted by name."""
        return [Score(path.parent) for path in sorted(self.path.glob("eval/*/summary.json"))]

    def score(self, name: ScoreName) -> Score | None:
        """The finished evaluation of that name; None where there is none."""
        path = self.path / "eval" / name.folder
        return Score(path) if (path / "summary.json").exists() else None

    @property
    def state(self) -> str:
        """'done', 'running' (a process holds its lock) or 'stopped'."""
        if (self.path / "summary.json").exists():
            return "done"
        return "running" if is_held(self.path / "lock") else "stopped"

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for writing; a process that dies lets go of it by itself.

        Raises:
            UserError: another process holds it, or it cannot be written.
        """

        def refuse(process: str) -> None:
            raise UserError(
                f"{self.path} is in use by {process}; expected a run that nobody else trains. "
                "Wait for it, or change a setting or the seed"
            )

        return hold(self.path / "lock", busy=refuse)


def all_runs(root: Path, *, tag: str | None = None) -> list[Run]:
    """Every run below `root`, sorted by name; with `tag`, only those that carry it."""
    runs = [Run(path.parent) for path in sorted((root / "results" / "runs").glob("*/config.yaml"))]
    return [run for run in runs if tag is None or run.config.get("tag") == tag]


def find_run(root: Path, name: str, *, tag: str | None = None) -> Run:
    """The run of that name, of that folder, or the only one whose name starts so; with `tag`, among those that carry it.

    Raises:
        UserError: there is none, or more than one.
    """
    if (Path(name) / "config.yaml").is_file():
        return Run(Path(name).resolve())
    if COPIES in Path(name).parts:
        raise UserError(
            f"{name} is a light copy, without weights and without what each token lost; expected a whole run. The command that "
            f"trains it again is at the end of `memexp table {name}`"
        )
    runs = all_runs(root, tag=tag)
    found = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{name!r} is the start of {len(found)} runs ({', '.join(run.name for run in found[:3])}{', ...' if len(found) > 3 else ''}); expected one"
        )
    names = [run.name for run in runs]
    raise UserError(
        f"there is no run {name!r}{f' with the tag {tag!r}' if tag else ''} below {root / 'results' / 'runs'} ({len(runs)} runs); expected a run's folder or the "
        f"start of its name, as `memexp runs` lists them{did_you_mean(name, names)}"
    )
