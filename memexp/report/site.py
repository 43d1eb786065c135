"""The pages of all results: papers' tables beside ours, differences, figures, and the other files of each folder."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from memexp.errors import UserError
from memexp.files import read_json
from memexp.report.chart import Point, Series, panels, strips
from memexp.report.difference.evidence import evidence
from memexp.report.escape import escape, html
from memexp.report.statistics import Agreement
from memexp.report.table.formats import to_html
from memexp.report.table.text import Grid
from memexp.report.template import render
from memexp.store.archive import light_copies
from memexp.store.folder import COPIES
from memexp.store.scores import require

LOCAL = ("diffs", "tables", "bench", "profiles", "data")
"""Folders of results that the pages can show and that stay out of git."""
PAGES = "pages"
"""The folder of all pages but the first, beside it."""
_APART = ("runs", "published", "sweeps", "log", PAGES)
"""Folders that hold no tables and figures, or that have pages of their own."""
_IMAGES = (".png", ".svg")
_OF_A_SIDE = ("score", "perplexity", "command")
_OF_A_DIFFERENCE = ("a", "b", "tokens", "gain", "gain_interval_95", "half", "foreign_gain")
_HALF = 0.5
"""The coverage from which a table's trend agreement is named on the first page."""


@dataclass(frozen=True)
class Table:
    """A paper's table, and where it comes from.

    Attributes:
        name: name of the experiment.
        config: file of the experiment.
        grid: the table as text; None if no cell is filled.
        filled, of: the number of filled cells, and of all cells.
        agreement: agreement with the paper over all columns.
        needs: what is missing to run the experiment, if anything.
        columns: agreement with the paper in each column that has a filled cell.
        points: our differences beside the paper's.
    """

    name: str
    title: str
    config: Path
    grid: Grid | None
    filled: int = 0
    of: int = 0
    agreement: Agreement | None = None
    needs: str | None = None
    columns: Sequence[tuple[str, Agreement]] = ()
    points: Sequence[Point] = ()

    @property
    def paper(self) -> str:
        """What the name begins with, which all tables of a paper share."""
        return self.name.partition("/")[0]

    @property
    def decided(self) -> int:
        """The pairs of rows that the paper decides and our runs too."""
        return self.agreement.decided if self.agreement else 0


@dataclass(frozen=True)
class Link:
    """A link from a page to a file or to another page."""

    text: str
    address: str


@dataclass
class Records:
    """The contents of one folder of results."""

    name: str
    texts: list[tuple[str, Link, str]] = field(default_factory=list)
    """Markdown files: a name for a place on the page, a link to the file, and its text as HTML."""
    files: list[Link] = field(default_factory=list)
    figures: list[Link] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def pages(
    results: Path, tables: Sequence[Table], *, page: Path, skipped: Sequence[str], problems: list[str]
) -> dict[Path, str]:
    """The pages of all results as HTML, by their paths; the first is the start page.

    Args:
        results: the folder to show.
        page: where the start page will be written. The others go into a folder beside it; links are relative.
        skipped: names of folders directly below `results` to leave out.
        problems: a line for each file that could not be read; this function adds more.
    """
    return _Site(results, list(tables), page, skipped, problems).all()


def _folders(results: Path, problems: list[str]) -> Iterator[Path]:
    """Folders below `results` that may hold something to show, sorted by name; one that cannot be read is a problem."""

    def left_out(error: OSError) -> None:
        problems.append(f"cannot read {error.filename}: {error.strerror}; expected a folder of results")

    for path, below, _ in os.walk(results, onerror=left_out):
        below[:] = sorted(name for name in below if name not in _APART and not name.startswith("."))
        if Path(path) != results:
            yield Path(path)


def _is_difference(folder: Path) -> bool:
    return (folder / "summary.json").exists() and any((folder / f"gain{kind}").exists() for kind in _IMAGES)


