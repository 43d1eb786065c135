"""WikiText: files of lines, which are put together to articles."""

import re
from collections.abc import Iterator
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any

from memexp.config.sources import ArticlesOptions
from memexp.data.sources.document import Document
from memexp.data.sources.files import read_text
from memexp.data.sources.kinds import ARCHIVES, lines_of
from memexp.data.sources.published import Published, Row
from memexp.data.sources.rows import BadRow, refuse_mark
from memexp.errors import UserError
from memexp.terminal import escape

HEADING = re.compile(r"= (?!= ).+ =")
"""`= Title =` begins an article; `= = Section = =` does not."""


class Articles(Published):
    """Each article of WikiText is a document, and a group of its own.

    Lines begin and end with a space, as in the files of the first publication. In those of the hub, blank lines have no
    space; it is added.

    *Differs from Transformer-XL and LM-RMT:* they read a split as one text, so memory is carried from one article into the
    next.
    """

    def __init__(self, options: ArticlesOptions, path: str | None) -> None:
        super().__init__(options, path, suffixes=(".raw", ".tokens", ".txt"))

    def text_rows(self, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line is a row."""
        kind = self.kind(file)
        if kind.form in ARCHIVES:
            read_text(file, kind)  # says what is wrong
        for number, line in enumerate(lines_of(file, kind.packed), start=1):
            if number == 1:
                refuse_mark(file, line)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{escape(file)} is not UTF-8 after line {number - 1}; expected WikiText's lines"
                ) from error
            yield f"line {number}", {self.fields["text"][0]: text}

    def __iter__(self) -> Iterator[Document]:
        # If a split has several files, an article can begin in one file and end in the next.
        for (split, file), rows in groupby(self.rows(), key=lambda row: (row.split, _source(row))):
            for number, lines in enumerate(self._articles(rows), start=1):
                title = next(filter(str.strip, lines)).strip("= \n")
                id = f"{file}:{number} {title}"
                yield Document(id, id, "".join(lines), split)

    def _articles(self, rows: Iterator[Row]) -> Iterator[list[str]]:
        """The lines of each article. A heading has blank lines around it, for some articles have lines that look like one."""
        article: list[str] = []
        before = ""
        for line, after in pairwise(chain(self._lines(rows), [""])):
            if HEADING.fullmatch(line) and not before and not after and any(map(str.strip, article)):
                yield article
                article = []
            article.append(f" {line} \n" if line else " \n")
            before = line
        if any(map(str.strip, article)):
            yield article

    def _lines(self, rows: Iterator[Row]) -> Iterator[str]:
        for row in rows:
            try:
                yield self.text(row).strip()
            except BadRow as error:
                self.bad(error)


def _source(row: Row) -> str:
    """The split of a row; without a split, its file."""
    return row.split or row.name.partition(":")[0]
