"""The page of all results: what it shows of a folder, where its links lead, and that nothing on it is markup of others."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from memexp.cli.commands import report as command
from memexp.config.commands import ReportConfig
from memexp.errors import UserError
from memexp.experiment.library import Library
from memexp.experiment.paper_table import PaperTable
from memexp.files import write_json
from memexp.report.site import LOCAL, Table, overview
from memexp.report.statistics import Agreement
from memexp.report.table.text import Grid
from memexp.runs.archive import line_of

EVIL = "<img src=x onerror=alert(1)>"
DIFFERENCE = {
    "a": {"score": "a-run", "perplexity": 8.5, "command": f"memexp train tag='{EVIL}'"},
    "b": {"score": "b-run@512", "perplexity": 7.25, "command": "memexp eval b-run"},
    "tokens": 1234, "gain": 0.159, "gain_interval_95": None, "half": 0.08, "foreign_gain": -0.25,
}  # fmt: skip


class Addresses(HTMLParser):
    """Every address on a page, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


@pytest.fixture
def results(fakes: Any) -> Path:
    """A folder of results as a checkout has it, in which every text is full of markup."""
    folder = Path(fakes.root / "results")
    for name in ("tasks", "memorizing/table4"):
        (folder / name).mkdir(parents=True)
    run = fakes.run("xl-run", arch="xl", mem=64)
    write_json(run.path / "identity.json", {})
    (folder / "tasks" / "runs.jsonl").write_text(f"{line_of(run)}\n")
    (folder / "tasks" / "copy.md").write_text(f"# Copy {EVIL}\n\n| a | b |\n|---|--:|\n| [csv](copy.csv) | 2 |\n")
    (folder / "tasks" / "copy.csv").write_text("a,b\n")
    (folder / "README.md").write_text("# Results\n\n[November](log/2026-11.md), [October](log/2026-10.md)\n")
    (folder / "log").mkdir()
    text = f"{EVIL} [tasks](../tasks/copy.md) [bad](javascript:alert(1))"
    for month in ("2026-10", "2026-11"):
        (folder / "log" / f"{month}.md").write_text(f"# {month}\n\n## A day of {month}\n\n{text}\n")
    (folder / "memorizing" / "table4" / "small.md").write_text("# Table\n")
    for name in (f"diffs/a~b {EVIL[:4]}", "memorizing/per_token"):
        (folder / name).mkdir(parents=True)
        (folder / name / "summary.json").write_text(json.dumps(DIFFERENCE))
        for file in ("gain.svg", "gain.png", "index.html"):
            (folder / name / file).write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    return folder


def text_of(results: Path, *, skipped: tuple[str, ...] = (), problems: list[str] | None = None) -> str:
    config = results.parent / "table4.yaml"
    config.write_text("")
    grid = Grid(
        f"Table 4 {EVIL}", ["model", "ours"], [False, True], [["xl", "2.5"]], [EVIL], [], [("xl", "memexp train")]
    )
    tables = [
        Table("memorizing/table4", "Table 4", config, grid, 10, 50, Agreement(20, 18, 17)),
        Table("memorizing/table5", f"Table 5 {EVIL}", config, None, 0, 18, Agreement(0, 0, 0)),
    ]
    found = [] if problems is None else problems
    return overview(results, tables, page=results / "index.html", skipped=skipped, problems=found)


def test_every_link_leads_somewhere_and_nothing_is_markup(results: Path) -> None:
    page = Addresses(text_of(results))
    files = [address for address in page.found if not address.startswith("#")]
    assert len(files) > 15
    assert all((results / unquote(address)).exists() for address in files)
    assert all(f'id="{address[1:]}"' in text_of(results) for address in page.found if address.startswith("#"))
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    assert {tag for tag, _ in page.tags if tag in ("script", "iframe", "object")} == set()
    assert {attributes.get("src") for tag, attributes in page.tags if tag == "img"} == {
        "diffs/a~b%20%3Cimg/gain.png", "memorizing/per_token/gain.png",
    }  # fmt: skip


