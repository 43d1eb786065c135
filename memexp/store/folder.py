"""Run folders: where they are, what they hold, and which process may write to them. Does not import torch.

results/runs/<name>/
  config.yaml               resolved settings
  identity.json             the settings and data that determine the result, and their hash
  metrics.jsonl             one JSON object per line: of training {"step", "tokens", "loss", "rate", gauges, ...}, and with
                            validate_every also {"step", "valid_nats_per_token"}
  weights.pt                the weights after the last step
  summary.json              final numbers; exists only when the run is done
  checkpoints/              the newest checkpoints:
    step-N.pt               everything after step N; of a run in several processes what they share
    step-N.R-of-K.pt        what process R of K alone has, such as the state of its lanes
  lock                      held by the training process
  eval/<split>-<documents>x<max_document>-<mem>-<memory>/
    token_nats.npy          float32, the nats of each scored token, documents one after another
    tokens.npy              uint32, the scored tokens in the same order
    retrieved.npy           RETRIEVED, one row per scored token; exists only if it was asked for
    documents.json          [{"id", "tokens", "nats"}, ...]: for each document the number of scored tokens and the sum of
                            their nats, in order; with answers also the number of "correct" tokens
    summary.json            means, sizes and the settings of the score, and the checksums of its other files
  tensorboard/, wandb/      what the tracker of this name writes

Checksums are verified when a file is read: of config.yaml it is in the last line; of identity.json under "hash"; of summaries,
weights, checkpoints and each line of metrics under "checksum". Older versions wrote files without one, which are read unchecked.
"""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memexp.config.arch import ARCHS, RETIRED
from memexp.config.checks import check_values
from memexp.config.groups import Data, Scored
from memexp.config.shape import CONFIG, METRICS, RUN_SUMMARY, SCORE_SUMMARY, checked, checked_documents, plain_yaml
from memexp.config.sources import SourceOptions, filled, read_source
from memexp.config.train import TrainConfig
from memexp.errors import UserError, did_you_mean
from memexp.files import (
    SUMMARY,
    encoded,
    find_root,
    fingerprint,
    folders_with,
    is_there,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_sealed,
    read_text,
    unreadable,
    unsealed,
    verify,
    with_last_line,
    without_last_line,
    write_atomically,
)
from memexp.lock import hold, is_held, is_ours
from memexp.terminal import same_command

COPIES = "runs.jsonl"
"""Name of the packed file beside a table, with light copies of its runs; see `memexp.store.archive`."""

CONFIG_FILE, IDENTITY_FILE, METRICS_FILE = "config.yaml", "identity.json", "metrics.jsonl"
WEIGHTS = "weights.pt"
CHECKPOINTS = "checkpoints"
"""Files and a folder in a run's folder; the first of them makes a folder a run."""

