"""A paper's table beside ours as a grid of text with notes; every output format writes these words."""

import math
from collections.abc import Sequence
from typing import Any

from memexp.experiment.command_lines import data_word, reproduce_words
from memexp.experiment.reproduction import Reproduction
from memexp.report.chart import Point
from memexp.report.metrics import Metric
from memexp.report.statistics import MOST_SEEDS, POWER, Agreement, Gap, Spread
from memexp.report.table.entries import Entry
from memexp.report.table.figure import Panel, across
from memexp.report.table.text import STATE, Grid, commands_of, unfilled
from memexp.wording import UNKNOWN, compact, number, plural


def lay_out(table: Reproduction) -> Grid:
    """Write a table into cells."""
    headers, right, groups = ["model"], [False], [""]
    lines = [[row] for row in table.rows]
    metrics = {table.experiment.metric_of(column).name: table.experiment.metric_of(column) for column in table.columns}
    parts = _parts(table)
    units = []
    for column, data in table.data.items():
        metric = table.experiment.metric_of(column)
        unit = " %" if metric.relative else ""
        units.append(unit)
        named = data if table.published.numbers else column
        shown = f"{named}: {'ours' if len(metrics) == 1 else metric.name}"
        of_column = [f"{column}: paper", shown, "±", "n", f"paper's diff.{unit}", f"our diff.{unit}", "95 %"]
        headers += [of_column[at] for at in parts]
        right += [True] * len(parts)
        for line, row in zip(lines, table.rows, strict=True):
            cell = _cell(table, row, column)
            line += [cell[at] for at in parts]
        if table.experiment.goal is not None:
            headers.append("of the gain")
            right.append(True)
            for line, row in zip(lines, table.rows, strict=True):
                share = table.share_of_gain(row, column)
                line.append(UNKNOWN if share is None else f"{round(100 * share)} %")
        groups += [_named(column, data)] * (len(headers) - len(groups))
    if table.published.step_time:
        headers.append("step time: paper")
        right.append(True)
        for line, row in zip(lines, table.rows, strict=True):
            theirs = table.published.step_time.get(row)
            line.append(UNKNOWN if theirs is None else f"{'†' * theirs.recalled}{theirs.value:.2f}")
    headers += [STATE, "token time"] if table.experiment.costs else ["step time: ours", "tokens"]
    right += [True, True]
    for line, row in zip(lines, table.rows, strict=True):
        line += _costs(table, row) if table.experiment.costs else _training(table, row)
    groups += ["" if table.experiment.costs else "step time"] * (len(headers) - len(groups) - 1) + [""]
    unit = units[0] if units else ""
    return Grid(
        title=f"{table.experiment.full_title}, scale={table.scale}: {' and '.join(metrics)}",
        headers=headers,
        right=right,
        lines=lines,
        notes=_notes(table),
        missing=table.missing,
        commands=commands_of(_entries(table), _scored_apart),
        expendable=("tokens", "±", f"paper's diff.{unit}", "step time: paper", "step time: ours", "95 %", "n"),
        groups=groups,
    )


def _parts(table: Reproduction) -> list[int]:
    """Which parts of a cell to show: the paper's only where it has numbers, and with a single seed, of which nothing is trained, our
    number alone.
    """
    if table.published.numbers:
        return list(range(7))
    return [1] if table.experiment.costs is not None and len(table.experiment.seeds) == 1 else [1, 2, 3, 5, 6]


def _costs(table: Reproduction, row: str) -> list[str]:
    state, time = table.state(row), table.token_time(row)
    return [UNKNOWN if state is None else compact(state), UNKNOWN if time is None else f"{time:.2f}"]


def _training(table: Reproduction, row: str) -> list[str]:
    time, tokens = table.step_time(row), table.tokens(row)
    counts = " to ".join(dict.fromkeys(compact(count) for count in (tokens[:1] + tokens[-1:])))
    return [UNKNOWN if time is None else f"{time:.2f}", counts or UNKNOWN]


