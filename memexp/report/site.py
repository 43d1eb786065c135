"""All results on one page: papers' tables beside ours, differences, figures, and the records that lie in the folder."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from memexp.errors import UserError
from memexp.files import read_json
from memexp.report.escape import escape
from memexp.report.statistics import Agreement
from memexp.report.table.formats import to_html
from memexp.report.table.text import Grid
from memexp.report.template import render
from memexp.runs.archive import light_copies
from memexp.runs.folder import COPIES
from memexp.runs.scores import require

LOCAL = ("diffs", "tables", "bench", "profiles", "data")
"""Folders of results that are shown but stay out of git."""
_APART = ("runs", "published", "sweeps", "log")
"""Folders that hold no tables and no figures, or are shown apart."""
_IMAGES = (".png", ".svg")
_OF_A_SIDE = ("score", "perplexity", "command")
_OF_A_DIFFERENCE = ("a", "b", "tokens", "gain", "gain_interval_95", "half", "foreign_gain")


@dataclass(frozen=True)
class Table:
    """A paper's table, and where it comes from.

    Attributes:
        name: the experiment's.
        config: its file.
        grid: None where nothing of it was run.
        filled, of: how many cells it has, and how many there are.
        agreement: with the paper, of all columns together.
        needs: what it cannot be run without, where that is not there.
    """

    name: str
    title: str
    config: Path
    grid: Grid | None
    filled: int = 0
    of: int = 0
    agreement: Agreement | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Link:
    """A file, as it is found from the page."""

    text: str
    address: str


@dataclass
class Records:
    """What lies in one folder of results."""

    name: str
    texts: list[tuple[Link, str]] = field(default_factory=list)
    """Markdown as HTML."""
    files: list[Link] = field(default_factory=list)
    figures: list[Link] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def overview(results: Path, tables: Sequence[Table], *, page: Path, skipped: Sequence[str], problems: list[str]) -> str:
    """The page.

    Args:
        results: the folder that is shown.
        page: where it will lie, for links are relative to that.
        skipped: names of folders directly below `results` to leave out.
        problems: a line for each thing that could not be read; more are added.
    """
    shelf = _Shelf(results, page.parent, problems)
    folders = [
        folder
        for folder in _folders(results)
        if folder.relative_to(results).parts[:1] not in {(name,) for name in skipped}
    ]
    of_tables = {results / table.name for table in tables}
    differences = [found for folder in folders if (found := shelf.difference(folder)) is not None]
    records = [shelf.records(folder) for folder in folders if folder not in of_tables and not _is_difference(folder)]
    log = [results / "README.md", *sorted((results / "log").glob("*.md"), reverse=True)]
    return render(
        "overview",
        tables=[
            {
                "name": table.name,
                "html": to_html(table.grid),
                "config": shelf.link(table.config),
                "of": shelf.records(results / table.name),
            }
            for table in tables
            if table.grid is not None
        ],
        index=tables,
        differences=differences,
        records=[one for one in records if one.texts or one.files or one.figures or one.runs],
        log="".join(shelf.markdown(path) for path in log if path.exists()),
        problems=problems,
    )


def _folders(results: Path) -> Iterator[Path]:
    """Folders below `results` that may hold something to show, by name."""
    for path, below, _ in os.walk(results):
        below[:] = sorted(name for name in below if name not in _APART and not name.startswith("."))
        if Path(path) != results:
            yield Path(path)


def _is_difference(folder: Path) -> bool:
    return (folder / "gain.svg").exists() and (folder / "summary.json").exists()


@dataclass
class _Shelf:
    """Reads what lies in folders, and says where it is as seen from the page."""

    results: Path
    page_folder: Path
    problems: list[str]

    def link(self, path: Path, text: str = "") -> Link:
        return Link(text or escape(path.name), quote(os.path.relpath(path, self.page_folder)))

    def difference(self, folder: Path) -> dict[str, Any] | None:
        """The numbers of a difference and its files; None for a folder that holds none."""
        if not _is_difference(folder):
            return None
        try:
            summary = require(read_json(folder / "summary.json"), _OF_A_DIFFERENCE, folder / "summary.json")
            for side in "ab":
                require(summary[side], _OF_A_SIDE, folder / "summary.json")
        except UserError as error:
            self.problems.append(str(error))
            return None
        others = [path for path in sorted(folder.iterdir()) if path.name not in ("gain.png", "index.html")]
        files = [self.link(folder / "index.html", "page"), *map(self.link, others)]
        return summary | {"plot": self.link(folder / "gain.png"), "files": files}

    def records(self, folder: Path) -> Records:
        """Texts, figures, other files and runs of a folder, without what is below it."""
        found = Records(str(folder.relative_to(self.results)))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.is_file():
                continue
            if path.suffix == ".md":
                found.texts.append((self.link(path), self.markdown(path)))
            elif path.suffix in _IMAGES:
                found.figures.append(self.link(path))
            else:
                found.files.append(self.link(path))
        found.runs += self._runs(folder / COPIES)
        return found

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

    def markdown(self, path: Path) -> str:
        """A text as HTML, in which HTML is text, headings are those of a section, and links lead where they led."""
        from markdown_it import MarkdownIt

        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"cannot read {path}: {error}; expected text in UTF-8")
            return ""
        reader = MarkdownIt("js-default")
        tokens = reader.parse(text)
        for token in tokens:
            if token.type in ("heading_open", "heading_close"):
                token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
            if token.type in ("th_open", "td_open"):  # the policy allows no style in place
                right = "right" in str(token.attrs.pop("style", ""))
                token.attrs |= {} if right else {"class": "left"}
            for child in token.children or []:
                for name in ("href", "src"):
                    address = str(child.attrGet(name) or "")
                    if address and not re.match(r"[a-z]+:|[#/]", address):
                        child.attrSet(name, os.path.relpath(path.parent / address, self.page_folder))
        return str(reader.renderer.render(tokens, reader.options, {}))
