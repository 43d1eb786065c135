"""Reads the rows of a file (JSON lines, a JSON array, Parquet or Arrow, also compressed) and the fields of a row."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from memexp.data.sources import kinds
from memexp.data.sources.kinds import Kind
from memexp.data.sources.notes import ROWS_LEFT_OUT, Notes
from memexp.data.sources.places import open_file, unreadable
from memexp.errors import UserError, did_you_mean
from memexp.terminal import escape

__all__ = [
    "JSON",
    "LINES",
    "TABLES",
    "BadRow",
    "BadRows",
    "field",
    "label_field",
    "read_rows",
    "text_field",
    "unreadable",
]

_ENDINGS = ("", *kinds.PACKED)

LINES = tuple(f".jsonl{packed}" for packed in _ENDINGS)
"""Endings of files with a JSON object in each line."""

JSON = tuple(f"{ending}{packed}" for ending in kinds.JSON for packed in _ENDINGS)
"""Endings of files with a JSON object in each line, or with one array of objects."""

TABLES = (".parquet", ".arrow")

SHOWN = 20
"""The number of fields that a message names."""

BATCH = 16
"""Rows that are read at a time; few, because a row can be a book."""

MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""How files of other encodings begin. Longer marks come first, because they begin with the shorter ones."""


class BadRow(UserError):
    """A row that cannot be used; others in its file may be sound."""


class BadRows:
    """What becomes of rows that cannot be used, as data.source.bad_rows says."""

    def __init__(self, bad_rows: str, notes: Notes) -> None:
        """
        Args:
            bad_rows: refuse or skip.
            notes: where rows are counted that are left out.
        """
        self._skip, self._notes = bad_rows == "skip", notes

    def __call__(self, error: BadRow) -> None:
        """Leave the row out and count it, or refuse it.

        Raises:
            UserError: the row is refused.
        """
        if not self._skip:
            raise BadRow(
                f"{error}{'' if str(error).endswith('?') else '.'} With data.source.bad_rows=skip such rows are left out and counted"
            ) from error
        self._notes.add(ROWS_LEFT_OUT, str(error).partition("; expected")[0])