def points(table: Reproduction) -> list[Point]:
    """Our differences beside the paper's for a chart, column by column, with the words of the table."""
    found = []
    for column in table.columns:
        for row in table.rows:
            ours = table.gap_to_baseline(row, column) if (row, column) in table.cells else None
            if ours is None:
                continue
            shown, (theirs, mine, between) = table.shown(column), _cell(table, row, column)[4:7]
            interval = None if ours.low is None or ours.high is None else (shown(ours.low), shown(ours.high))
            found.append(
                Point(
                    row=row,
                    column=_named(column, table.data[column]),
                    unit=_unit(table.experiment.metric_of(column)),
                    higher=bool(table.experiment.metric_of(column).of),
                    paper=table.published_gap(row, column),
                    ours=shown(ours.mean),
                    interval=interval,
                    decided=ours.decided,
                    texts=(theirs, mine, between),
                )
            )
    return found


def _named(column: str, data: str) -> str:
    return column if data == column else f"{column}, ours on {data}"


def panels(table: Reproduction) -> list[Panel]:
    """A plot of the columns that show slices of one data set, for each metric and property of these: nats by position, say."""
    found: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for column, data in table.data.items():
        by, _, value = (table.experiment.columns[column].slice_at(table.scale) or "").partition("=")
        if value.isdecimal():
            found.setdefault((data, table.experiment.metric_of(column).name, by), []).append((int(value), column))
    return [
        Panel(
            data,
            across(by),
            metric,
            [
                (
                    row,
                    [
                        (place, spread.mean)
                        for place, column in columns
                        if (spread := table.spread(row, column)) is not None
                    ],
                )
                for row in table.rows
            ],
        )
        for (data, metric, by), columns in found.items()
        if len(columns) > 1 and any((row, column) in table.cells for row in table.rows for _, column in columns)
    ] + _against_steps(table)


def _against_steps(table: Reproduction) -> list[Panel]:
    """A plot of each column in which rows of one series have other numbers of steps, and of columns in which one row has."""
    lines: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
    for row, definition in table.experiment.rows.items():
        for column, data in table.data.items():
            spread, series = table.spread(row, column), definition.series
            if spread is None or (series is None and table.experiment.columns[column].slice_at(table.scale)):
                continue
            steps = int(table.cells[row, column][0].run.summary["steps"])
            panel = data if series is None else _named(column, data), table.experiment.metric_of(column).name
            lines.setdefault(panel, {}).setdefault(series or row, []).append((steps, spread.mean))
    return [
        Panel(title, "steps of training", metric, [(line, sorted(points)) for line, points in of_panel.items()])
        for (title, metric), of_panel in lines.items()
        if any(len({steps for steps, _ in points}) > 1 for points in of_panel.values())
    ]


def _unit(metric: Metric) -> str:
    """What numbers are called that may share an axis."""
    if metric.relative:
        return f"{metric.name}, %"
    return f"share of right {metric.of}" if metric.of else metric.name.split()[0]


def _cell(table: Reproduction, row: str, column: str) -> list[str]:
    if not table.has_cell(row, column):
        return [""] * 7
    published = table.published_number(row, column)
    paper = UNKNOWN
    if published is not None:
        paper = f"{'†' * published.recalled}{_as_printed(table, column, published.value)}"
        paper += "" if published.std is None else f" ± {_as_printed(table, column, published.std)}"
    texts = [paper, *_ours(table, row, column)]
    theirs = table.published_gap(row, column)
    is_base = row == table.baseline(column)
    texts.append("baseline" if is_base else UNKNOWN if theirs is None else _signed(table, column, theirs))
    return texts + _difference(table, column, table.gap_to_baseline(row, column))


def _as_printed(table: Reproduction, column: str, value: float, sign: str = "") -> str:
    """A paper's number with all its digits, even if ours has fewer."""
    given = len(f"{value:.6f}".rstrip("0").partition(".")[2])
    return f"{value:{sign},.{max(table.experiment.metric_of(column).digits, given)}f}"