TOKEN_NATS = "token_nats.npy"
"""The file in a score's folder with the loss of each token."""

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

    def command(self, *more: str, memory: str | None = None, own: int | None = None) -> str:
        """The command that scores the same documents again, with the settings `more` added.

        Args:
            memory: in place of its own state of the memory.
            own: the size of the run's memory, which the command need not name.
        """
        run, name = Run(self.path.parents[1]), self.name
        if name is None:
            return " ".join([command_in(run.root, f"memexp eval {run.name}"), *more])
        scored = Scored(name.split, name.documents, name.max_document)
        mem, memory = None if name.mem == own else name.mem, memory or name.memory
        return " ".join([eval_command(run.name, scored, root=run.root, mem=mem, memory=memory), *more])

    @property
    def again(self) -> str:
        """What the user can do if it is damaged."""
        return f"score it again with `{self.command('force=true')}`"

    @property
    def summary(self) -> dict[str, Any]:
        """The contents of summary.json: settings, sizes and means."""
        path = self.path / SUMMARY
        content = read_sealed(path, remedy=self.again)
        summary: dict[str, Any] = checked(content, SCORE_SUMMARY, path)
        return summary

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The contents of documents.json: one entry for each document, in the order of the arrays."""
        path = self.verified("documents.json")
        return checked_documents(read_json(path), path)

    def verified(self, name: str) -> Path:
        """The path of one of its files, after a comparison with the checksum in the summary; older scores have none.

        Raises:
            UserError: the file was changed after it was written.
        """
        summary, path = self.summary, self.path / name
        sums = summary.get("files", {}) if isinstance(summary, dict) else {}
        if isinstance(sums, dict) and name in sums and path.exists():
            verify(path, str(sums[name]), where=f"in {SUMMARY}", remedy=self.again)
        return path


@dataclass(frozen=True)
class Run:
    """A run, known by its folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def root(self) -> Path | None:
        """The folder whose results/runs holds the run; None if it is elsewhere."""
        home = self.path.parent
        return home.parents[1] if home.parts[-2:] == ("results", "runs") else None

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings of the training, without settings that no longer exist."""
        config: dict[str, Any] = checked(self.saved_config, CONFIG, self.path / CONFIG_FILE)
        if isinstance(arch := config.get("arch"), dict):
            return config | {"arch": {name: value for name, value in arch.items() if name not in RETIRED}}
        return config

    @property
    def saved_config(self) -> dict[str, Any]:
        """The contents of config.yaml."""
        try:
            path = self.path / CONFIG_FILE
            config = plain_yaml(without_last_line(read_bytes(path), path))
        except (OSError, ValueError) as error:
            remedy = "the `memexp train` that made the run writes it again"
            raise unreadable(path, error, expected="the settings of a run", remedy=remedy) from error
        if not isinstance(config, dict):
            raise UserError(
                f"{self.path / CONFIG_FILE} holds no settings; expected the settings of a run. Likely cause: it was edited or damaged"
            )
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml, with its checksum in the last line.

        Raises:
            UserError: a setting would not be read as it is, such as a text that is not UTF-8.
        """
        write_atomically(self.path / CONFIG_FILE, as_yaml(config))

    @property
    def identity(self) -> Any:
        """The contents of identity.json, unchecked; `memexp.store.identity.read_identity` also checks them."""
        return read_json(self.path / IDENTITY_FILE)

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
                f"{self.path / CONFIG_FILE} does not fit this version of memexp ({seen}); expected settings that "
                "this version knows. Likely cause: another version trained the run, or the file was edited"
            ) from error
        assert isinstance(settings, TrainConfig)
        try:
            check_values(settings)
        except UserError as error:
            raise UserError(f"{self.path / CONFIG_FILE}: {error}. Likely cause: the file was edited") from error
        return settings

    def _source(self, given: Any) -> SourceOptions:
        try:
            return read_source(given)
        except UserError as error:
            raise UserError(f"{self.path / CONFIG_FILE}: {error}") from error

    @property
    def summary(self) -> dict[str, Any] | None:
        """Final numbers, or None while the run is not done."""
        path = self.path / SUMMARY
        if not is_there(path):
            return None
        remedy = f"delete {path}, and the same `memexp train` trains the run again"
        summary: Any = read_sealed(path, remedy=remedy)
        if not isinstance(summary, dict):
            raise UserError(
                f"{path} holds no summary; expected the summary of a run. Likely cause: it was edited or damaged"
            )
        checked(summary, RUN_SUMMARY, path)
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl; a last line that is still being written is left out."""
        path = self.path / METRICS_FILE
        try:
            lines = read_text(path).split("\n")[:-1]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise unreadable(path, error, expected="one JSON object per line") from error
        metrics: list[dict[str, Any]] = checked(
            [unsealed(parse_json(line, path), path) for line in lines], METRICS, path
        )
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
        try:
            return [Score(path) for path in folders_with(self.path / "eval", SUMMARY)]
        except OSError as error:
            raise unreadable(self.path / "eval", error, expected="a folder of scores") from error

    def score(self, name: ScoreName) -> Score | None:
        """The finished evaluation with these settings; None if there is none."""
        path = self.path / "eval" / name.folder
        return Score(path) if is_there(path / SUMMARY) else None

    @property
    def state(self) -> str:
        """'done', 'running' (a process holds its lock) or 'stopped'.

        Raises:
            UserError: the lock cannot be read.
        """
        if is_there(self.path / SUMMARY):
            return "done"
        return "running" if is_held(self.path / "lock") else "stopped"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for writing; the lock ends with the process. A folder in which nothing is written is removed.

        Raises:
            UserError: another process holds the lock, or the folder cannot be written.
        """

        def refuse(process: str) -> None:
            raise UserError(
                f"{self.path} is in use by {process}; expected a run that no other process trains. "
                "Wait for that process, or change a setting or the seed"
            )

        lock = self.path / "lock"
        with hold(lock, busy=refuse):
            try:
                yield
            finally:
                if [path.name for path in self.path.glob("*")] == [lock.name]:
                    with suppress(OSError):
                        lock.unlink()
                        self.path.rmdir()

    def refuse_if_gone(self) -> None:
        """Check that the folder that this process has locked is still there.

        Raises:
            UserError: it was deleted, and another process may have made it again.
        """
        if not is_ours(self.path / "lock"):
            raise UserError(
                f"{self.path} was deleted or moved while this process trained in it; expected that it stays until the run is done; "
                f"{same_command()} trains the run anew"
            )


