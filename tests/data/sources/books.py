"""A data set of four books for tests, and its rows on disk in every form."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from memexp.config.sources import TextsOptions
from memexp.data.sources import Source, Texts
from memexp.errors import UserError

from ...messages import says


def texts(path: Path | None = None, **options: Any) -> Texts:
    """A source of one data set, `owner/books`, whose text is in `text`."""
    values = {"sets": [{"path": "owner/books"}], "fields": {"text": ["text"]}, "licence": "CC0", "instead": "books"}
    return Texts(TextsOptions(**{**values, **options}), None if path is None else str(path))


def refused(source: Source, *words: str) -> str:
    """The one line, with all of these words in it, that reading ends with."""
    with pytest.raises(UserError, check=says(*words)) as error:
        list(source)
    return str(error.value)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the form that the file's name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".zst":
        path.write_bytes(pyarrow.compress(lines, codec="zstd", asbytes=True))
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


BOOKS = {
    "train": ["Moby\r\n Dick", "Emma"],
    "validation": ["Ulysses"],
    "test": ["Walden"],
}


def book_rows(split: str) -> list[dict[str, Any]]:
    return [
        {"short_book_title": f"{text[:4]} Title", "publication_date": 1850, "url": "http://x", "text": text}
        for text in BOOKS[split]
    ]
