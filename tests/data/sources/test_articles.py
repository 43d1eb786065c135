"""WikiText's articles, from lines and from rows."""

from pathlib import Path

from memexp.config.sources import ArticlesOptions
from memexp.data.sources import Articles

from .books import refused, write_rows

WIKI = "".join(
    f" {line} \n" if line else " \n"
    for line in (
        "",
        "= First =",
        "",
        "Text of the first , with <unk> and 1 @,@ 000 .",
        "",
        "= = Section = =",
        "",
        "= not a heading =",
        "More\u00a0text   with spaces .",
        "= nor this =",
        "",
        "= Second =",
        "",
        "Its text .",
    )
)


def articles(path: Path) -> Articles:
    return Articles(ArticlesOptions(sets=[], fields={"text": ["text"]}, licence="x", instead="wiki"), str(path))


def test_articles_are_documents_and_come_alike_from_lines_and_rows(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "lines" / f"wiki.{split}.raw").write_text(WIKI.replace("First", split))
        # As the hub has it: a line a row, blank ones empty; cut into two files within an article.
        lines = WIKI.replace("First", split).splitlines(keepends=True)
        rows = [{"text": line if line.strip() else ""} for line in lines]
        name = "validation" if split == "valid" else split
        write_rows(tmp_path / "rows" / f"{name}-00000-of-00002.parquet", rows[:4])
        write_rows(tmp_path / "rows" / f"{name}-00001-of-00002.parquet", rows[4:])
    documents = list(articles(tmp_path / "lines"))
    assert [(document.id, document.split) for document in documents] == [
        (f"{split}:{number} {title}", split)
        for split in ("test", "train", "valid")
        for number, title in ((1, split), (2, "Second"))
    ]
    assert "".join(str(document.text) for document in documents[:2]) == WIKI.replace("First", "test")
    assert documents[1].text == " = Second = \n \n Its text . \n"
    assert sorted(articles(tmp_path / "rows")) == sorted(documents)


def test_lines_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "wiki.test.raw").write_bytes(b" = A = \n\n\xff\n")
    assert "wiki.test.raw is not UTF-8" in refused(articles(tmp_path))