def as_yaml(config: dict[str, Any]) -> bytes:
    """The settings of a run as config.yaml holds them.

    Raises:
        UserError: a setting would not be read as it is, such as a text that is not UTF-8.
    """
    import yaml

    encoded(json.dumps(config, ensure_ascii=False))
    text = yaml.safe_dump(config, sort_keys=False)
    if fingerprint(parse_yaml(text)) != fingerprint(config):
        raise UserError(
            "the settings cannot be written to config.yaml so that they are read as they are; expected plain text and numbers"
        )
    return with_last_line(text)


def command_in(root: Path | None, command: str) -> str:
    """A command as it is typed for the runs in `root`; it may have been made for another root, from which they were copied.

    Args:
        root: None if the runs are in no root; then the command is for the default one.
        command: what a summary holds, or one that names no root.
    """
    try:
        words = [word for word in shlex.split(command) if not word.startswith("root=")]
    except ValueError:  # the summary may come from somebody else
        return command
    if root is not None and root.resolve() != find_root(None).resolve():
        words.append(f"root={root}")
    return shlex.join(words)


def eval_command(
    run: str, scored: Scored, *, root: Path | None = None, mem: int | None = None, memory: str = "on"
) -> str:
    """The command that makes a score, without settings that have their default, except the split.

    Args:
        root: the folder whose results/runs holds the run, which the command names unless it is the default one.
    """
    words = ["memexp", "eval", run, f"eval.split={scored.split}"]
    words += [f"eval.documents={scored.documents}"] if scored.documents is not None else []
    words += [f"eval.max_document={scored.max_document}"] if scored.max_document is not None else []
    words += [f"mem={mem}"] if mem is not None else []
    words += [f"memory={memory}"] if memory != "on" else []
    return command_in(root, " ".join(words))


def all_runs(root: Path, *, tag: str | None = None) -> list[Run]:
    """Every run in `root`, sorted by name; with `tag`, only the runs with this tag and those whose settings cannot be read."""
    runs = [Run(path) for path in folders_with(root / "results" / "runs", CONFIG_FILE)]
    return [run for run in runs if tag is None or tag_of(run) in (tag, UNREADABLE)]


UNREADABLE = "\0"
"""In place of the tag of a run whose settings cannot be read. Whatever reads them then names the run and the reason."""


def tag_of(run: Run) -> str:
    """The tag of a run; empty without one, and `UNREADABLE` if its settings cannot be read."""
    try:
        return str(run.config.get("tag") or "")
    except UserError:
        return UNREADABLE


def find_run(root: Path, name: str, *, tag: str | None = None) -> Run:
    """The run whose folder or name is `name`, or the only run whose name begins with it.

    Args:
        tag: look only among the runs with this tag; a folder is taken whatever its tag.

    Raises:
        UserError: no run matches, or more than one.
    """
    if (Path(name) / CONFIG_FILE).is_file():
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
