"""What is printed can be read on every terminal: narrow ones, ones that lack letters, and with foreign text of any kind."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memexp.cli.main import main
from memexp.config.commands import COMMANDS
from memexp.report.escape import csv_text
from memexp.terminal import suit_the_terminal

NASTY = "\x1b]0;pwned\x07\x1b[31m \x9b2J \u202e\u2066 \x85 \u2028 \ud800 [red] [/] é日🙂"
"""Sequences that terminals obey, marks that turn the direction of writing, half a character, rich's markup, and letters."""

WIDTHS = (40, 80, 200)
NUMBER = re.compile(r"[-+]?\d[\d,.]*\d")
NAMED = "SmolLM2-135M"
"""A name in help, whose digits are no number: a narrow terminal may break it."""

QUICK = [
    ["--help"],
    ["help", "runs"],
    ["runs"],
    ["table"],
    ["data", "list"],
    ["diff", "xl", "knn-512-s0"],
    ["runs", "tag=none"],
    ["eval", "nobody"],
    ["nobody"],
]
SLOW = [
    *([command, "--help"] for command in COMMANDS), ["help", "train"], ["table", "metric=nats"], ["plan", "memorizing/table16"],
    ["plan", "blockrecurrent/table1", "scale=small"], ["train", "--dry-run"], ["bench", "--plan"], ["report"],
    ["train", "-m", "seed=0,1", "arch=knn,vanilla", "mem=0,8", "--dry-run"], ["reproduce", "memorizing/table4", "data=code", "--dry-run"],
]  # fmt: skip
EVERY = pytest.mark.parametrize(
    "words", [*QUICK, *(pytest.param(each, marks=pytest.mark.hard) for each in SLOW)], ids=" ".join
)
"""Every command that trains and scores nothing."""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, int]]:
    """Calls main with standard output and errors of a width and an encoding; returns both together, and the exit code."""

    def call(words: list[str], root: Path, columns: int = 200, encoding: str = "utf-8") -> tuple[str, int]:
        with monkeypatch.context() as patch:
            out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", out)
            patch.setenv("COLUMNS", str(columns))
            patch.setenv("HYDRA_FULL_ERROR", "0")
            takes_root = words[0] in COMMANDS and "--help" not in words
            code = main([*words, f"root={root}"] if takes_root else words)
            return out.buffer.getvalue().decode(encoding), code  # type: ignore[attr-defined]

    return call


@pytest.fixture
def made(compared: Any, words: Any, empty: Path) -> Any:
    """Runs with long names and large numbers."""
    run = compared.run(
        "knn-routed-mem65536-segment512-" + "a" * 60, mem=65536, tag="x", summary={"tokens_per_second": 12_345_678.0}
    )
    compared.score(run, 3.125)
    return compared