def _ours(table: Reproduction, row: str, column: str) -> list[str]:
    spread, digits = table.spread(row, column), table.experiment.metric_of(column).digits
    if spread is None:
        return [UNKNOWN, "", ""]
    mark = "‡" * any(map(unfilled, table.cells[row, column]))
    deviation = "" if spread.deviation is None else number(spread.deviation, digits)
    return [f"{mark}{number(spread.mean, digits)}", deviation, f"{'*' * (spread.n == 1)}{spread.n}"]


def _difference(table: Reproduction, column: str, ours: Gap | None) -> list[str]:
    if ours is None:
        return ["", ""]
    shown = table.shown(column)
    value = f"{'' if ours.paired else '~'}{_signed(table, column, shown(ours.mean))}"
    if ours.low is None or ours.high is None:
        return [f"({value})", "unknown"]
    interval = f"{_signed(table, column, shown(ours.low))} to {_signed(table, column, shown(ours.high))}"
    return [f"({value})" if not ours.seeds else value if ours.decided else "none", interval]


def _signed(table: Reproduction, column: str, value: float) -> str:
    metric = table.experiment.metric_of(column)
    return number(value, 1 if metric.relative else metric.digits, sign="+")


def _entries(table: Reproduction) -> list[Entry]:
    return [entry for entries in table.cells.values() for entry in entries]


def _notes(table: Reproduction) -> list[str]:
    entries, numbers = _entries(table), list(table.published.numbers.values())
    notes = [f"paper: {table.published.cites}; {table.published.source}."] if numbers else []
    notes += [f"{table.published.note[:1].upper()}{table.published.note[1:]}."] if table.published.note else []
    times = list(table.published.step_time.values())
    if any(number.recalled for number in [*numbers, *times]):
        notes.append("†: recalled, not read in the paper.")
    notes += _scored(table)
    spreads = [spread for place in table.cells if (spread := table.spread(*place)) is not None]
    if any(spread.n > 1 for spread in spreads):
        notes.append("±: sample standard deviation over n seeds.")
    if any(spread.n == 1 for spread in spreads) and 2 in _parts(table):
        notes.append("*: one seed, so its spread is not known.")
    if table.cells and 5 in _parts(table):
        notes.append(f"diff.: difference to the baseline ({_baselines(table)}). {_intervals(table)}")
    if table.experiment.goal is not None:
        in_nats = any(not table.experiment.metric_of(column).of for column in table.columns)
        unit = (
            ", in nats,"
            if in_nats and len({table.experiment.metric_of(column).of for column in table.columns}) == 1
            else ""
        )
        notes.append(f'of the gain: the difference{unit} divided by that of the row "{table.experiment.goal}".')
    if table.experiment.needs is not None:
        notes.append(f"Not run: it needs {table.experiment.needs}.")
    if any(unfilled(entry) for entry in entries):
        notes.append("‡: the memory never filled while scoring.")
    notes += _trends(table)
    if table.experiment.costs is not None:
        notes.append(
            f"{STATE}: bytes that a lane carries from segment to segment. token time: of scoring a token, relative to {table.experiment.costs}, "
            "which depends on the machine."
        )
    elif any(table.step_time(row) is not None for row in table.rows):
        clock = "CPU time" if table.in_cpu_time else "wall-clock time, on machines that may have done other work"
        notes.append(
            f"step time: of training, relative to {_baselines(table)}; ours is {clock}. tokens: those of training that were predicted."
        )
    if differs := table.experiment.scales[table.scale].differs:
        whole = "the paper's" if table.experiment.checkpoint is None else "scale=paper"
        notes.append(f"scale={table.scale} is not {whole}: {'; '.join(differs)}.")
    notes += [
        f"{column}: ours are light copies of runs on a different {table.data[column]} than the one prepared here; "
        "`memexp reproduce` trains them again."
        for column in table.foreign
    ]
    notes += _made_before(table)
    return notes + [f"Left out: {line}." for line in table.left_out]


