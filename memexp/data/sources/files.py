"""A user's own text: a file, or a folder of text, JSON lines and Parquet files."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from memexp.data.sources.document import Document
from memexp.errors import UserError
from memexp.files import checksum

ROWS = (".jsonl", ".jsonl.gz", ".parquet")
"""Files of these suffixes hold a document a row; any other file is a document, and must be UTF-8."""


class Files:
    """A document for each text file, each line of a .jsonl or .jsonl.gz file and each row of a .parquet file.

    Files are read in the order of their names, hidden ones left out. Every document is a group of its own.
    """

    def __init__(self, *, path: str | None = None, suffixes: list[str] | None = None, field: str = "text") -> None:
        """
        Args:
            path: the file, or the folder that is searched with all folders below it.
            suffixes: the files to take, such as [.txt, .md]; by default all.
            field: where a row's text stands, in JSON lines and Parquet files.

        Raises:
            UserError: there is no such path, or no such file in it.
        """
        if path is None:
            raise UserError(
                "data.path is not given; expected the file or folder to read, as in data=text data.path=DIR"
            )
        self._path = Path(path).expanduser()
        self._field = field
        self._suffixes = tuple(suffixes or [])
        if not self._path.exists():
            raise UserError(
                f"data.path is {path}, which does not exist; expected a file or a folder (seen from {Path.cwd()})"
            )
        self._files = [self._path] if self._path.is_file() else self._search(self._path)
        if not self._files:
            kinds = f"file that ends in {' or '.join(self._suffixes)}" if self._suffixes else "file that is not hidden"
            raise UserError(f"data.path is {path}, a folder without any {kinds}; expected documents in it")

    def _search(self, root: Path) -> list[Path]:
        found = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(folder, name) for name in names if not name.startswith(".")]
        return sorted(file for file in found if not self._suffixes or file.name.endswith(self._suffixes))

    def _name(self, file: Path) -> str:
        return file.name if file == self._path else file.relative_to(self._path).as_posix()

    def __iter__(self) -> Iterator[Document]:
        for file in self._files:
            name = self._name(file)
            if not file.name.endswith(ROWS):
                yield Document(name, name, _text(file))
                continue
            rows = _parquet_rows(file, self._field) if file.suffix == ".parquet" else _json_rows(file, self._field)
            for number, text in rows:
                yield Document(f"{name}:{number}", f"{name}:{number}", text)

    @cached_property
    def _checksums(self) -> dict[str, str]:
        try:
            return {self._name(file): checksum(file) for file in self._files}
        except OSError as error:
            raise _unreadable(Path(error.filename), error) from error

    def describe(self) -> dict[str, Any]:
        """The files with their checksums; of their licences nothing is known."""
        part = {"name": str(self._path), "version": f"{len(self._files)} files", "licence": "not stated"}
        return {"what": "files", "parts": [part], "absent": [], "files": self._checksums}

    def identity(self) -> Any:
        """Names and contents, so that a folder that has changed is prepared anew."""
        return {"field": self._field, "files": self._checksums}


def _unreadable(file: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"cannot read {file}: {reason}; expected a file of documents that can be read")


def _text(file: Path) -> str:
    """A whole file as it stands: no line end is changed."""
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; expected text. Likely "
            "cause: another encoding or no text at all; convert it, or name the files to take with "
            "data.source.suffixes=[.txt]"
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error


def _json_rows(file: Path, field: str) -> Iterator[tuple[int, str]]:
    """Line number, from 1, and text of each line; blank lines are passed over."""
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _json_text(file, number, line, field)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a .gz that is cut off or damaged
        raise _unreadable(file, error) from error


def _json_text(file: Path, number: int, line: bytes, field: str) -> str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}, line {number} is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start} of the line; "
            "expected JSON in UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{file}, line {number} is not JSON: {error}; expected one object a line. Likely cause: JSON over many lines, "
            "or a file that was cut off"
        ) from error
    if not isinstance(row, dict):
        raise UserError(
            f"{file}, line {number} is no JSON object but {line[:30]!r}; expected one with a field {field!r}"
        )
    text = row.get(field)
    if not isinstance(text, str):
        seen = (
            f"has {field!r} of type {type(text).__name__}"
            if field in row
            else f"has the fields {', '.join(sorted(row))}"
        )
        raise UserError(
            f"{file}, line {number} {seen}; expected text in {field!r}, or another field in data.source.field"
        )
    return text


def _parquet_rows(file: Path, field: str) -> Iterator[tuple[int, str]]:
    """Row number, from 1, and text of each row."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if field not in columns:
            raise UserError(
                f"{file} has the columns {', '.join(columns)}; expected {field!r}, or another in data.source.field"
            )
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                if not isinstance(text, str):
                    raise UserError(f"{file}, row {number} holds {type(text).__name__} in {field!r}; expected text")
                yield number, text
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {str(error).splitlines()[0]}; expected a Parquet file") from error
