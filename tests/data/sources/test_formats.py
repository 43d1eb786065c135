"""What becomes of files of each format, and that text changes in no other way."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memexp.data.sources.formats import FORMATS, UNREADABLE
from memexp.data.sources.package_texts import _joined

from ...messages import says
from . import made

RULE = {"part": "#" * 79, "section": "#*" * 39 + "#", "subsection": "=-" * 39 + "="}


def texts(format: str, files: dict[str, bytes]) -> dict[str, str]:
    return dict(FORMATS[format](files))


@given(st.text())
def test_text_stays_as_it_is(text: str) -> None:
    assert texts("text", {"a": text.encode()}) == {"a": text}


# ---------------------------------------------------------------------------------------------- books


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***", "*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***"),
        ("***START OF THE PROJECT GUTENBERG EBOOK A\nBOOK***", "End of the Project Gutenberg EBook of A Book"),
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK A ***\n\n\n\nProduced by A and\nB",
            "End of Project Gutenberg's A, by C",
        ),
    ],
)
def test_a_books_wrapping_is_taken_off(start: str, end: str) -> None:
    book = "A BOOK\n\nCHAPTER I\n\nIt was produced by hand. *** It did not end.\n"
    text = f"\ufeffThe Project Gutenberg EBook of A Book\n\n{start}\n\n\n{book}\n\n\n{end}\n\nLicence and so on\n"
    for ends in ("\n", "\r\n"):
        assert texts("book", {"a": text.replace("\n", ends).encode()}) == {"a": book}


@given(st.text(st.characters(exclude_characters="\r\ufeff", exclude_categories=["Cs"]), min_size=1))
def test_a_book_without_wrapping_loses_empty_lines_around_it_alone(text: str) -> None:
    assert texts("book", {"a": text.encode()}) == {"a": text.strip("\n") + "\n"}


# -------------------------------------------------------------------------------------------- R's data


@pytest.mark.parametrize("version", [2, 3])
def test_the_strings_of_r(version: int) -> None:
    variables = {
        "novel": made.r_strings(["NOVEL", "", "It was a “dark” night."]),
        "poem": made.r_named_strings({"first": "Roses", "second": "are red"}),
        "old": made.r_latin1("café"),
        "numbers": made.r_numbers([1.5, 2.5]),
    }
    database, index = made.r_database(variables, version)
    files = {"data/Rdata.rdb": database, "data/Rdata.rdx": index}
    assert texts("r_books", files) == {
        "novel": "NOVEL\n\nIt was a “dark” night.\n",
        "old": "café\n",
        "poem": "Roses\nare red\n",
    }


@pytest.mark.parametrize(
    ("value", "expected"), [(b"\x00\x00\x00\x04" * 2, "a value of type 4"), (made.r_strings(["x"])[:-3], "are cut off")]
)
def test_data_of_r_that_is_not_read(value: bytes, expected: str) -> None:
    database, index = made.r_database({"a": value})
    with pytest.raises(UNREADABLE, check=says(expected)):
        texts("r_books", {"Rdata.rdb": database, "Rdata.rdx": index})


# ---------------------------------------------------------------------------------------------- others


def test_the_books_of_a_bible(tmp_path: Path) -> None:
    books = {"Ruth": [("1:1 Now it came", ""), ("1:2 And the name", "And they came")], "Jude": [("1 Jude", "")]}
    assert texts("bible", {"Bible.db": made.bible(tmp_path / "b.db", books)}) == {
        "Ruth": "The Book of Ruth\n\n1:1 Now it came\n1:2 And the name\nAnd they came\n",
        "Jude": "The Book of Jude\n\n1 Jude\n",
    }


def test_a_page_as_it_is_read() -> None:
    page = """<!DOCTYPE html><html><head><title>Hidden</title><style>p {}</style></head><body>
      <h1>Title &amp; more</h1><p>One  <b>bold</b>\n word<br>next &lt;line&gt;</p>
      <script>if (a < b) hidden()</script>
      <pre>  kept\n    as it is</pre><ul><li>a</li><li>b</ul></body></html>"""
    assert texts("html", {"a": page.encode()}) == {
        "a": "Title & more\n\nOne bold word\nnext <line>\n\n  kept\n    as it is\n\na\n\nb\n"
    }


ARTICLE = """{{Infobox|name=x}}'''Alpha''' is a [[letter (alphabet)|letter]], see [[Beta]].<ref>Book, p. 3</ref>

== History ==
[[File:a.png|thumb|A [[picture]] of it]]It &amp; others.
=== Old ===
{| class="wikitable"
| cell
|}
Done: <math>x^2</math>.
[[Category:Letters]]
"""


def test_articles_with_and_without_markup() -> None:
    pages = [("Alpha", 0, ARTICLE), ("Talk:Alpha", 1, "no article"), ("Alfa", 0, "#REDIRECT [[Alpha]]")]
    dump = {"dump.bz2": made.wikipedia(pages, redirects=("Alfa",))}
    assert texts("wiki_markup", dump) == {"Alpha": ARTICLE}
    lines = [line for line in texts("wiki_text", dump)["Alpha"].split("\n") if line]
    assert lines == [
        " = Alpha = ",
        "Alpha is a letter, see Beta.",
        " = = History = = ",
        "It & others.",
        " = = = Old = = = ",
        "Done: .",
    ]


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"r_books"}))
def test_what_is_not_of_the_format(format: str) -> None:
    with pytest.raises(UNREADABLE):
        texts(format, {"a": b"\xff\xfe no such format"})


@given(st.lists(st.tuples(st.sampled_from(sorted(RULE)), st.text("ab $\n", max_size=30)), min_size=1, max_size=6))
def test_sections_of_a_database_are_all_of_it(parts: list[tuple[str, str]]) -> None:
    parts[0] = "part", parts[0][1]
    own = [f"$(\n{RULE[kind]}\n   Heading {n}\n{RULE[kind]}\n$)\n{text}\n" for n, (kind, text) in enumerate(parts)]
    drafts = f"$(\n{RULE['part']}\n  USER'S MATHBOXES\n{RULE['part']}\n$)\nmore\n"
    preface = f"$( Preface $)\n$(\n{RULE['section']}\n  Contents\n{RULE['section']}\n$)\n"
    found = texts("metamath", {"set.mm": (preface + "".join(own) + drafts).encode()})
    assert found == {f"Heading {number}": text for number, text in enumerate(own)}
    found = texts("metamath", {"set.mm": (preface + "".join(own)).encode()})
    assert "".join(found.values()) == "".join(own)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=3), st.text(max_size=9)), max_size=9), st.integers(0, 20))
def test_joined_texts_are_long_and_all_there(given_texts: list[tuple[str, str]], size: int) -> None:
    joined = list(_joined(iter(given_texts), size))
    assert "".join(text for _, text in joined) == "".join(text for _, text in given_texts)
    if len(joined) > 1:
        assert all(len(text.encode()) >= size for _, text in joined)
    if size == 0:
        assert joined == given_texts