def _made_before(table: Reproduction) -> list[str]:
    """Which rows have runs that are not counted, and what they gave, if that is still the same metric."""
    notes = []
    for since, cells in table.made_before.items():
        parts = []
        for column in table.columns:
            rows = [_before(table, row, column, cells[row, column]) for row in table.rows if (row, column) in cells]
            parts += [f"{', '.join(rows)} on {column}"] if rows else []
        if shown := "; ".join(parts):
            notes.append(
                f"Made before, so not counted: {shown}. `memexp reproduce` trains them again. Since then: {'; '.join(since)}."
            )
    return notes


def _before(table: Reproduction, row: str, column: str, entries: Sequence[Entry]) -> str:
    """A row by name, and the mean of its scores."""
    if not entries:
        return f'"{row}"'
    mean = Spread.of([table.value(entry, column) for entry in entries]).mean
    return f'"{row}" {number(mean, table.experiment.metric_of(column).digits)}'


def _baselines(table: Reproduction) -> str:
    rows = {column: table.baseline(column) for column in table.columns}
    if len(set(rows.values())) == 1:
        return rows[table.columns[0]]
    return "; ".join(f"{row} on {column}" for column, row in rows.items())


def _intervals(table: Reproduction) -> str:
    """What the intervals are over, and what is called a difference."""
    gaps = {place: gap for place in table.cells if (gap := table.gap_to_baseline(*place)) is not None}
    known = {place: gap for place, gap in gaps.items() if gap.low is not None}
    parts = []
    if any(gap.seeds and gap.documents for gap in known.values()):
        parts.append(
            "95 %: over documents (paired bootstrap, widened as Student's t for few documents) and seeds (Student's t, their "
            "spread pooled over the rows of a column)"
        )
    if alone := dict.fromkeys(column for (_, column), gap in known.items() if gap.seeds and not gap.documents):
        parts.append(
            f"95 % on {', '.join(alone)}: over seeds alone (Student's t, their spread pooled over the rows), because there "
            "is one document, or the loss of each document is not known"
        )
    if any(gap.seeds and not gap.decided for gap in gaps.values()):
        parts.append("none: the interval holds zero, so it is not called a difference")
    if one_seed := [gap for gap in gaps.values() if not gap.seeds]:
        over = ["95 % is over documents alone"] * any(gap.low is not None for gap in one_seed)
        if any(gap.low is None for gap in one_seed):
            over.append("unknown: there is one document, or the loss of each document is not known either")
        parts.append(
            f"(...): what another seed would change is not known, so it is not called a difference; {'; '.join(over)}"
        )
    return " ".join(f"{part}." for part in parts)


def _scored(table: Reproduction) -> list[str]:
    """Which documents are scored, for each column if the columns differ."""
    columns: dict[str, list[str]] = {}
    for (_, column), entries in table.cells.items():
        for entry in entries:
            if column not in columns.setdefault(entry.asked, []):
                columns[entry.asked].append(column)
    if len(columns) == 1:
        return [f"ours: {asked}." for asked in columns]
    return [
        f"ours, {', '.join(dict.fromkeys(table.data[column] for column in same))}: {asked}."
        for asked, same in columns.items()
    ]


def _trends(table: Reproduction) -> list[str]:
    parts = {column: table.agreement(column) for column in table.columns if _any_of(table, column)}
    parts = {column: part for column, part in parts.items() if part.published}
    notes = [f"{column}: {_trend(part)}." for column, part in parts.items()]
    if len(parts) > 1:
        notes.append(f"All columns that were run: {_trend(table.whole_agreement)}.")
    for column in parts:
        if close := table.close(column):
            words = " ".join(
                ["memexp", *reproduce_words(table.experiment, table.scale, data_word([column], table.data))]
            )
            notes.append(
                f"{column}: {words} close=true trains one more seed of {plural(len(close), 'row')} in undecided pairs."
            )
    notes += [note for column, part in parts.items() if (note := _to_decide(table, column, part))]
    for column, part in parts.items():
        notes += [
            f"{column}, against the paper: {pair.first} minus {pair.second} is {_as_printed(table, column, pair.published, '+')} in the "
            f"paper, {_signed(table, column, table.shown(column)(pair.ours))}"
            f"{' %' * table.experiment.metric_of(column).relative} in ours."
            for pair in part.disagreements
        ]
    return notes


