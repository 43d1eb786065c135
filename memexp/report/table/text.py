"""A comparison as a grid of text with notes below it; every output format writes these words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from memexp.data.tokenizers import WITHOUT_MODEL
from memexp.report.table.comparison import Comparison
from memexp.report.table.entries import Column, Entry, Row
from memexp.store.scores import describe, eval_command
from memexp.wording import UNKNOWN, compact, number, plural, whole

_VARIANTS = {"on": "", "off": "memory off", "foreign": "memory of another document"}


@dataclass(frozen=True)
class Grid:
    """A table as text.

    Attributes:
        headers, right: for each column its name, and whether it is aligned right.
        lines: for each row, a text for each column.
        notes: what the marks in the table mean, and what was left out.
        missing: row and data set of each missing score, and the command that makes it.
        commands: each run or score, and the command that made it.
        expendable: headers of the columns that are left out first, in this order, if the table is too wide.
        groups: for each column the name of what it and its neighbours show, for formats with two lines of headers; may be "".
    """

    title: str
    headers: list[str]
    right: list[bool]
    lines: list[list[str]]
    notes: list[str]
    missing: list[tuple[str, str]]
    commands: list[tuple[str, str]]
    expendable: tuple[str, ...] = ("tokens/s", "params", "±")
    groups: Sequence[str] = ()


def lay_out(comparison: Comparison) -> Grid:
    """Write a comparison into cells."""
    metric, columns = comparison.metric, comparison.columns
    headers = ["arch", "context", "cache", "memory", "settings"]
    lines = [_row_texts(row) for row in comparison.rows]
    for column in columns:
        unit = " %" if metric.relative else ""
        headers += [f"{column.label}: {metric.name}", "±", "n", f"vs. baseline{unit}", "±"]
        for line, row in zip(lines, comparison.rows, strict=True):
            line += _cell_texts(comparison, row, column)
    for data, name in product(comparison.data, comparison.gauges):
        headers.append(f"{data}: {name}")
        for line, row in zip(lines, comparison.rows, strict=True):
            value = comparison.gauge(row, data, name)
            line.append(UNKNOWN if value is None else f"{value:.3f}")
    headers += ["tokens", "params", "tokens/s"]
    for line, row in zip(lines, comparison.rows, strict=True):
        line += _cost_texts(comparison, row)
    right = [header not in ("arch", "settings") for header in headers]
    shown = {"settings": any(line[headers.index("settings")] for line in lines)}
    shown["tokens"] = len({line[headers.index("tokens")] for line in lines}) > 1
    kept = [at for at, header in enumerate(headers) if shown.get(header, True)]
    return Grid(
        title=f"{metric.name} on {' and '.join(sorted({describe(run.asked) for run in comparison.finished}))}",
        headers=[headers[at] for at in kept],
        right=[right[at] for at in kept],
        lines=[[line[at] for at in kept] for line in lines],
        notes=_notes(comparison),
        missing=_missing(comparison),
        commands=_commands(comparison),
    )


def _row_texts(row: Row) -> list[str]:
    settings = [_VARIANTS[row.variant]] if row.variant != "on" else []
    settings += [f"trained with mem={row.trained_mem:,}"] if row.trained_mem != row.mem else []
    settings += [f"{key}={value}" for key, value in row.settings]
    return [row.architecture, whole(row.context), whole(row.cache), whole(row.memory), ", ".join(settings)]


def _cell_texts(comparison: Comparison, row: Row, column: Column) -> list[str]:
    metric, spread = comparison.metric, comparison.spread(row, column)
    if spread is None:
        return [UNKNOWN, "", "", "", ""]
    mark = "†" if any(unfilled(entry) for entry in comparison.cells[row, column]) else ""
    texts = [f"{mark}{number(spread.mean, metric.digits)}", _deviation(spread.deviation, metric.digits)]
    texts.append(f"{'*' if spread.n == 1 else ''}{spread.n}")
    if row == comparison.baseline:
        return [*texts, "baseline", ""]
    difference = comparison.difference(row, column)
    if difference is None:
        return [*texts, UNKNOWN, ""]
    digits = 1 if metric.relative else metric.digits
    mark = "" if difference.paired else "~"
    return [
        *texts,
        f"{mark}{number(difference.spread.mean, digits, sign='+')}",
        _deviation(difference.spread.deviation, digits),
    ]


def _deviation(deviation: float | None, digits: int) -> str:
    return "" if deviation is None else number(deviation, digits)


def _cost_texts(comparison: Comparison, row: Row) -> list[str]:
    runs = {entry.run.name: entry.run for entry in _entries(comparison, row)} or {
        run.name: run for run in comparison.finished if run.is_of(row)
    }
    speeds = [float(run.summary["tokens_per_second"]) for run in runs.values()]
    ranges = [_range([run.summary[key] for run in runs.values()]) for key in ("tokens", "parameters")]
    return [*ranges, whole(sum(speeds) / len(speeds))]


def _range(values: list[int]) -> str:
    return " to ".join(dict.fromkeys((compact(min(values)), compact(max(values)))))


def _entries(comparison: Comparison, row: Row) -> list[Entry]:
    return [entry for column in comparison.columns for entry in comparison.cells.get((row, column), [])]


def _all_entries(comparison: Comparison) -> list[Entry]:
    return [entry for row in comparison.rows for entry in _entries(comparison, row)]


def unfilled(entry: Entry) -> bool:
    """Whether the memory was on and never became full during scoring."""
    fill = entry.summary["memory_fill"]
    return entry.summary["memory"] != "off" and fill is not None and fill < 1


def _notes(comparison: Comparison) -> list[str]:
    entries, rows = _all_entries(comparison), comparison.rows
    trained = sorted({(run.summary["steps"], run.summary["tokens"]) for run in comparison.finished})
    cells = [(row, column) for row in rows for column in comparison.columns]
    spreads = [spread for cell in cells if (spread := comparison.spread(*cell)) is not None]
    notes = []
    if len(trained) == 1:
        notes.append(f"Every run: {plural(trained[0][0], 'step')}, {compact(trained[0][1])} tokens of training.")
    elif len({tokens for _, tokens in trained}) > 1:
        notes.append(
            "Runs were trained on different numbers of tokens (column tokens), so the architecture is not the only cause of a difference."
        )
    if comparison.metric.meaning:
        notes.append(f"{comparison.metric.name}: {comparison.metric.meaning}; higher is better.")
    for data in comparison.data:
        summaries = [entry.summary for entry in entries if entry.run.data == data]
        sizes = sorted({(summary["tokens"], summary["bytes"]) for summary in summaries})
        words = " or ".join(f"{plural(tokens, 'token')} ({size:,} bytes)" for tokens, size in sizes)
        notes.append(
            f"{data}: {words} scored, {_tokenizers(comparison, data)}." if summaries else f"{data}: not scored."
        )
    if any(spread.n > 1 for spread in spreads):
        notes.append("±: sample standard deviation over n seeds.")
    if any(spread.n == 1 for spread in spreads):
        notes.append("*: one seed, so its spread is not known.")
    if comparison.baseline is not None and len(rows) > 1:
        notes.append(
            f"baseline: {comparison.baseline.label}. Differences are taken seed by seed; their mean and deviation are over "
            "the seeds that both have."
        )
    differences = [comparison.difference(*cell) for cell in cells]
    if any(difference is not None and not difference.paired for difference in differences):
        notes.append("~: no seed in common with the baseline, so a difference of means.")
    if any(unfilled(entry) for entry in entries):
        shares = {entry.run.name: float(entry.summary["memory_fill"]) for entry in entries if unfilled(entry)}
        named = ", ".join(f"{name} {100 * share:.0f} %" for name, share in sorted(shares.items()))
        notes.append(
            f"†: the memory never filled while scoring, so a larger memory would change nothing ({named} full at most)."
        )
    in_training = {
        entry.run.name: fill for entry in entries if (fill := entry.run.summary.get("memory_fill")) not in (None, 1)
    }
    if in_training:
        named = ", ".join(f"{name} {100 * fill:.0f} %" for name, fill in sorted(in_training.items()))
        notes.append(f"The memory never filled in training ({named} full at most).")
    return notes + [f"{line}." for line in comparison.left_out]


def _tokenizers(comparison: Comparison, data: str) -> str:
    names = set()
    for entry in _all_entries(comparison):
        if entry.run.data == data:
            kind, size = (entry.run.settings.get(f"data.tokenizer.{key}", "") for key in ("kind", "vocabulary"))
            names.add(f"{kind}{'' if kind in WITHOUT_MODEL else f' {size}'} ({entry.tokenizer[:8]})")
    return f"tokenizer {' or '.join(sorted(names))}"


def _missing(comparison: Comparison) -> list[tuple[str, str]]:
    missing: dict[str, str] = {}
    for run in comparison.unscored:
        scores = ", ".join(score.path.name for score, _ in run.scores) or "no score"
        missing[eval_command(run.name, comparison.scored)] = f"{run.name} on {run.data} (it has {scores})"
    for row in comparison.rows:
        for column in comparison.columns:
            if not comparison.cells.get((row, column)):
                missing.setdefault(comparison.filling(row, column.data), f"{row.label} on {column.data}")
    return [(what, command) for command, what in missing.items()]


def _commands(comparison: Comparison) -> list[tuple[str, str]]:
    commands: dict[str, str] = {}
    for entry in _all_entries(comparison):
        trained, scored = str(entry.run.summary["command"]), str(entry.summary["command"])
        commands[entry.run.name] = trained
        if scored != trained:
            commands[f"{entry.run.name}, {entry.score.path.name}"] = scored
    return list(commands.items())