def read_rows(file: Path, kind: Kind, names: Sequence[str], bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a file, after its place for messages, such as `line 3` or `row 3`.

    Args:
        kind: the file's, which has rows.
        names: the fields that are needed; other columns of a table are not read. `a.b` is field b of field a, unless a field
            is called so.
        bad: is told of rows that cannot be read.

    Raises:
        UserError: the file cannot be read, is cut off, or a row that is not left out is no object.
    """
    if kind.form in (kinds.PARQUET, kinds.ARROW):
        return _table_rows(file, kind.form, names, bad)
    return _array(file, kind.packed, names, bad) if kind.form == kinds.ARRAY else _lines(file, kind.packed, names, bad)


def field(row: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of the fields that the row has; None if it has none.

    In `meta.path`, meta can be an object or text with its JSON. `owner/name` means both fields, joined with a slash.
    """
    for name in names:
        values = [row[name]] if name in row else [_one(row, part) for part in name.split("/")]
        if None not in values:
            return values[0] if len(values) == 1 else "/".join(map(str, values))
    return None


def _one(row: dict[str, Any], name: str) -> Any:
    if name in row:  # a name with a dot in it
        return row[name]
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
        BadRow: it is not text, contains a NUL character or half of a surrogate pair, or is missing.
    """
    value = field(row, names)
    if isinstance(value, bytes):  # a column without the mark that it is text
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRow(
                f"{where} has bytes that are not UTF-8 at offset {error.start}; expected text in {_or(names)}, or another field "
                f"in {setting}"
            ) from error
    if isinstance(value, str):
        refuse_unsound(value, where)
        return value
    seen = f"has {_or(names)} of type {type(value).__name__}" if value is not None else f"has {_fields(row, names)}"
    meant = "" if value is not None else _meant(names, row)
    raise BadRow(f"{where} {seen}; expected text in {_or(names)}, or another field in {setting}{meant}")


def refuse_unsound(text: str, where: str) -> None:
    """Refuse text with signs that no text has.

    Raises:
        BadRow: it contains a NUL character or half of a surrogate pair.
    """
    if "\0" in text:
        raise BadRow(
            f"{where} has a NUL character at {text.index(chr(0))}; expected text. Likely cause: a damaged source"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            f"{where} has half of a surrogate pair at character {error.start}; expected Unicode text. Likely cause: it was cut "
            "inside an escaped character"
        ) from error


def label_field(row: dict[str, Any], name: str, *, where: str) -> str:
    """The class in a field, as text: a number, true and false are written out.

    Raises:
        BadRow: it is something else, or missing.
    """
    value = field(row, [name])
    if not isinstance(value, str | int):
        seen = f"has {name!r} of type {type(value).__name__}" if value is not None else f"has {_fields(row, [name])}"
        meant = "" if value is not None else _meant([name], row)
        raise BadRow(
            f"{where} {seen}; expected a class in {name!r} (text, a whole number, true or false), or another field in "
            f"data.source.label{meant}"
        )
    label = str(value).lower() if isinstance(value, bool) else str(value)
    refuse_unsound(label, where)
    return label


def _or(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def _meant(names: Sequence[str], known: Iterable[str]) -> str:
    """The names that could have been meant; empty if one is there already, with nothing in it."""
    listed = [name for name in known if isinstance(name, str)]
    if isinstance(known, dict):
        listed += [f"{name}.{inner}" for name, value in known.items() if isinstance(value, dict) for inner in value]
    return "" if {*names} & {*listed} else next(filter(None, (did_you_mean(name, listed) for name in names)), "")


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _fields(row: dict[str, Any], names: Sequence[str]) -> str:
    empty = [name for name in names if name in row]
    shown = [escape(name) for name in sorted(row)[:SHOWN]]
    listed = f"the fields {', '.join(shown)}{', ...' if len(row) > SHOWN else ''}" if row else "no fields"
    return f"nothing in {empty[0]!r}" if empty else listed


class _Twice(dict[str, Any]):
    """An object in which a name stands more than once."""

    names: frozenset[str] = frozenset()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    twice = _Twice(row)
    names = [name for name, _ in pairs]
    twice.names = frozenset(name for name in row if names.count(name) > 1)
    return twice


def _decoded(data: bytes) -> Any:
    return json.loads(data.decode("utf-8"), object_pairs_hook=_pairs)


def _lines(file: Path, packed: str, names: Sequence[str], bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Blank lines are skipped."""
    for number, line in enumerate(kinds.lines_of(file, packed), start=1):
        if number == 1:
            refuse_mark(file, line)
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = _row(file, where, line, names)
        except BadRow as error:
            bad(error)
        else:
            yield where, row


def refuse_mark(file: Path, head: bytes, remedy: str = "convert it") -> None:
    """Refuse a file that says in its first bytes that it is not UTF-8.

    Raises:
        UserError: it does.
    """
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            raise UserError(f"{escape(file)} is {encoding}, as its first bytes say; expected UTF-8: {remedy}")


def _array(file: Path, packed: str, names: Sequence[str], bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    content = kinds.whole(file, packed)
    refuse_mark(file, content)
    try:
        rows = _decoded(content.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{escape(file)} is not JSON: {_reason(error)}; expected an array of objects, or one object a line. Likely cause: it was "
            "cut off"
        ) from error
    if not isinstance(rows, list):
        rows = [rows]
    for number, row in enumerate(rows, start=1):
        where = f"row {number}"
        try:
            checked = _checked(file, where, row, names)
        except BadRow as error:
            bad(error)
        else:
            yield where, checked


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else escape(error)


def _row(file: Path, where: str, line: bytes, names: Sequence[str]) -> dict[str, Any]:
    try:
        return _checked(file, where, _decoded(line), names)
    except UnicodeDecodeError as error:
        raise BadRow(
            f"{escape(file)}, {where} is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start} of the line; "
            "expected JSON in UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadRow(
            f"{escape(file)}, {where} is not JSON: {_reason(error)}; expected one object a line. Likely cause: JSON over many "
            "lines, or a file that was cut off"
        ) from error


def _checked(file: Path, where: str, row: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(row, dict):
        shown = json.dumps(row)[:30] if row is None or isinstance(row, str | int | float) else f"a {type(row).__name__}"
        raise BadRow(f"{escape(file)}, {where} is not a JSON object but {shown}; expected an object with named fields")
    for part in [part for name in names for part in (name, *name.split("/"))] if _has_twice(row) else ():
        inside: Any = row
        for step in (part,) if part in row else part.split("."):
            if isinstance(inside, _Twice) and step in inside.names:
                raise BadRow(f"{escape(file)}, {where} has {step!r} more than once; expected each field once")
            inside = inside.get(step) if isinstance(inside, dict) else None
    return row


def _has_twice(row: Any) -> bool:
    """Whether the object, or one directly in it, names a field more than once."""
    return isinstance(row, _Twice) or any(isinstance(value, dict) for value in row.values())


def _table_rows(file: Path, form: str, names: Sequence[str], bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow

    number = 0
    try:
        with ExitStack() as stack:
            for batch in _batches(file, form, names, stack):
                for row in _values(batch):
                    number += 1
                    where = f"row {number}"
                    if isinstance(row, dict):
                        yield where, row
                        continue
                    bad(BadRow(f"{escape(file)}, {where} cannot be read: {escape(row)}; expected text"))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"cannot read {escape(file)}: {(str(error).splitlines() or [type(error).__name__])[0]}; expected "
            f"{'a Parquet' if form == kinds.PARQUET else 'an Arrow'} file"
        ) from error


def _batches(file: Path, form: str, names: Sequence[str], stack: ExitStack) -> Iterator[Any]:
    """Some rows at a time, with the columns that are needed."""
    import pyarrow
    import pyarrow.parquet

    opened = stack.enter_context(open_file(file))
    if form == kinds.PARQUET:
        table = stack.enter_context(pyarrow.parquet.ParquetFile(opened))
        columns = _columns(file, table.schema_arrow.names, names)
        yield from table.iter_batches(batch_size=BATCH, columns=columns)
        return
    stream = opened.read(1) == b"\xff"
    opened.seek(0)
    reader = stack.enter_context(pyarrow.ipc.open_stream(opened) if stream else pyarrow.ipc.open_file(opened))
    columns = _columns(file, reader.schema.names, names)
    for batch in reader if stream else map(reader.get_batch, range(reader.num_record_batches)):
        for start in range(0, batch.num_rows, BATCH):
            yield batch.slice(start, BATCH).select(columns)


def _columns(file: Path, columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns that are needed: each by its own name, else by what stands before the first dot."""
    parts = {part for name in names for part in (name, *name.split("/"))}
    needed = {part if part in columns else part.partition(".")[0] for part in parts}
    found = [name for name in columns if name in needed]
    if not found:
        shown = [escape(name) for name in columns[:SHOWN]]
        raise UserError(
            f"{escape(file)} has the columns {', '.join(shown)}{', ...' if len(columns) > SHOWN else ''}; expected {_or(sorted(names))}, "
            f"or another named in data.source{_meant(names, columns)}"
        )
    if len({*found}) < len(found):
        raise UserError(f"{escape(file)} has several columns called {_or(sorted({*found}))}; expected one of each name")
    return found


def _values(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """The rows of a batch; for one that cannot be read, why not."""
    import pyarrow

    unusable = (ValueError, OverflowError, pyarrow.ArrowException)
    try:
        yield from batch.to_pylist()
        return
    except unusable:
        pass
    for number in range(batch.num_rows):
        try:
            yield batch.slice(number, 1).to_pylist()[0]
        except unusable as error:
            yield error