def test_what_is_shown_of_what_lies_there(results: Path) -> None:
    text = text_of(results)
    assert "<td>2.5</td>" in text
    index = [re.sub(r"<[^>]*>|\s+", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL)[1:3]]
    assert index[0] == [
        "Table",
        "4",
        "10",
        "of",
        "50",
        "94&nbsp;%",
        "90&nbsp;%",
        "memexp",
        "reproduce",
        "memorizing/table4",
    ]
    assert index[1][-8:] == ["0", "of", "18", "–", "–", "memexp", "reproduce", "memorizing/table5"]
    assert 'href="#memorizing/table4"' in text
    assert 'href="#memorizing/table5"' not in text
    assert 'href="../table4.yaml"' in text
    assert 'href="memorizing/table4/small.md"' in text
    assert "Perplexity 8.50 → 7.25; mean gain <b>+0.1590</b>" in re.sub(r"\s+", " ", text)
    assert "with another document's memory -0.2500" in re.sub(r"\s+", " ", text)
    assert 'href="tasks/runs.jsonl"' in text
    assert "<li>xl-run" in text
    assert "memexp train arch=xl mem=64" in text
    assert 'href="tasks/copy.csv">csv</a></td>' in text
    assert "<td>2</td>" in text
    assert re.findall("<h[34]>(.*)</h[34]>", text[text.index('id="log"') :]) == [
        "Results", "2026-11", "A day of 2026-11", "2026-10", "A day of 2026-10",
    ]  # fmt: skip
    assert text.count('href="tasks/copy.md">tasks</a>') == 2  # as seen from the page, not from the log's folder


def test_what_stays_out_of_git_is_left_out_when_asked(results: Path) -> None:
    assert "diffs/" in text_of(results)
    kept = text_of(results, skipped=LOCAL)
    assert "diffs/" not in kept
    assert "memorizing/per_token/gain.png" in kept


def test_what_is_damaged_says_so_and_hides_no_other(results: Path) -> None:
    (results / "memorizing" / "per_token" / "summary.json").write_text(json.dumps(DIFFERENCE | {"b": {}}))
    file = results / "tasks" / "runs.jsonl"
    file.write_text(file.read_text().replace('"loss": 3.25', '"loss": 3.0'))
    (results / "tasks" / "latin.md").write_bytes(b"caf\xe9")
    (results / "tasks" / "folder.md").mkdir()
    problems: list[str] = []
    text = text_of(results, problems=problems)
    assert [any(name in problem for problem in problems) for name in ("per_token", "xl-run", "latin.md")] == [True] * 3
    assert len(problems) == 3
    assert "per_token/summary.json lacks score, perplexity" in text
    assert "diffs/a~b" in text


def test_the_command_writes_the_page_and_warns(
    fakes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlike(table: PaperTable, library: Library) -> None:
        raise UserError("runs of other tokenizers")

    monkeypatch.setattr(command, "experiments", lambda: ["memorizing/table4"])
    monkeypatch.setattr(command, "fill", unlike)
    (fakes.root / "results").mkdir()
    command.run(ReportConfig(root=str(fakes.root)))
    page = fakes.root / "results" / "index.html"
    assert "Memorizing Transformers, Table 4" in page.read_text()
    assert "runs of other tokenizers" in page.read_text()
    shown = capsys.readouterr().out
    assert "warning: memorizing/table4: runs of other tokenizers" in shown
    assert f"written: {page}: 0 of 1 papers" in shown


def test_a_browser_has_nothing_to_say_against_it(browser: Any, results: Path) -> None:
    (results / "index.html").write_text(text_of(results).replace('loading="lazy"', ""))
    (results / "memorizing" / "per_token" / "gain.png").write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
            "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
        )
    )
    browser.get_log("browser")
    browser.get((results / "index.html").as_uri())
    assert browser.get_log("browser") == []
    widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert widths.count(1) == 1  # the policy lets images beside it through
    assert browser.execute_script("return getComputedStyle(document.querySelector('td.left')).textAlign") == "left"
