"""The pages of all results: what they show of a folder, where their links lead, and that nothing on them is markup of others."""

import json
import re
import shutil
from collections.abc import Mapping
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
from memexp.report.chart import Point
from memexp.report.site import LOCAL, Table, pages
from memexp.report.statistics import Agreement
from memexp.report.table.text import Grid
from memexp.store.archive import line_of

CHECKOUT = Path(__file__).resolve().parents[2]
EVIL = "<img src=x onerror=alert(1)>"
GROUPS = [
    {"label": f"never {EVIL}", "tokens": 12, "gain": -0.5, "share": -0.25},
    {"label": "1", "tokens": 3, "gain": 1.5, "share": 1.25},
]
DIFFERENCE = {
    "a": {"score": "a-run", "perplexity": 8.5, "command": f"memexp train tag='{EVIL}'"},
    "b": {"score": "b-run@512", "perplexity": 7.25, "command": "memexp eval b-run"},
    "tokens": 1234, "gain": 0.159, "gain_interval_95": None, "half": 0.08, "foreign_gain": -0.25, "by_distance": GROUPS,
}  # fmt: skip


class Elements(HTMLParser):
    """The elements of a page, with what is written in tables, table by table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[dict[str, Any]] = []
        self.titles: list[str] = []
        """What the marks of charts are."""
        self.words: dict[str, str] = {}
        """Text by element, for elements that a page has once."""
        self._open: list[str] = []
        self.feed(text)

    @property
    def addresses(self) -> list[str]:
        return [value for _, values in self.tags for key, value in values.items() if key in ("href", "src") and value]

    @property
    def ids(self) -> list[str]:
        return [str(values["id"]) for _, values in self.tags if "id" in values]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append({"name": dict(attrs).get("aria-label") or "", "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
        if tag == "title" and "g" in self._open:
            self.titles.append("")
        if tag not in ("meta", "img", "br", "path", "rect", "circle", "input", "hr"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        if self._open[-1] == "title" and "g" in self._open:
            self.titles[-1] += data
        elif self._open[-1] in ("title", "h1"):
            self.words[self._open[-1]] = self.words.get(self._open[-1], "") + data
        elif "caption" in self._open:
            self.tables[-1]["name"] += data
        elif "td" in self._open or ("th" in self._open and "table" in self._open):
            self.tables[-1]["rows"][-1][-1] += data


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
    text = f"{EVIL} [tasks](../tasks/copy.md) [out](../../table4.yaml) [bad](javascript:alert(1))"
    for month in ("2026-10", "2026-11"):
        (folder / "log" / f"{month}.md").write_text(f"# {month}\n\n## A day of {month}\n\n{text}\n\n## Before\n")
    (folder / "memorizing" / "table4" / "small.md").write_text("# Table\n\n[outside](../../../table4.yaml)\n")
    for name in (f"diffs/a~b {EVIL[:4]}", "memorizing/table4/1-to-2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "summary.json").write_text(json.dumps(DIFFERENCE))
        for file in ("gain.svg", "gain.png", "index.html"):
            (folder / name / file).write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    return folder


PRINTED = ("-20.0", "-22.5", "-25.0 to -19.8")
POINTS = [
    Point(f"xl {EVIL}", "GitHub, ours on code", "perplexity, %", False, -20.0, -22.5, (-25.0, -19.75), True, PRINTED),
    Point(
        "knn",
        "GitHub, ours on code",
        "perplexity, %",
        False,
        -10.0,
        0.5,
        (-2.0, 3.0),
        False,
        ("-10.0", "none", "-2.0 to +3.0"),
    ),
    Point("rmt", "Isabelle", "perplexity, %", False, None, -1.0, None, False, ("–", "(-1.0)", "unknown")),
]


def site(
    results: Path, *, skipped: tuple[str, ...] = (), problems: list[str] | None = None, start: str = "index.html"
) -> dict[Path, str]:
    """The pages as they are written, of a table with markup everywhere, and of one without results."""
    config = results.parent / "table4.yaml"
    config.write_text(f"title: {EVIL}")
    headers = ["model", "GitHub: paper", "code: ours", "paper's diff. %", "our diff. %", "95 %", "tokens"]
    lines = [[point.row, "2.5", "30.5", *point.texts, "1.6M"] for point in POINTS]
    groups = ["", *["GitHub, ours on code"] * 5, ""]
    grid = Grid(
        f"Table 4 {EVIL}", headers, [False, *[True] * 6], lines, [EVIL], [], [("xl", "memexp train")], groups=groups
    )
    parts = [("GitHub", Agreement(12, 11, 11)), (f"Isabelle {EVIL}", Agreement(8, 7, 6))]
    whole = Agreement(20, 18, 17)
    tables = [
        Table("memorizing/table5", f"Table 5 {EVIL}", config, None, 0, 18, Agreement(0, 0, 0)),
        Table("memorizing/table4", "Table 4", config, grid, 10, 50, whole, None, parts, POINTS),
        Table("memorizing/table16", "Table 16", config, None, 0, 4, needs=f"more {EVIL}"),
    ]
    found = [] if problems is None else problems
    return pages(results, tables, page=results / start, skipped=skipped, problems=found)


def written(results: Path, **options: Any) -> Mapping[Path, str]:
    texts = site(results, **options)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return texts


def of_name(texts: Mapping[Path, str], name: str) -> str:
    """The text of the only page whose path ends with this."""
    (text,) = (text for path, text in texts.items() if str(path).endswith(name))
    return text


def broken(texts: Mapping[Path, str]) -> list[str]:
    """The links of all pages that lead nowhere."""
    wrong = []
    for path, text in texts.items():
        for address in Elements(text).addresses:
            file, _, place = address.partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            if (
                "://" in address
                or not target.exists()
                or (place and unquote(place) not in Elements(target.read_text()).ids)
            ):
                wrong.append(f"{path.name}: {address}")
    return wrong


def test_every_link_of_every_page_leads_somewhere(results: Path) -> None:
    texts = written(results)
    assert len(texts) > 8
    assert sum(len(Elements(text).addresses) for text in texts.values()) > 30
    assert broken(texts) == []
    (results / "tasks" / "copy.csv").unlink()
    assert len(broken(texts)) == 2  # in the text and in the list of files


def test_every_page_can_be_reached_and_leads_back(results: Path) -> None:
    texts = written(results)
    start, *others = texts
    assert start == results / "index.html"
    assert all(path.is_relative_to(results / "pages") for path in others)
    reached, waiting = {start}, [start]
    while waiting:
        page = waiting.pop()
        for address in Elements(texts[page]).addresses:
            target = (page.parent / unquote(address.partition("#")[0])).resolve()
            if target in texts and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert reached == set(texts)
    for path in others:
        assert start in {(path.parent / unquote(address)).resolve() for address in Elements(texts[path]).addresses}


def test_no_link_leads_out_of_what_is_published(results: Path) -> None:
    for path, text in written(results).items():
        for address in Elements(text).addresses:
            assert (path.parent / unquote(address)).resolve().is_relative_to(results)
    assert "<span>outside</span>" in of_name(site(results), "memorizing/table4.html")


def test_nothing_of_others_is_markup(results: Path) -> None:
    for text in site(results).values():
        page = Elements(text)
        assert EVIL not in text
        assert not any(key.startswith("on") or key == "style" for _, values in page.tags for key in values)
        assert not {tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "base", "form")}
        policy = next(str(values["content"]) for _, values in page.tags if "Policy" in str(values.get("http-equiv")))
        assert "default-src 'none'; script-src 'none'; style-src 'sha256-" in policy
        assert "unsafe" not in policy
        assert {str(values["src"]).rpartition("/")[2] for tag, values in page.tags if tag == "img"} <= {
            "gain.png",
            "gain.svg",
        }


def test_every_page_and_every_table_has_its_name(results: Path) -> None:
    texts, tables = site(results), 0
    for path, text in texts.items():
        page = Elements(text)
        assert page.words["title"].strip()
        assert page.words["h1"].strip()
        assert len([tag for tag, _ in page.tags if tag == "h1"]) == 1
        for table in page.tables:
            assert table["name"].strip(), path
            tables += 1
        # What scrolls is reached by keyboard, and says what it is.
        boxes = [values for _, values in page.tags if "scroll" in str(values.get("class"))]
        assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in boxes)
    assert tables > 6
    assert Elements(of_name(texts, "memorizing/table4.html")).words["h1"] == "Table 4"


def test_the_number_of_every_mark_is_in_its_table(results: Path) -> None:
    texts = site(results)
    start, table = Elements(texts[results / "index.html"]), Elements(of_name(texts, "memorizing/table4.html"))
    cells = {row[0]: row for one in table.tables for row in one["rows"]}
    assert len(start.titles) == 2  # the third row has no number of the paper
    for title in start.titles:
        row, numbers = title.removeprefix("Table 4. ").split(", GitHub, ours on code: ")
        named = re.fullmatch("paper (.*), ours (.*), 95 % (.*)", numbers)
        assert named
        assert cells[row][3:6] == list(named.groups())
    shown = next(one for one in start.tables if "numbers of this chart" in one["name"])
    assert [row[3:6] for row in shown["rows"][1:]] == [cells[row[1]][3:6] for row in shown["rows"][1:]]
    strips = re.findall(
        r"<li><b>(.*?)</b>.*?<span>(.*?)</span></li>", of_name(texts, "memorizing/table4.html"), re.DOTALL
    )
    assert len(strips) == 3
    for (_, numbers), point in zip(strips, POINTS, strict=True):
        plain = re.sub("<.*?>", "", numbers)
        paper = f"; paper {point.texts[0]}" if point.paper is not None else ""
        assert plain == f"{point.texts[1]} ({point.texts[2]}){paper}"


def test_marks_stand_where_their_numbers_say(results: Path) -> None:
    text = site(results)[results / "index.html"]
    marks = re.findall(r"<g class=\"m0 (\w+)\"><title>.*?</title>(.*?)</g>", text)
    assert [state for state, _ in marks] == ["open", "decided"]
    form = r'M([\d.]+) ([\d.]+)V([\d.]+)"/><circle class="mark" cx="([\d.]+)" cy="([\d.]+)"'
    places = [[float(number) for number in re.findall(form, drawn)[0]] for _, drawn in marks]
    (knn, knn_low, knn_high, knn_x, knn_y), (xl, xl_low, xl_high, xl_x, xl_y) = places
    assert (knn, xl) == (knn_x, xl_x)
    assert xl > knn  # the paper's -20 % is better than its -10 %
    pixels = (xl - knn) / 10
    # Upwards, the pixels of an SVG become fewer.
    assert [knn_y - at for at in (knn_low, knn_high, xl_low, xl_high, xl_y)] == pytest.approx(
        [pixels * (0.5 - value) for value in (-2.0, 3.0, -25.0, -19.75, -22.5)], abs=0.4
    )


def test_the_start_page_says_what_is_decided_first(results: Path) -> None:
    text = site(results)[results / "index.html"]
    plain = re.sub(r"\s+", " ", re.sub("<[^>]*>", "", text)).replace("&nbsp;", " ")
    assert (
        "Our runs decide 18 of the 20 pairs of rows that the papers decide in these tables, and 17 of them (94 %)"
        in plain
    )
    assert "The order is best in Table 4: trend agreement 94 % at coverage 90 %." in plain
    assert all(word in plain for word in ("Decided", "Coverage", "Trend agreement"))
    index = next(one for one in Elements(text).tables if "Papers" in one["name"])
    assert [" ".join(cell.split()) for cell in index["rows"][1]] == [
        "Table 4", "94 %", "90 %", "17 of 18", "10 of 50", "memexp reproduce memorizing/table4",
    ]  # fmt: skip
    assert len(index["rows"]) == 2
    folded = text[text.index("2 tables without results") :]
    assert folded.index("table5.html") < folded.index("table16.html")
    assert "needs more &lt;img" in folded


def test_a_folder_without_any_result_has_a_start_page(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    table = Table("memorizing/table4", "Table 4", tmp_path / "none.yaml", None, 0, 50, Agreement(0, 0, 0))
    problems: list[str] = []
    texts = pages(tmp_path / "results", [table], page=tmp_path / "index.html", skipped=(), problems=problems)
    assert "None of our runs decides a pair of rows yet." in texts[tmp_path / "index.html"]
    assert "<figure>" not in texts[tmp_path / "index.html"]
    assert [problem for problem in problems if "none.yaml" in problem] == problems


def test_what_is_shown_of_what_lies_there(results: Path) -> None:
    texts = site(results)
    table = of_name(texts, "memorizing/table4.html")
    assert "<td>30.5</td>" in table
    assert '<th scope="colgroup" colspan="5" class="start">GitHub, ours on code</th>' in table
    assert re.search(r"<th scope=.?col.?.*>ours</th>", table)
    assert 'id="small"' in table
    assert "title: &lt;img" in table  # the settings
    assert "Perplexity 8.50 → 7.25; mean gain <b>+0.1590</b>" in re.sub(r"\s+", " ", table)
    difference = of_name(texts, "differences/memorizing/table4/1-to-2.html")
    assert "with another document's memory -0.2500" in re.sub(r"\s+", " ", difference)
    assert "-157&nbsp;%" in difference
    tasks = of_name(texts, "records/tasks.html")
    assert 'href="../../tasks/runs.jsonl"' in tasks
    assert "<li>xl-run" in tasks
    assert "memexp train arch=xl mem=64" in tasks
    assert 'href="../../tasks/copy.csv">csv</a></td>' in tasks
    assert "<td>2</td>" in tasks
    log = of_name(texts, "log/2026-11.html")
    assert re.findall("<h[23].*>(.*)</h[23]>", log) == ["2026-11", "A day of 2026-11", "Before"]
    assert re.findall('<a href="#(.*)">(.*)</a>', log) == [("entry-1", "A day of 2026-11"), ("entry-2", "Before")]
    assert 'href="../records/tasks.html#copy">tasks</a>' in of_name(texts, "log/2026-11.html")
    assert 'href="log/2026-11.html">November</a>' in of_name(texts, "pages/about.html")
    start = texts[results / "index.html"]
    assert start.index("pages/log/2026-11.html") < start.index("pages/log/2026-10.html")


def test_what_stays_out_of_git_is_left_out_when_asked(results: Path) -> None:
    assert any("diffs" in path.parts for path in site(results))
    kept = site(results, skipped=LOCAL)
    assert not any("diffs" in path.parts for path in kept)
    assert not any("diffs/" in text for text in kept.values())
    assert "1-to-2/gain.png" in of_name(kept, "1-to-2.html")


def test_another_start_page_has_its_own_folder(results: Path) -> None:
    assert broken(written(results, start="mine.html")) == []
    assert (results / "mine-pages" / "tables" / "memorizing" / "table4.html").exists()
    assert not (results / "pages").exists()


def test_pages_are_no_records_of_the_next_build(results: Path) -> None:
    assert set(written(results)) == set(written(results))


def test_what_is_damaged_says_so_and_hides_no_other(results: Path) -> None:
    (results / "memorizing" / "table4" / "1-to-2" / "summary.json").write_text(json.dumps(DIFFERENCE | {"b": {}}))
    file = results / "tasks" / "runs.jsonl"
    file.write_text(file.read_text().replace('"loss": 3.25', '"loss": 3.0'))
    (results / "tasks" / "latin.md").write_bytes(b"caf\xe9")
    (results / "tasks" / "folder.md").mkdir()
    (results / "tasks" / "lost.md").write_text("[gone](gone.csv)")
    problems: list[str] = []
    text = site(results, problems=problems)[results / "index.html"]
    named = ("1-to-2", "xl-run", "latin.md", "gone.csv")
    assert [any(name in problem for problem in problems) for name in named] == [True] * 4
    assert len(problems) == 4
    assert "1-to-2/summary.json lacks score, perplexity" in text
    assert "diffs/a~b" in text


def test_the_command_writes_the_pages_and_warns(
    fakes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlike(table: PaperTable, library: Library) -> None:
        raise UserError("runs of other tokenizers")

    monkeypatch.setattr(command, "experiments", lambda: ["rmt/equations"])
    monkeypatch.setattr(command, "fill", unlike)
    (fakes.root / "results").mkdir()
    command.run(ReportConfig(root=str(fakes.root)))
    page = fakes.root / "results" / "index.html"
    assert "Recurrent Memory Transformer, Table 1" in page.read_text()
    assert "runs of other tokenizers" in page.read_text()
    assert (page.parent / "pages" / "tables" / "rmt" / "equations.html").exists()
    shown = capsys.readouterr()
    assert "warning: rmt/equations: runs of other tokenizers" in shown.err
    assert f"written: {page}: 0 of 1 papers' tables, and 1 pages" in shown.out
    command.run(ReportConfig(root=str(fakes.root), out=str(fakes.root / "mine" / "all.html")))
    assert (fakes.root / "mine" / "all.html").read_text()
    assert (fakes.root / "mine" / "all-pages" / "tables" / "rmt" / "equations.html").exists()


def test_a_browser_has_nothing_to_say_against_it(browser: Any, results: Path) -> None:
    texts = {path: text.replace('loading="lazy"', "") for path, text in site(results).items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (results / "memorizing" / "table4" / "1-to-2" / "gain.png").write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
            "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
        )
    )
    browser.get_log("browser")
    for path in texts:
        browser.get(path.as_uri())
        if path.stem == "1-to-2":
            widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
            assert widths == [1]  # the policy lets images beside it through
        else:
            assert browser.get_log("browser") == [] or "diffs" in path.parts
    browser.get((results / "pages" / "tables" / "memorizing" / "table4.html").as_uri())
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert browser.execute_script(style, ".table tbody td", "textAlign") == "right"
    assert browser.execute_script(style, ".table tbody th", "textAlign") == "left"
    assert browser.execute_script(style, ".table tbody th", "position") == "sticky"
    assert browser.execute_script(style, "svg.decided .mark", "fill") != browser.execute_script(
        style, "svg.open .mark", "fill"
    )


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_is_wider_than_the_screen(browser: Any, results: Path, width: int) -> None:
    """Long names do not break a page; what is wide scrolls in a box of its own."""
    (results / "tasks" / "copy.md").write_text(
        f"# {'long_name_' * 20}\n\n`{'x=' * 200}`\n\n    {'code ' * 80}\n\n|{'a long head|' * 30}\n|{'--|' * 30}\n|{'1|' * 30}\n"
    )
    folder = results / ("long_folder_name_" * 6)
    folder.mkdir()
    (folder / "x.csv").write_text("")
    mobile = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 1000}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", mobile)
    try:
        for path in written(results):
            browser.get(path.as_uri())
            browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
            found = browser.execute_script("return document.documentElement.scrollWidth")
            assert found <= width, path
        browser.get((results / "index.html").as_uri())
        best = "return document.querySelector('.lede b').getBoundingClientRect().bottom"
        assert browser.execute_script(best) < 800  # the best result is on the first screen
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.hard
def test_the_pages_of_the_repository(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed: links, names of tables, widths on a phone, and the numbers of the chart.

    A few tables of every kind are read; the folders of the others are records.
    """
    root, named = tmp_path / "root", ("rmt/enwik8", "rmt/algorithmic", "memorizing/figure6", "memorizing/table14")
    monkeypatch.setattr(command, "experiments", lambda: named)
    shutil.copytree(CHECKOUT / "results", root / "results", ignore=shutil.ignore_patterns("runs", *LOCAL))
    command.run(ReportConfig(root=str(root), local=False))
    start = root / "results" / "index.html"
    texts = {path: path.read_text() for path in [start, *(root / "results" / "pages").rglob("*.html")]}
    assert [one for one in broken(texts) if "://" not in one] == []
    tables = {
        page.words["h1"]: page for path, text in texts.items() if "tables" in path.parts for page in [Elements(text)]
    }
    assert all(table["name"].strip() for text in texts.values() for table in Elements(text).tables)
    titles = Elements(texts[start]).titles
    assert len(titles) > 20
    for title in titles:
        (page,) = (page for name, page in tables.items() if title.startswith(f"{name}. "))
        row, _, numbers = title.partition(". ")[2].rpartition(": ")
        paper, ours, interval = re.fullmatch("paper (.*), ours (.*), 95 % (.*)", numbers).groups()  # type: ignore[union-attr]
        lines = [line for table in page.tables for line in table["rows"] if line and row.startswith(line[0])]
        assert any({paper, ours, interval} <= set(line) for line in lines), title
    mobile = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", mobile)
    try:
        for path in texts:
            browser.get(path.as_uri())
            browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, path
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
