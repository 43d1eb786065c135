"""Reads the rows of a file (JSON lines, a JSON array or Parquet, also compressed) and the fields of a row."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from memexp.errors import UserError

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""Endings of files with a JSON object in each line."""

JSON = (".json", ".json.gz", ".json.zst")
"""Endings of files with a JSON object in each line, or with one array of objects."""

TABLES = (".parquet",)

BATCH = 16
"""Rows that are read at a time; few, because a row can be a book."""


def read_rows(file: Path, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a file, after its place for messages, such as `line 3` or `row 3`.

    Args:
        file: its ending is in LINES, JSON or TABLES.
        names: the fields that are needed; other columns of a Parquet file are not read. `a.b` is field b of field a.

    Raises:
        UserError: the file cannot be read, is cut off, or a line is not a JSON object.
    """
    if file.name.endswith(TABLES):
        return _parquet_rows(file, {name.partition(".")[0] for name in names})
    return _json_rows(file)


def field(row: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of the fields that the row has; None if it has none.

    In `meta.path`, meta can be an object or text with its JSON. `owner/name` means both fields, joined with a slash.
    """
    for name in names:
        values = [_one(row, part) for part in name.split("/")]
        if None not in values:
            return values[0] if len(values) == 1 else "/".join(map(str, values))
    return None


def _one(row: dict[str, Any], name: str) -> Any:
    value: Any = row
    for part in name.split("."):
        value = _object(value).get(part)
    return value


def text_field(row: dict[str, Any], names: Sequence[str], *, where: str, setting: str) -> str:
    """The first of the fields that the row has, which must be text.

    Args:
        where: the file and the row, for the message.
        setting: the setting that could name other fields, for the message.

    Raises:
        UserError: it is not text, contains a NUL character, or is missing.
    """
    value = field(row, names)
    if isinstance(value, str):
        if "\0" in value:
            raise UserError(
                f"{where} has a NUL character at {value.index(chr(0))}; expected text. Likely cause: a damaged source"
            )
        return value
    expected = " or ".join(map(repr, names))
    seen = f"has {expected} of type {type(value).__name__}" if value is not None else f"has {_fields(row, names)}"
    raise UserError(f"{where} {seen}; expected text in {expected}, or another field in {setting}")


def label_field(row: dict[str, Any], name: str, *, where: str) -> str:
    """The class in a field, as text: a number, true and false are written out.

    Raises:
        UserError: it is something else, or missing.
    """
    value = field(row, [name])
    if not isinstance(value, str | int):
        seen = f"has {name!r} of type {type(value).__name__}" if value is not None else f"has {_fields(row, [name])}"
        raise UserError(
            f"{where} {seen}; expected a class in {name!r} (text, a whole number, true or false), or another field in "
            "data.source.label"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


def unreadable(file: Path, error: Exception) -> UserError:
    """The error for a file that cannot be read or is damaged."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return UserError(f"cannot read {file}: {reason}; expected a file of documents that can be read")


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _fields(row: dict[str, Any], names: Sequence[str]) -> str:
    empty = [name for name in names if name in row]
    return f"nothing in {empty[0]!r}" if empty else f"the fields {', '.join(sorted(row))}"


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Blank lines are skipped."""
    try:
        with _opened(file) as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 and line.lstrip().startswith(b"[") and file.name.endswith(JSON):
                    yield from _array(file, line + lines.read())
                    return
                if line.strip():
                    where = f"line {number}"
                    yield where, _row(file, where, line)
    except (OSError, EOFError, zlib.error) as error:  # a compressed file that is cut off or damaged
        raise unreadable(file, error) from error


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if file.suffix == ".zst":
        import io

        import pyarrow

        # Unlike other readers it raises an error if the file is cut off.
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd"))
    return file.open("rb")


def _array(file: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise UserError(
            f"{file} is not JSON: {error}; expected an array of objects, or one object a line. Likely cause: it was cut off"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", _checked(file, f"row {number}", row)


def _row(file: Path, where: str, line: bytes) -> dict[str, Any]:
    try:
        return _checked(file, where, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}, {where} is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start} of the line; "
            "expected JSON in UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{file}, {where} is not JSON: {error}; expected one object a line. Likely cause: JSON over many lines, "
            "or a file that was cut off"
        ) from error


def _checked(file: Path, where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(
            f"{file}, {where} is not a JSON object but {json.dumps(row)[:30]}; expected an object with named fields"
        )
    return row


def _parquet_rows(file: Path, names: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            if not names & set(columns):
                expected = " or ".join(map(repr, sorted(names)))
                raise UserError(
                    f"{file} has the columns {', '.join(columns)}; expected {expected}, or another named in data.source"
                )
            number = 0
            for batch in table.iter_batches(batch_size=BATCH, columns=[name for name in columns if name in names]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {str(error).splitlines()[0]}; expected a Parquet file") from error
