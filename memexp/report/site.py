"""The page of all results: papers' tables beside ours, differences, figures, and the other files of each folder."""

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
"""Folders of results that the page can show and that stay out of git."""
_APART = ("runs", "published", "sweeps", "log")
"""Folders that hold no tables and figures, or that have a section of their own."""
_IMAGES = (".png", ".svg")
_OF_A_SIDE = ("score", "perplexity", "command")
_OF_A_DIFFERENCE = ("a", "b", "tokens", "gain", "gain_interval_95", "half", "foreign_gain")


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
    """A link from the page to a file."""

    text: str
    address: str


@dataclass
class Records:
    """The contents of one folder of results."""

    name: str
    texts: list[tuple[Link, str]] = field(default_factory=list)
    """Markdown files, with their text as HTML."""
    files: list[Link] = field(default_factory=list)
    figures: list[Link] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


def overview(results: Path, tables: Sequence[Table], *, page: Path, skipped: Sequence[str], problems: list[str]) -> str:
    """The page of all results, as HTML.

    Args:
        results: the folder to show.
        page: where the page will be written; links are relative to it.
        skipped: names of folders directly below `results` to leave out.
        problems: a line for each file that could not be read; this function adds more.
    """
    shelf = _Shelf(results, page.parent, problems)
    folders = [
        folder
        for folder in _folders(results)
        if folder.relative_to(results).parts[:1] not in {(name,) for name in skipped}
    ]
    of_tables = {results / table.name for table in tables}
    differences = [shown for folder in folders if (shown := shelf.difference(folder)) is not None]
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
        records=[record for record in records if record.texts or record.files or record.figures or record.runs],
        log="".join(shelf.markdown(path) for path in log if path.exists()),
        problems=problems,
    )


def _folders(results: Path) -> Iterator[Path]:
    """Folders below `results` that may hold something to show, sorted by name."""
    for path, below, _ in os.walk(results):
        below[:] = sorted(name for name in below if name not in _APART and not name.startswith("."))
        if Path(path) != results:
            yield Path(path)


def _is_difference(folder: Path) -> bool:
    return (folder / "gain.svg").exists() and (folder / "summary.json").exists()


@dataclass
class _Shelf:
    """Reads the files of folders, with links to them that are relative to the page."""

    results: Path
    page_folder: Path
    problems: list[str]

    def link(self, path: Path, text: str = "") -> Link:
        return Link(text or escape(path.name), quote(os.path.relpath(path, self.page_folder)))

    def difference(self, folder: Path) -> dict[str, Any] | None:
        """The numbers and files of a difference; None if the folder holds no difference."""
        if not _is_difference(folder):
            return None
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
        rest = [path for path in sorted(folder.iterdir()) if path.name not in ("gain.png", "index.html")]
        files = [self.link(folder / "index.html", "page"), *map(self.link, rest)]
        return summary | {"plot": self.link(folder / "gain.png"), "files": files}

    def records(self, folder: Path) -> Records:
        """Texts, figures, other files and runs of a folder, without its subfolders."""
        records = Records(str(folder.relative_to(self.results)))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.is_file():
                continue
            if path.suffix == ".md":
                records.texts.append((self.link(path), self.markdown(path)))
            elif path.suffix in _IMAGES:
                records.figures.append(self.link(path))
            else:
                records.files.append(self.link(path))
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

    def markdown(self, path: Path) -> str:
        """A Markdown file as HTML: markup in it is escaped, headings are lowered by two levels, and links still work."""
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
            if token.type in ("th_open", "td_open"):  # the policy allows no style attributes
                right = "right" in str(token.attrs.pop("style", ""))
                token.attrs |= {} if right else {"class": "left"}
            for child in token.children or []:
                for name in ("href", "src"):
                    address = str(child.attrGet(name) or "")
                    if address and not re.match(r"[a-z]+:|[#/]", address):
                        child.attrSet(name, os.path.relpath(path.parent / address, self.page_folder))
        return str(reader.renderer.render(tokens, reader.options, {}))