class _Site:
    """All pages, which know each other's places before any is written."""

    def __init__(
        self, results: Path, tables: list[Table], start: Path, skipped: Sequence[str], problems: list[str]
    ) -> None:
        self.results, self.start, self.problems = results, start, problems
        # What is decided comes first, then what has most cells, and tables without results last.
        self.tables = sorted(tables, key=lambda table: (table.grid is None, -table.decided, -table.filled))
        pages = start.parent / (PAGES if start.stem == "index" else f"{start.stem}-{PAGES}")
        self.folders = [
            folder for folder in _folders(results, problems) if folder.relative_to(results).parts[0] not in skipped
        ]
        self.log = sorted((results / "log").glob("*.md"), reverse=True)
        self.page_of: dict[Path, Path] = {}
        """The page that shows a folder or a file of results."""
        for table in tables:
            self.page_of[results / table.name] = pages / "tables" / f"{table.name}.html"
        self._of_tables = set(self.page_of.values())
        for folder in self.folders:
            kind = "differences" if _is_difference(folder) else "records"
            name = f"{folder.relative_to(results)}.html"
            if folder not in self.page_of and any(path.is_file() for path in folder.iterdir()):
                self.page_of[folder] = pages / kind / name
        for path in self.log:
            self.page_of[path] = pages / "log" / f"{path.stem}.html"
        if (results / "README.md").exists():
            self.page_of[results / "README.md"] = pages / "about.html"

    def all(self) -> dict[Path, str]:
        """Every page by its path, the start page first."""
        written = {self.start: ""}
        differences = {}
        for folder in filter(_is_difference, self.folders):
            if (summary := self._summary(folder)) is not None:
                differences[folder] = summary
            elif self.page_of[folder] not in self._of_tables:
                del self.page_of[folder]
        for table in self.tables:
            path = self.page_of[self.results / table.name]
            written[path] = self._table(table, path, differences)
        for folder, summary in differences.items():
            if (page := self.page_of[folder]) not in written:
                written[page] = self._difference(folder, summary, page)
        records = [
            folder
            for folder in self.folders
            if folder in self.page_of and self.page_of[folder] not in written and not _is_difference(folder)
        ]
        for folder in records:
            page = self.page_of[folder]
            name = str(folder.relative_to(self.results))
            written[page] = self._render("records", page, title=escape(name), of=self._records(folder, page))
        for path in [*self.log, self.results / "README.md"]:
            if path in self.page_of:
                page = self.page_of[path]
                title = "About these results" if path.name == "README.md" else f"Log, {escape(path.stem)}"
                entries: list[Link] = []
                text = self._markdown(path, page, entries)
                written[page] = self._render("text", page, title=title, text=text, entries=entries)
        # The start page comes last, because it shows the problems of all others.
        written[self.start] = self._start(records, differences)
        return written

    def _render(self, name: str, page: Path, **values: Any) -> str:
        home = None if page == self.start else quote(os.path.relpath(self.start, page.parent))
        return render(f"site_{name}", like="site", home=home, **values)

    def _start(self, records: Sequence[Path], differences: Mapping[Path, Mapping[str, Any]]) -> str:
        shown = [table for table in self.tables if table.grid is not None]
        papers = {table.paper: table.title.partition(",")[0] for table in reversed(shown)}
        marks = {paper: at for at, paper in enumerate(sorted(papers))}
        series = [Series(table.title, marks[table.paper], table.points) for table in shown]
        named = [
            table
            for table in shown
            if table.agreement and table.agreement.decided and (table.agreement.coverage or 0) >= _HALF
        ]
        named.sort(key=lambda table: -((table.agreement and table.agreement.share) or 0))
        compared = [(table, point) for table in shown for point in table.points if point.paper is not None]
        return self._render(
            "start",
            self.start,
            title="Results",
            whole=Agreement.together(table.agreement for table in shown if table.agreement),
            best=named[:1],
            least=named[1:][-1:],
            panels=panels(series),
            legend=[(name, marks[paper]) for paper, name in sorted(papers.items()) if any(
                table.paper == paper for table, _ in compared
            )],
            compared=compared,
            tables=shown,
            rest=[table for table in self.tables if table.grid is None],
            address={
                table.name: self._link(self.results / table.name, self.start).address for table in self.tables
            },
            differences=[
                (summary, self._link(folder, self.start)) for folder, summary in differences.items()
            ],
            records=[self._link(folder, self.start, escape(str(folder.relative_to(self.results)))) for folder in records],
            log=[self._link(path, self.start, escape(path.stem)) for path in self.log],
            about=[
                self._link(path, self.start) for path in [self.results / "README.md"] if path in self.page_of
            ],
            problems=self.problems,
        )  # fmt: skip

    def _table(self, table: Table, page: Path, differences: Mapping[Path, Mapping[str, Any]]) -> str:
        folder = self.results / table.name
        below = [path for path in self.folders if folder in (path, *path.parents) and path in self.page_of]
        # A title may end with what a paper says whose numbers are printed nowhere.
        stated = re.search(r" \((.*)\)$", table.title)
        return self._render(
            "table",
            page,
            title=table.title[: stated.start()] if stated else table.title,
            table=table,
            stated=stated.group(1) if stated else "",
            html=to_html(table.grid) if table.grid else "",
            charts=strips(table.points),
            settings=self._text(table.config),
            of=self._records(folder, page),
            differences=[
                (differences[path], self._link(path, page), evidence(differences[path]))
                for path in below
                if path in differences
            ],
            below=[
                self._link(path, page, escape(str(path.relative_to(folder))))
                for path in below
                if path not in (folder, *differences)
            ],
        )

    def _difference(self, folder: Path, summary: Mapping[str, Any], page: Path) -> str:
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        plot = next(files[f"gain{kind}"] for kind in _IMAGES if f"gain{kind}" in files)
        text = files.pop("index.html", None)
        return self._render(
            "difference",
            page,
            title=f"{summary['a']['score']} → {summary['b']['score']}",
            of=summary,
            evidence=evidence(summary),
            plot=self._link(plot, page),
            text=[self._link(text, page)] if text else [],
            files=[self._link(path, page) for path in files.values()],
        )

    def _link(self, path: Path, page: Path, text: str = "") -> Link:
        """A link to the page of a file or folder, or to the file itself."""
        return Link(text or escape(path.name), quote(os.path.relpath(self.page_of.get(path, path), page.parent)))

    def _summary(self, folder: Path) -> Mapping[str, Any] | None:
        """The numbers of a difference; None if they cannot be read."""
        try:
            summary = require(read_json(folder / "summary.json"), _OF_A_DIFFERENCE, folder / "summary.json")
            for side in "ab":
                require(summary[side], _OF_A_SIDE, folder / "summary.json")
            # written since differences name settings
            for values in require(summary.setdefault("settings", {}), (), folder / "summary.json").values():
                require(values, ("a", "b"), folder / "summary.json")
        except UserError as error:
            self.problems.append(str(error))
            return None
        return summary

    def _records(self, folder: Path, page: Path) -> Records:
        """Texts, figures, other files and runs of a folder, without its subfolders."""
        records = Records(escape(str(folder.relative_to(self.results))))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.is_file():
                continue
            link = self._link(path, page)
            if path.suffix == ".md":
                records.texts.append((path.stem, link, self._markdown(path, page)))
            elif path.suffix in _IMAGES:
                records.figures.append(link)
            else:
                records.files.append(link)
        records.runs += self._runs(folder / COPIES)
        return records

    def _runs(self, file: Path) -> Iterator[dict[str, Any]]:
        """Name and command of each light copy."""
        try:
            copies = light_copies(file)
        except UserError as error:
            self.problems.append(str(error))
            return
        for copy in copies:
            try:
                yield {"name": copy.name, "command": copy.summary.get("command", "")}
            except UserError as error:
                self.problems.append(str(error))

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"cannot read {path}: {error}; expected text in UTF-8")
            return ""

    def _markdown(self, path: Path, page: Path, entries: list[Link] | None = None) -> str:
        """A Markdown file as HTML for a page: markup in it is escaped, headings are lowered by one level, and links still work.

        Args:
            entries: gets a link to each heading of the second level.
        """
        from markdown_it import MarkdownIt

        reader = MarkdownIt("js-default")
        tokens = reader.parse(self._text(path))
        heading = escape(path.name)
        for at, token in enumerate(tokens):
            if token.type in ("heading_open", "heading_close"):
                token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
            if token.type == "heading_open":
                heading = escape(tokens[at + 1].content)
                if entries is not None and token.tag == "h3":
                    entries.append(Link(heading, f"#entry-{len(entries) + 1}"))
                    token.attrSet("id", entries[-1].address[1:])
            if token.type == "table_open":
                token.attrSet("aria-label", heading)
            if token.type in ("th_open", "td_open"):  # the policy allows no style attributes
                right = "right" in str(token.attrs.pop("style", ""))
                token.attrs |= {} if right else {"class": "left"}
            self._redirect(token.children or [], path, page)
        text = str(reader.renderer.render(tokens, reader.options, {}))
        # No text of the file can be such a tag, because markup in it is escaped.
        label = html(f"tables of {path.name}")
        opened = f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table'
        return text.replace("<table", opened).replace("</table>", "</table></div>")

    def _redirect(self, tokens: Sequence[Any], path: Path, page: Path) -> None:
        """Make the links of a Markdown file lead from `page` to the same places, or to the pages that show them."""
        outside = False
        for token in tokens:
            name = "src" if token.type == "image" else "href"
            address = str(token.attrGet(name) or "")
            if token.type == "link_close" and outside:
                token.tag, outside = "span", False
            if not address or re.match(r"[a-z]+:|[#/]", address):
                continue
            file, _, place = unquote(address).partition("#")
            target = Path(os.path.normpath(path.parent / file))
            if token.type == "link_open" and not target.is_relative_to(self.results):
                # What lies outside is not there where the results are published.
                token.tag, token.attrs, outside = "span", {}, True
                continue
            if not target.exists():
                self.problems.append(f"{path} links to {escape(file)}, which does not exist")
            if target.suffix == ".md" and target not in self.page_of and target.parent in self.page_of:
                target, place = target.parent, target.stem
            token.attrSet(name, self._link(target, page).address + (f"#{quote(place)}" if place else ""))
