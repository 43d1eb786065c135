"""The list of runs: state, progress and final numbers of each; the run that was written last is at the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memexp.errors import UserError
from memexp.files import SUMMARY, unreadable
from memexp.report.escape import Fitting, escape
from memexp.store.folder import CONFIG_FILE, METRICS_FILE, Run
from memexp.store.scores import read_summary, require
from memexp.wording import UNKNOWN, age, number, perplexity_in, whole

if TYPE_CHECKING:
    from rich.console import RenderableType

_SPLITS = ("train", "valid", "test")


@dataclass
class Listed:
    """One line of the list.

    Attributes:
        written: when its metrics or summary were last written, in seconds since 1970; 0 if that is not known.
        loss: the last known training loss, in nats per token.
        perplexity: by split, from the score with the memory and the documents of the run's own settings.
        text: by split, the data set and the hash of the tokens that this score is of.
        problem: why the run cannot be read; empty if it can.
    """

    name: str
    state: str
    written: float
    step: int = 0
    steps: int = 0
    loss: float | None = None
    perplexity: dict[str, float] = field(default_factory=dict)
    text: dict[str, tuple[str, str]] = field(default_factory=dict)
    tokens_per_second: float | None = None
    problem: str = ""


def list_runs(runs: Sequence[Run]) -> list[Listed]:
    """A line for each run, sorted by time; a damaged run gets a line that says so."""
    listed = []
    for run in runs:
        item = Listed(run.name, "", 0.0)
        try:
            item.written = _written(run)
            _read(run, item)
            item.state = run.state
        except (UserError, OSError, ValueError, TypeError, AttributeError) as error:
            told = error if isinstance(error, UserError) else unreadable(run.path, error, expected="a run")
            item.state, item.problem = "damaged", str(told)
        listed.append(item)
    return sorted(listed, key=lambda item: (item.written, item.name))


def _written(run: Run) -> float:
    paths = [run.path / name for name in (CONFIG_FILE, METRICS_FILE, SUMMARY)]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)


def _read(run: Run, item: Listed) -> None:
    config, summary = run.config, run.summary
    require(config, ("steps", "eval", "mem"), run.path / CONFIG_FILE)
    item.steps = int(config["steps"])
    for line in run.metrics:
        item.step = int(line.get("step", item.step))
        item.loss = line.get("loss", item.loss)
        item.tokens_per_second = line.get("tokens_per_second", item.tokens_per_second)
    if summary is not None:
        item.step = int(summary.get("steps", item.step))
        item.loss = summary.get("loss", item.loss)
        item.tokens_per_second = summary.get("tokens_per_second", item.tokens_per_second)
    own = (config["eval"].get("documents"), config["eval"].get("max_document"), config["mem"], "on")
    for score in run.scores:
        asked = score.name
        if asked is not None and (asked.documents, asked.max_document, asked.mem, asked.memory) == own:
            summary = read_summary(score)
            item.perplexity[asked.split] = float(perplexity_in(summary))
            item.text[asked.split] = (str(summary["data"]), str(summary["tokens_hash"]))


def runs_table(listed: Sequence[Listed], *, now: float) -> "RenderableType":
    """The list for a terminal; long names are folded and never cut off. `now` is in seconds since 1970."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    splits = [split for split in _SPLITS if any(split in item.perplexity for item in listed)]
    table = Table(header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("step", "loss", *(f"{split} ppl" for split in splits), "tokens/s", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    styles = {"done": "green", "running": "yellow", "damaged": "red"}
    for item in listed:
        table.add_row(
            Text(escape(item.name)),
            Text(item.state, style=styles.get(item.state, "")),
            f"{item.step:,}/{item.steps:,}",
            UNKNOWN if item.loss is None else f"{item.loss:.3f}",
            *(number(item.perplexity[split], 2) if split in item.perplexity else UNKNOWN for split in splits),
            whole(item.tokens_per_second),
            age(now - item.written) if item.written else UNKNOWN,
        )
    problems = [Text(f"{escape(item.name)}: {escape(item.problem)}", style="red") for item in listed if item.problem]
    notes = [
        Text(
            f"{split} ppl: not all runs on {escape(data)} are scored on the same text; `memexp table` compares those that are",
            style="dim",
        )
        for split, data in _on_several_texts(listed)
    ]
    return Group(Fitting(table), *notes, *problems)


def _on_several_texts(listed: Sequence[Listed]) -> list[tuple[str, str]]:
    """Each split and data set of which different tokens were scored."""
    texts = {(split, *text) for item in listed for split, text in item.text.items()}
    count = Counter((split, data) for split, data, _ in texts)
    return sorted(place for place, different in count.items() if different > 1)