@pytest.mark.hard
@EVERY
def test_every_command_on_terminals_of_every_width(words: list[str], made: Any, screen: Callable[..., Any]) -> None:
    whole, code = screen(words, made.root, 400)
    numbers = set(NUMBER.findall(whole.replace(NAMED, "")))
    for width in WIDTHS:
        text, again = screen(words, made.root, width)
        assert again == code
        assert "…" not in text
        rows = text.partition("written: ")[0].partition("precision: ")[0]  # lines of text are broken by the terminal
        if words[0] != "table" or "No room here" not in text:  # then the files have the other columns
            assert not {each for each in numbers if each not in text}, f"cut at {width}"
        if code == 0 and words[0] in ("runs", "data", "diff", "train") and "--help" not in words:
            assert max(map(len, rows.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_name_folds(width: int, made: Any, screen: Callable[..., Any]) -> None:
    text, _ = screen(["runs"], made.root, width)
    assert "12,345,678" in text
    if width < 80:
        assert "a" * 10 in text
    assert text.count("a" * 60) == (width == 200)
    assert len(re.findall("a", text)) >= 60


@EVERY
def test_every_command_on_terminals_that_lack_letters(words: list[str], made: Any, screen: Callable[..., Any]) -> None:
    text, code = screen(words, made.root, 200, "ascii")
    assert code == screen(words, made.root)[1]
    assert text.strip()
    assert "Traceback" not in text
    assert "??" not in text  # what we draw has something like it everywhere


def test_a_terminal_with_some_letters_more(made: Any, screen: Callable[..., Any]) -> None:
    text, code = screen(["runs"], made.root, 200, "latin-1")
    assert code == 0
    assert "12,345,678" in text
    assert "??" not in text


def test_what_is_drawn_is_drawn_in_ascii_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of tables and bars of every kind, each as one character that is no question mark."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    suit_the_terminal()
    drawn = "".join(map(chr, range(0x2500, 0x25A0)))
    print(drawn, end="", flush=True)
    written = raw.getvalue().decode("ascii")
    assert len(written) == len(drawn)
    assert "?" not in written


@pytest.fixture
def nasty(fakes: Any, words: Any, empty: Path) -> Any:
    """Runs and scores in whose names, tags, settings, documents and tokens stands what no terminal should get."""
    named = NASTY.replace("\ud800", "").replace("/", "")
    for at, words_of in enumerate((b"\x1b]0;x\x07", "\u202e".encode())):
        words[70 + at] = words_of
    for number in range(2):
        run = fakes.run(
            f"{named} {number}", mem=64 + number, tag=named, data=named, settings={"arch.position": named, "size.name": named},
            summary={"command": f"memexp train tag={named}"},
        )  # fmt: skip
        fakes.score(run, [[1.0, 2.0], [3.0 + number, 4.0]], ids=[named, "b"], tokens=[[70, 71], [72, 73]])
    damaged = fakes.root / "results" / "runs" / f"damaged {named}"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("{")
    return fakes


@pytest.mark.parametrize(
    "line",
    [
        ["runs"], ["table"], ["table", "metric=nats"], ["diff", "{0}", "{1}"], pytest.param(["report"], marks=pytest.mark.hard), ["data", "list"], ["eval", "nobody"],
        ["eval", "{0}"], ["generate", "{0}", "prompt=a"], ["table", "nobody"], ["runs", "tag=nobody"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_foreign_text_reaches_no_terminal_raw(line: list[str], nasty: Any, screen: Callable[..., Any]) -> None:
    folders = sorted((nasty.root / "results" / "runs").iterdir())
    names = [str(folder) for folder in folders if "damaged" not in folder.name]
    safe = nasty.root / "safe"
    for number, name in enumerate(names):  # a name that may be typed
        (safe.with_name(f"safe{number}")).symlink_to(name)
    words = [word.format(nasty.root / "safe0", nasty.root / "safe1") for word in line]
    for width in (60, 200):
        text, _ = screen(words, nasty.root, width)
        raw = {char for char in text if not char.isprintable() and char != "\n"}
        assert not raw, text
    if line == ["runs"]:
        assert r"\x1b]0;pwned\x07" in text


def test_no_cell_of_a_csv_is_a_formula(nasty: Any, screen: Callable[..., Any], words: Any) -> None:
    for at, text in enumerate(("=1+1", "+1+1", "-1+1", "@A1")):
        words[70 + at] = text.encode()
    out = nasty.root / "out"
    assert screen(["diff", *(str(path) for path in _linked(nasty.root)), f"out={out}"], nasty.root)[1] == 0
    assert screen(["table", f"out={out}"], nasty.root)[1] == 0
    paths = [*out.rglob("*.csv")]
    assert {"tokens.csv", "runs.csv"} <= {path.name for path in paths}
    cells = [cell for path in paths for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
    assert "'=1+1" in cells
    for cell in cells:
        assert cell[:1] not in ("=", "@", "\t", "\r")
        if cell[:1] in ("+", "-"):
            float(cell)


def _linked(root: Path) -> list[Path]:
    folders = [folder for folder in sorted((root / "results" / "runs").iterdir()) if "damaged" not in folder.name]
    links = [root / f"link{number}" for number in range(len(folders))]
    for link, folder in zip(links, folders, strict=True):
        link.symlink_to(folder)
    return links


def test_numbers_of_a_csv_stay_numbers() -> None:
    kept = ["-0.5", "+1", "-1e-5", "-1,024", "+3.5%", "1", "a", ""]
    formulas = ["=1", "-1+1", "+a", "-", "@a", "\ta", "\ra", " =1", "-0.5-0.5", "-A1", "\uff1d1"]
    rows = list(csv.reader(io.StringIO(csv_text([[*kept, *formulas, -0.5, 1, None]]))))
    assert rows[0][: len(kept)] == kept
    assert all(cell.startswith("'") for cell in rows[0][len(kept) : -3])
    assert rows[0][-3:] == ["-0.5", "1", ""]


def test_no_other_module_writes_csv_or_makes_a_console() -> None:
    package = Path(sys.modules["memexp"].__file__ or "").parent
    for path in [*package.rglob("*.py"), *(package / "cli").resolve().rglob("*.py")]:
        text = path.read_text()
        if path.name not in ("escape.py", "terminal.py"):
            assert "csv.writer" not in text, path
            assert not re.search(r"(?<!\w)Console\(", text), path


def test_the_list_of_a_narrow_terminal_is_whole(made: Any, screen: Callable[..., Any]) -> None:
    text, _ = screen(["runs"], made.root, 40)
    assert "step 1,367/1,367" in text
    assert json.dumps(text).count("tokens/s 12,345,678") == 1
