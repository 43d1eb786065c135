"""Files of runs that are damaged in any way: every command that reads them says so in one line, or is not disturbed."""

import io
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from memexp.config.groups import Scored
from memexp.errors import UserError
from memexp.files import fingerprint
from memexp.report.difference.breakdown import break_down
from memexp.report.difference.files import summary
from memexp.report.difference.terminal import to_terminal
from memexp.report.difference.token_text import numbers, word
from memexp.report.difference.tokens import difference
from memexp.report.runs import list_runs, runs_table
from memexp.report.table.comparison import compare
from memexp.report.table.formats import to_csv, to_latex, to_markdown
from memexp.report.table.text import lay_out
from memexp.store.archive import light_copies, line_of
from memexp.store.folder import Run, all_runs
from memexp.store.identity import trained_settings
from memexp.store.scores import find_foreign, find_score, load_scores

from ..messages import says

FILES = ("config.yaml", "identity.json", "metrics.jsonl", "summary.json", "score/summary.json", "score/documents.json")
DEEP = json.loads("[" * 40 + "]" * 40)
VALUES = [
    None,
    True,
    "x",
    "",
    -1,
    0.5,
    math.inf,
    math.nan,
    10**17,
    10**400,
    1e150,
    [],
    {},
    [[]],
    {"x": {}},
    DEEP,
    "\ud800",
    "${oc.env:HOME}",
]


@pytest.fixture
def runs(fakes: Any) -> Any:
    """Two scored runs and, in a packed file, a light copy of the second."""
    fakes.score(fakes.run("a", mem=512), 3.0)
    for memory in ("on", "foreign"):
        fakes.score(
            fakes.run("b", mem=512, seed=1) if memory == "on" else Run(fakes.root / "results/runs/b"),
            2.0,
            memory=memory,
        )
    return fakes


def place(root: Path, name: str) -> Path:
    run = root / "results" / "runs" / "b"
    return run / name if "/" not in name else next(run.glob("eval/*-on")) / name.partition("/")[2]


def read_all(root: Path) -> list[str]:
    """What the commands say that refuse; any other error fails the test."""
    refused: list[str] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except UserError as error:
            refused.append(str(error))
            says("expected")(refused[-1])

    def listed() -> None:
        screen = Console(file=io.StringIO(), width=200)
        found = list_runs(all_runs(root))
        screen.print(runs_table(found, now=2e9))
        refused.extend(item.problem for item in found if item.problem)

    def tabled(runs: list[Run]) -> None:
        comparison = compare(root, runs, metric="perplexity", scored=Scored(), gauges=())
        refused.extend(comparison.left_out)
        grid = lay_out(comparison)
        for text in (to_markdown(grid), to_csv(comparison), to_latex(grid)):
            text.encode()

    def differ() -> None:
        a, b = (load_scores(*find_score(root, name, Scored())) for name in "ab")
        diff = difference(a, b)
        breakdown = break_down(diff, word(diff, numbers).kind_N, find_foreign(b))
        Console(file=io.StringIO(), width=200).print(to_terminal(diff, breakdown, numbers, top=3))
        json.dumps(summary(diff, breakdown), ensure_ascii=False).encode()

    run = Run(root / "results" / "runs" / "b")
    copy = root / "results" / "copies" / "runs.jsonl"
    attempt(listed)
    attempt(lambda: tabled(all_runs(root)))
    attempt(differ)
    attempt(lambda: trained_settings(run))
    attempt(lambda: copy.write_text(f"{line_of(run)}\n"))
    attempt(lambda: tabled([*light_copies(copy)]))
    return refused


def paths_in(content: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value, the whole first."""
    yield where
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from paths_in(value, (*where, key))


def with_value(content: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    key, *rest = where
    changed = dict(content) if isinstance(content, dict) else list(content)
    changed[key] = with_value(content[key], tuple(rest), value)
    return changed


def parsed(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def written(path: Path, content: Any) -> None:
    """Write it with its seal, as somebody does who edits it with care."""
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(content, allow_unicode=False))
    elif path.suffix == ".jsonl":
        path.write_text(
            "".join(f"{json.dumps(line)}\n" for line in content)
            if isinstance(content, list)
            else json.dumps(content) + "\n"
        )
    else:
        if isinstance(content, dict) and "hash" in content and path.name == "identity.json":
            bare = {key: value for key, value in content.items() if key != "hash"}
            content = bare | {"hash": fingerprint(bare)}
        path.write_text(json.dumps(content))


@pytest.mark.hard
@pytest.mark.parametrize("name", FILES)
def test_a_value_of_another_type_is_one_line(name: str, runs: Any, chance: random.Random) -> None:
    """Every value of the file, replaced by other kinds of values, half of them in each run of this test."""
    path = place(runs.root, name)
    before, content = path.read_bytes(), parsed(path)
    (runs.root / "results" / "copies").mkdir()
    walked = 0
    for where in list(paths_in(content)):
        for value in chance.sample(VALUES, len(VALUES) // 2):
            try:
                written(path, with_value(content, where, value))
            except (UnicodeEncodeError, yaml.YAMLError):
                continue
            try:
                read_all(runs.root)
            except Exception as error:
                error.add_note(f"{name}: {where} = {str(value)[:40]!r}")
                raise
            walked += 1
    path.write_bytes(before)
    assert walked > 50


@pytest.mark.parametrize("name", FILES)
def test_some_values_of_another_type_are_one_line(name: str, runs: Any, chance: random.Random) -> None:
    path = place(runs.root, name)
    content = parsed(path)
    (runs.root / "results" / "copies").mkdir()
    for where in chance.sample(list(paths_in(content)), 3):
        value = chance.choice([value for value in VALUES if value != "\ud800"])
        print(name, where, str(value)[:40])
        written(path, with_value(content, where, value))
        read_all(runs.root)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "[]", "3", "null", '"x"', "\x00", "\ufeff{}", "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000, '{"step": ' + "9" * 5000 + "}\n", '{"steps": 1e999}\n'],
    ids=["empty", "open", "mapping", "list", "number", "null", "text", "zero", "mark", "deep", "deep-mapping", "digits", "infinite"],
)  # fmt: skip
def test_a_file_that_is_something_else_is_one_line(name: str, text: str, runs: Any) -> None:
    path = place(runs.root, name)
    path.write_text(text)
    (runs.root / "results" / "copies").mkdir()
    refused = read_all(runs.root)
    unnoticed = name == "metrics.jsonl" and (
        not text.endswith("\n") or "1e999" in text
    )  # the last line may be in the making
    assert unnoticed or any(path.name in line for line in refused), refused


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_are_one_line(name: str, runs: Any, chance: random.Random) -> None:
    path = place(runs.root, name)
    before = path.read_bytes()
    (runs.root / "results" / "copies").mkdir()
    for _ in range(5):
        damaged = bytearray(before)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4)) or chance.choice(
                [b'"', b"[", b"{", b"-", b"\n", b"9" * 30]
            )
        path.write_bytes(bytes(damaged))
        read_all(runs.root)
