"""A comparison as a grid of text with notes below it; every output format writes these words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from memexp.data.tokenizers import WITHOUT_MODEL, name_of_file
from memexp.report.table.comparison import Comparison
from memexp.report.table.compatibility import Text
from memexp.report.table.entries import POSITION, Column, Entry, Row
from memexp.store.archive import SHORTEST
from memexp.store.folder import eval_command
from memexp.store.scores import describe, never_full
from memexp.wording import UNKNOWN, compact, listed, number, partly, plural, whole

_OF_A_ROW = ("arch", "context", "cache", "memory", "settings")
"""Headers of the columns that say what a row is."""

_OF_COST = ("tokens", "params", "tokens/s")

STATE = "state"
"""Header of the bytes that a lane carries from segment to segment, beside positions: what a longer context costs."""

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
    """Write a comparison into cells. Columns that are the same in all rows become a note."""
    metric, columns = comparison.metric, comparison.columns
    headers = list(_OF_A_ROW)
    lines = [_row_texts(row) for row in comparison.rows]
    groups = [""] * len(headers)
    for column in columns:
        cells = [_cell_texts(comparison, row, column) for row in comparison.rows]
        names = [f"{column.label}: {metric.name}", "±", "n"]
        if any(cell[3] for cell in cells):
            names += [f"vs. baseline{' %' if metric.relative else ''}", "±"]
        headers += names
        groups += [column.label] * len(names)
        for line, cell in zip(lines, cells, strict=True):
            line += cell[: len(names)]
    for data, name in product(comparison.data, comparison.gauges):
        headers.append(f"{data}: {name}")
        groups.append(data)
        for line, row in zip(lines, comparison.rows, strict=True):
            value = comparison.gauge(row, data, name)
            line.append(UNKNOWN if value is None else f"{value:.3f}")
    if comparison.by == POSITION:
        headers.append(STATE)
        groups.append("")
        for line, row in zip(lines, comparison.rows, strict=True):
            line.append(_state_text(comparison, row))
    headers += _OF_COST
    groups += [""] * len(_OF_COST)
    for line, row in zip(lines, comparison.rows, strict=True):
        line += _cost_texts(comparison, row)
    same = _same_in_all(headers, lines)
    kept = [at for at, header in enumerate(headers) if header not in same]
    return Grid(
        title=_title(comparison),
        headers=[headers[at] for at in kept],
        right=[headers[at] not in ("arch", "settings") for at in kept],
        lines=[[line[at] for at in kept] for line in lines],
        notes=_notes(comparison, same),
        missing=_missing(comparison),
        commands=commands_of(_all_entries(comparison)),
        groups=[groups[at] for at in kept],
    )


def _same_in_all(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> dict[str, str]:
    """The columns to leave out, with the text that all their cells have: what a table shows of its rows is what differs."""
    columns = {name: [line[headers.index(name)] for line in lines] for name in (*_OF_A_ROW, "tokens")}
    same = {name: texts[0] for name, texts in columns.items() if len(set(texts)) == 1}
    if all(name in same for name in _OF_A_ROW):  # nothing differs, so a row is described as a whole
        return {name: text for name, text in same.items() if name == "tokens" or not text}
    return same


def _title(comparison: Comparison) -> str:
    described = {describe(run.asked) for run in comparison.finished}
    on = described.pop() if len(described) == 1 else comparison.scored.split
    return f"{comparison.metric.name} on {on}"


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
    baseline = comparison.baseline(row, column)
    if row == baseline:
        return [*texts, "baseline" if len(comparison.rows) > 1 else "", ""]
    difference = comparison.difference(row, column)
    if difference is None:
        return [*texts, UNKNOWN if comparison.baseline_rows(column) else "", ""]
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
        run.name: run for run in comparison.runs_of(row)
    }
    speeds = [float(run.summary["tokens_per_second"]) for run in runs.values()]
    if not any(speeds):  # published checkpoints that were only scored
        speeds = [float(entry.summary.get("tokens_per_second", 0)) for entry in _entries(comparison, row)] or speeds
    ranges = [_range([run.summary[key] for run in runs.values()]) for key in ("tokens", "parameters")]
    return [*ranges, whole(sum(speeds) / len(speeds))]


def _state_text(comparison: Comparison, row: Row) -> str:
    """The state of a lane of the runs of a row; unknown with another memory than in training."""
    sizes = {int(run.summary.get("state_bytes_per_lane", -1)) for run in comparison.runs_of(row)}
    known = len(sizes) == 1 and min(sizes) >= 0 and row.mem == row.trained_mem
    return compact(sizes.pop()) if known else UNKNOWN


def _range(values: list[int]) -> str:
    return " to ".join(dict.fromkeys((compact(min(values)), compact(max(values)))))


def _entries(comparison: Comparison, row: Row) -> list[Entry]:
    return [entry for column in comparison.columns for entry in comparison.cells.get((row, column), [])]


def _all_entries(comparison: Comparison) -> list[Entry]:
    return [entry for row in comparison.rows for entry in _entries(comparison, row)]


def unfilled(entry: Entry) -> bool:
    """Whether the memory was on and never became full during scoring."""
    scored = entry.summary
    never = never_full(scored["memory_fill"], slots=scored["memory_slots"], segment=scored["context"])
    return scored["memory"] != "off" and never


def _fill_in_training(entry: Entry) -> float | None:
    """The share of the memory that was filled at most in training, if it never became full."""
    config, fill = entry.run.config, entry.run.summary.get("memory_fill")
    return fill if never_full(fill, slots=entry.summary["memory_slots"], segment=config["segment"]) else None


def _notes(comparison: Comparison, same: Mapping[str, str]) -> list[str]:
    entries, rows = _all_entries(comparison), comparison.rows
    # as they are shown: the padding that is not read differs a little from seed to seed
    trained = sorted({(run.summary["steps"], compact(run.summary["tokens"])) for run in comparison.finished})
    cells = [(row, column) for row in rows for column in comparison.columns]
    spreads = [spread for cell in cells if (spread := comparison.spread(*cell)) is not None]
    notes = []
    if described := [
        f"{name} {text}".removeprefix("settings ") for name, text in same.items() if name != "tokens" and text
    ]:
        notes.append(f"Every row: {', '.join(described)}.")
    if len(trained) == 1:
        notes.append(f"Every run: {plural(trained[0][0], 'step')}, {trained[0][1]} tokens of training.")
    elif len({tokens for _, tokens in trained}) > 1:
        notes.append(
            "Runs were trained on different numbers of tokens (column tokens), so the architecture is not the only cause of a difference."
        )
    if untrained := [run for run in comparison.finished if not run.summary["tokens"] and run.config.get("init_from")]:
        starts = sorted({Path(str(run.config["init_from"])).name for run in untrained})
        names = listed([run.name for run in untrained], most=3)
        notes.append(
            f"Nothing was trained in {names}, which score{'s' * (len(untrained) == 1)} the weights of {listed(starts, most=3)}."
        )
    if comparison.metric.meaning:
        notes.append(f"{comparison.metric.name}: {comparison.metric.meaning}; higher is better.")
    if comparison.by == POSITION:
        notes.append(
            f"Columns: tokens with at most {SHORTEST:,} tokens of their document before them, and with more than the column before allows. "
            f"{STATE}: bytes that a lane carries from segment to segment."
        )
    for data in comparison.data:
        notes += _of_texts(comparison, data)
    if any(spread.n > 1 for spread in spreads):
        notes.append("±: sample standard deviation over n seeds.")
    if any(spread.n == 1 for spread in spreads):
        notes.append("*: one seed, so its spread is not known.")
    notes += _of_baselines(comparison)
    differences = [comparison.difference(*cell) for cell in cells]
    if any(difference is not None and not difference.paired for difference in differences):
        notes.append("~: no seed in common with the baseline, so a difference of means.")
    if any(unfilled(entry) for entry in entries):
        shares = {entry.run.name: float(entry.summary["memory_fill"]) for entry in entries if unfilled(entry)}
        named = ", ".join(f"{name} {partly(share)}" for name, share in sorted(shares.items()))
        notes.append(
            f"†: the memory never filled while scoring, so a larger memory would change nothing ({named} full at most)."
        )
    if in_training := {entry.run.name: fill for entry in entries if (fill := _fill_in_training(entry)) is not None}:
        named = ", ".join(f"{name} {partly(fill)}" for name, fill in sorted(in_training.items()))
        notes.append(f"The memory never filled in training ({named} full at most).")
    return notes + [f"{line}." for line in comparison.left_out]


def _of_texts(comparison: Comparison, data: str) -> list[str]:
    """What was scored of a data set, and why its columns cannot be compared if there are several."""
    texts = comparison.texts.get(data, [])
    if not texts:
        return [f"{data}: not scored."]
    notes = []
    for text in texts:
        sizes = sorted({(entry.summary["tokens"], entry.summary["bytes"]) for entry in text.entries})
        words = " or ".join(f"{plural(tokens, 'token')} ({size:,} bytes)" for tokens, size in sizes)
        asked = {describe(entry.run.asked) for entry in text.entries}
        documents = f"{' or '.join(sorted(asked))}: " if len(texts) > 1 else ""
        notes.append(f"{data} {text.name}".rstrip() + f": {documents}{words} scored, {_tokenizers(text)}.")
    for text in texts[1:]:
        assert text.unlike is not None
        notes.append(
            f"The columns {data} {texts[0].name} and {data} {text.name} are of different text and cannot be compared: "
            f"{text.unlike.seen}. {text.unlike.remedy}."
        )
    return notes


def _of_baselines(comparison: Comparison) -> list[str]:
    """The rule by which baselines are chosen, and the rows that are."""
    cells = [(row, column) for row in comparison.rows for column in comparison.columns]
    if not any(comparison.difference(*cell) for cell in cells):
        return []
    seeds = "Differences are taken seed by seed; their mean and deviation are over the seeds that both have."
    if (chosen := comparison.chosen) is not None:
        without = [column.label for column in comparison.columns if (chosen, column) not in comparison.cells]
        lack = f" It has no score on {', '.join(without)}." if without else ""
        return [f"baseline: {chosen.label}. {seeds}{lack}"]
    columns: dict[tuple[str, ...], list[str]] = {}
    for column in comparison.columns:
        if rows := comparison.baseline_rows(column):
            columns.setdefault(tuple(row.label for row in rows), []).append(column.label)
    several = len(comparison.columns) > 1 and any(len(labels) < len(comparison.columns) for labels in columns.values())
    named = "; ".join(
        " and ".join(rows) + (f" ({', '.join(labels)})" if several else "") for rows, labels in columns.items()
    )
    notes = [
        f"baseline: {named}. A row is compared with the row of its size, its amount of training and its text that has no memory, or the "
        f"smallest; baseline=ROW chooses another. {seeds}"
    ]
    if any(comparison.baseline(*cell) is None for cell in cells if cell in comparison.cells):
        notes.append(f"vs. baseline {UNKNOWN}: no other row has this size and amount of training.")
    return notes


def _tokenizers(text: Text) -> str:
    names = set()
    for entry in text.entries:
        kind, size = (entry.run.settings.get(f"data.tokenizer.{key}", "") for key in ("kind", "vocabulary"))
        if path := entry.run.config["data"].get("tokenizer", {}).get("path"):
            kind = name_of_file(str(path))
        names.add(f"{kind}{'' if kind in WITHOUT_MODEL else f' {size}'} ({entry.tokenizer[:8]})")
    return f"tokenizer {' or '.join(sorted(names))}"


def _missing(comparison: Comparison) -> list[tuple[str, str]]:
    missing: dict[str, str] = {}
    for run in comparison.unscored:
        scores = ", ".join(score.path.name for score, _ in run.scores) or "no score"
        missing[eval_command(run.name, comparison.scored, root=run.root)] = (
            f"{run.name} on {run.data} (it has {scores})"
        )
    for row in comparison.rows:
        for column in comparison.columns:
            if not any((row, other) in comparison.cells for other in comparison.columns if other.data == column.data):
                missing.setdefault(comparison.filling(row, column.data), f"{row.label} on {column.data}")
    return [(what, command) for command, what in missing.items()]


def commands_of(entries: Iterable[Entry], apart: Callable[[Entry], bool] = lambda entry: True) -> list[tuple[str, str]]:
    """The command that trained each run, and the one that scored it if that is another.

    Args:
        apart: whether to name the command of a score at all.
    """
    commands: dict[str, str] = {}
    for entry in entries:
        trained, scored = str(entry.run.summary["command"]), str(entry.summary["command"])
        commands[entry.run.name] = trained
        if scored != trained and apart(entry):
            commands[f"{entry.run.name}, {entry.score.path.name}"] = scored
    return list(commands.items())