def _to_decide(table: Reproduction, column: str, part: Agreement) -> str:
    """How many seeds each undecided pair needs; empty if that is known for none."""
    gaps = {pair: gap for pair in part.close if (gap := table.gap(*pair, column)) is not None and gap.seeds}
    needs = {pair: (gap.seeds_to_decide(), gap.seeds_to_decide(documents=4)) for pair, gap in gaps.items()}
    if not needs:
        return ""
    order = sorted(needs, key=lambda pair: [math.inf if seeds is None else seeds for seeds in needs[pair]])
    words = [f'"{first}" and "{second}": {_seeds(needs[first, second])}' for first, second in order]
    return (
        f"{column}, undecided: seeds that decide a pair with a probability of {100 * POWER:.0f} %, if its difference and spreads are as "
        f"measured, and in brackets with four times the documents: {'; '.join(words)}."
    )


def _seeds(needed: tuple[int | None, int | None]) -> str:
    now, with_more = (f"over {MOST_SEEDS}" if seeds is None else str(seeds) for seeds in needed)
    return f"{now} ({with_more})"


def _any_of(table: Reproduction, column: str) -> bool:
    return any((row, column) in table.cells for row in table.rows)


def _trend(part: Agreement) -> str:
    share = UNKNOWN if part.share is None else f"{100 * part.share:.0f} %"
    coverage = 100 * (part.coverage or 0)
    return (
        f"trend agreement {share} ({part.agree} of {part.decided} pairs of rows in the paper's order) at coverage "
        f"{coverage:.0f} % ({part.decided} of the {plural(part.published, 'pair')} that the paper decides)"
    )


def _scored_apart(entry: Entry) -> bool:
    """Whether a command of its own made the score, and its folder says which score it is."""
    return not (str(entry.summary["command"]).startswith("memexp train") or entry.score.name is None)


def records(table: Reproduction) -> list[dict[str, Any]]:
    """A record for each seed of each cell, with numbers that are not rounded; an empty cell has one record without a seed."""
    rows = []
    for row in table.rows:
        for column, data in table.data.items():
            published, spread = table.published_number(row, column), table.spread(row, column)
            head = {
                "experiment": table.experiment.name, "scale": table.scale, "row": row, "column": column, "data": data,
                "metric": table.experiment.metric_of(column).field, "paper": published and published.value,
                "paper_deviation": published and published.std, "paper_recalled": published and published.recalled,
                "mean": spread and spread.mean, "deviation": spread and spread.deviation, "n": spread.n if spread else 0,
                **_gap_fields(table, row, column), "step_time": table.step_time(row),
                **({"checkpoint": table.experiment.checkpoint_name} if table.experiment.checkpoint else {}),
            }  # fmt: skip
            rows += [head | _seed_fields(table, column, entry) for entry in table.cells.get((row, column), [None])]
    return rows


def _gap_fields(table: Reproduction, row: str, column: str) -> dict[str, Any]:
    gap = table.gap_to_baseline(row, column)
    names: Sequence[str] = ("difference", "low", "high", "decided", "paired")
    if gap is None:
        return dict.fromkeys(names)
    shown = table.shown(column)
    values = [None if value is None else shown(value) for value in (gap.mean, gap.low, gap.high)]
    return dict(zip(names, [*values, gap.decided, gap.paired], strict=True))


def _seed_fields(table: Reproduction, column: str, entry: Entry | None) -> dict[str, Any]:
    names = ("seed", "run", "value", "memory_fill", "parameters", "tokens", "steps", "tokens_per_second", "command")
    if entry is None:
        return dict.fromkeys(names)
    run = entry.run
    cost = [run.summary[name] for name in ("parameters", "tokens", "steps", "tokens_per_second")]
    fields = [
        run.seed,
        run.name,
        table.value(entry, column),
        entry.summary["memory_fill"],
        *cost,
        entry.summary["command"],
    ]
    return dict(zip(names, fields, strict=True))
