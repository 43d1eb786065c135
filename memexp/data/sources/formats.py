"""From the files of a package to texts with names, by the format that the configuration of a corpus gives."""

import re
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from html.parser import HTMLParser
from xml.etree import ElementTree

from memexp.data.sources import rdata, wikipedia

Files = Mapping[str, bytes]
Texts = Iterator[tuple[str, str]]

START = re.compile(r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*?\*\*\*\n+", re.S | re.I)
PRODUCERS = re.compile(r"\s*Produced by .*?\n\n", re.S)
END = re.compile(r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|^End of (?:the )?Project Gutenberg", re.M | re.I)

HEADING = re.compile(r"^\$\(\n(?=(?:####|#\*#\*|=-=-).*\n *(?P<name>.*\S))", re.M)
"""Start of a part, section or subsection of a Metamath database: a comment whose first line is a line of such signs."""

DRAFTS = "mathbox"
"""Word in the heading where the database ends and its users' drafts begin."""


def _text(files: Files) -> Texts:
    """A text for each file, unchanged."""
    for name, data in files.items():
        yield name, data.decode("utf-8")


def _book(files: Files) -> Texts:
    """A text for each file, without what Project Gutenberg put before and after it."""
    for name, data in files.items():
        yield name, _without_gutenberg(data.decode("utf-8"))


def _without_gutenberg(text: str) -> str:
    """The book alone, with line feeds as line ends. Texts are in the public domain, but the project's name is a trademark."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    start, end = START.search(text), END.search(text)
    text = text[start.end() if start else 0 : end.start() if end else None]
    producers = PRODUCERS.match(text)
    return text[producers.end() if producers else 0 :].strip("\n") + "\n"


def _html(files: Files) -> Texts:
    """A text for each page: what a reader sees, one line for each block. Outside of <pre>, several spaces become one."""
    for name, data in files.items():
        page = _Page()
        page.feed(data.decode("utf-8"))
        page.close()
        yield name, page.text()


def _r_books(files: Files) -> Texts:
    """A text for each variable of strings in R's lazy-load databases: its strings as lines, cut like `book`."""
    for name, data in files.items():
        if name.endswith(".rdb"):
            for variable, text in rdata.variables(data, files[name.removesuffix(".rdb") + ".rdx"]):
                yield variable, _without_gutenberg(text)


def _bible(files: Files) -> Texts:
    """A text for each book of a database with tables of books and of their passages, a line for each paragraph."""
    for data in files.values():
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            books = database.execute(
                "SELECT TestamentID, BookID, ShortName, LongName FROM Books ORDER BY 1, 2"
            ).fetchall()
            for testament, book, name, title in books:
                rows = database.execute(
                    "SELECT Passage1, Passage2 FROM Bible WHERE TestamentID = ? AND BookID = ? ORDER BY rowid",
                    (testament, book),
                )
                lines = [paragraph for row in rows for paragraph in row if paragraph]
                yield name, f"{title}\n\n" + "\n".join(lines) + "\n"


def _wiki_markup(files: Files) -> Texts:
    """A text for each article, with its markup."""
    for data in files.values():
        yield from wikipedia.articles(data)


def _wiki_text(files: Files) -> Texts:
    """A text for each article, without its markup."""
    for title, markup in _wiki_markup(files):
        yield title, wikipedia.plain(title, markup)


def _metamath(files: Files) -> Texts:
    """A text for each part, section and subsection of a database, up to its users' drafts."""
    for data in files.values():
        text = data.decode("utf-8")
        first = text.index("\n$(\n####") + 1
        headings = list(HEADING.finditer(text, first))
        for heading, following in zip(headings, [*headings[1:], None], strict=True):
            if DRAFTS in heading["name"].lower():
                return
            yield heading["name"], text[heading.start() : following.start() if following else None]


FORMATS: dict[str, Callable[[Files], Texts]] = {
    "text": _text,
    "book": _book,
    "html": _html,
    "r_books": _r_books,
    "bible": _bible,
    "wiki_markup": _wiki_markup,
    "wiki_text": _wiki_text,
    "metamath": _metamath,
}

UNREADABLE = (
    KeyError,
    ValueError,
    OSError,
    EOFError,
    zlib.error,
    sqlite3.Error,
    ElementTree.ParseError,
    RecursionError,
    struct.error,
    IndexError,
)
"""What they raise if files are not of the format; text that is not UTF-8 is a ValueError."""


class _Page(HTMLParser):
    """Collects the text of a page."""

    HIDDEN = ("head", "script", "style")
    INLINE = frozenset(
        [
            "a",
            "abbr",
            "acronym",
            "b",
            "big",
            "cite",
            "code",
            "dfn",
            "em",
            "font",
            "i",
            "kbd",
            "q",
            "s",
            "samp",
            "small",
            "span",
            "strong",
            "sub",
            "sup",
            "tt",
            "u",
            "var",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._hidden = self._kept = 0
        """How many open elements hide their content, and how many keep white space."""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in self.HIDDEN
        self._kept += tag == "pre"
        if tag not in self.INLINE:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self.HIDDEN and self._hidden > 0
        self._kept -= tag == "pre" and self._kept > 0
        if tag not in self.INLINE:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data if self._kept else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """The collected text, without spaces at line ends and without several blank lines in a row."""
        text = re.sub(r"[ \t]*\n[ \t]*(?=\n)|[ \t]+(?=\n)", "\n", "".join(self._parts))
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
