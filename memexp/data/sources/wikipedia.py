"""Articles of a Wikipedia dump, with their markup or as text."""

import io
from collections.abc import Iterator
from xml.etree import ElementTree

from memexp.data.sources.kinds import expand

NO_TEXT = ("file:", "image:", "category:")
"""Links that begin with these show a picture or put the article in a category."""

NO_PROSE = ("table", "ref", "gallery", "math", "timeline")
"""Tags that are left out with their content."""


def articles(dump: bytes) -> Iterator[tuple[str, str]]:
    """Title and markup of every article of a .xml.bz2 dump: the pages of the first namespace that are not redirects."""
    for _, page in ElementTree.iterparse(io.BytesIO(expand(dump, "bzip2"))):
        namespace, _, tag = page.tag.rpartition("}")
        if tag != "page":
            continue
        at = f"{namespace}}}" if namespace else ""
        if page.findtext(f"{at}ns") == "0" and page.find(f"{at}redirect") is None:
            yield page.findtext(f"{at}title") or "", page.findtext(f"{at}revision/{at}text") or ""
        page.clear()


def plain(title: str, markup: str) -> str:
    """An article as text, with headings between equals signs as in WikiText: ` = Title = `, ` = = Section = = `.

    Templates, tables, references, formulas, pictures and categories are left out. Only the visible part of a link is kept.
    """
    import mwparserfromhell
    from mwparserfromhell.nodes import Text
    from mwparserfromhell.wikicode import Wikicode

    code = mwparserfromhell.parse(markup)
    for link in code.filter_wikilinks():
        if str(link.title).strip().lower().startswith(NO_TEXT):
            link.title = link.text = ""
    for tag in code.filter_tags():
        if str(tag.tag).strip().lower() in NO_PROSE:
            tag.contents = ""
    for heading in code.filter_headings():
        name = heading.title.strip_code().strip()
        heading.title = Wikicode([Text(_heading(name, heading.level))])
    return f"{_heading(title, 1)}\n\n{code.strip_code(collapse=True).strip()}\n"


def _heading(name: str, level: int) -> str:
    return f" {'= ' * level}{name}{' =' * level} "
