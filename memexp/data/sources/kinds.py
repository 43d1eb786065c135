"""What a file of a user's is, known by its content: how it is compressed, and whether it holds rows or is a text."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from memexp.data.sources.places import open_file, reading
from memexp.errors import UserError
from memexp.terminal import escape

TEXT, LINES, ARRAY, PARQUET, ARROW = "text", "JSON lines", "a JSON array", "Parquet", "Arrow"
ARCHIVES = ZIP, TAR = "a zip archive", "a tar archive"
OBJECT = "text that is JSON"

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""How a file is compressed, by the end of its name; its first bytes count more."""

MAGIC: dict[str, Callable[[bytes], bool]] = {
    "gzip": lambda head: head.startswith(b"\x1f\x8b\x08"),
    "bzip2": lambda head: head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"),
    "xz": lambda head: head.startswith(b"\xfd7zXZ\0"),
    "zstd": lambda head: head.startswith(b"\x28\xb5\x2f\xfd") or (0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18"),
}  # fmt: skip
"""Whether a file is compressed in this way, by its first bytes, of which there is one at least."""

JSON = (".json", ".ndjson")
"""Endings of files that hold JSON of any form."""

FIRST = 100
"""Lines of such a file that are looked at for a row."""

HEAD = 512
LONGEST = 1 << 30
"""Bytes that a line or a text may have that comes out of a compressed file: what is longer would fill the memory."""


class Kind(NamedTuple):
    """What a file is."""

    form: str
    packed: str = ""

    @property
    def rows(self) -> bool:
        """Whether a document stands in each row."""
        return self.form in (LINES, ARRAY, PARQUET, ARROW)

    def __str__(self) -> str:
        form = TEXT if self.form == OBJECT else self.form
        return f"{form}, {self.packed}" if self.packed else form


def kind_of(file: Path, names: Sequence[str], *, rows: bool = False) -> Kind:
    """What a file is.

    A text whose first line is a JSON object counts as JSON lines if the object has one of the fields, or if the second line
    is an object too; a JSON array of objects counts if the first object has one.

    Args:
        names: the fields that are looked for.
        rows: whether the end of its name says that it holds JSON, as rows.

    Raises:
        UserError: it cannot be read.
    """
    with reading(file), open_file(file) as raw:
        head = raw.read(HEAD)
        packed = _packed(file, head)
        if not packed:
            form = _binary(raw, head, file)
            if form:
                return Kind(form)
    if named_lines(file):
        return Kind(LINES, packed)
    with reading(file), unpacked(file, packed) as content:
        head = content.read(HEAD)
        if form := _archive(head):
            return Kind(form, packed)
        form = _json(head, content, names, rows)
    if form == TEXT and file.name.removesuffix(file.suffix if packed else "").endswith(JSON):
        with reading(file), closing(lines_of(file, packed)) as lines:  # the first rows may be damaged
            if any(isinstance(row := _parsed(line), dict) and _has(row, names) for line in islice(lines, FIRST)):
                form = LINES
    return Kind(form, packed)


def named_lines(file: Path) -> bool:
    """Whether the end of a file's name says that it holds JSON lines."""
    return file.name.removesuffix(file.suffix if file.suffix in PACKED else "").endswith(".jsonl")


@contextmanager
def unpacked(file: Path, packed: str) -> Iterator[IO[bytes]]:
    """The content of a file, unpacked while it is read."""
    with open_file(file) as raw:
        if not packed:
            yield raw
            return
        with OPENERS[packed](raw) as content:
            yield content


def _zstd(raw: IO[bytes]) -> Any:
    import pyarrow

    # Unlike other readers it raises an error if the file is cut off.
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))


OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=raw),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _zstd,
}


def lines_of(file: Path, packed: str) -> Generator[bytes]:
    """The lines of a file, without a byte order mark at its start.

    Raises:
        UserError: it cannot be read, is cut off, or holds a line that is too long to be one.
    """
    with reading(file), unpacked(file, packed) as content:
        first = True
        while line := content.readline(LONGEST if packed else -1):
            if packed and len(line) >= LONGEST:
                raise too_long(file, "a line")
            yield line.removeprefix(b"\xef\xbb\xbf") if first else line
            first = False


def whole(file: Path, packed: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: it cannot be read, is cut off, or is too long when it is unpacked.
    """
    with reading(file), unpacked(file, packed) as content:
        data = content.read(LONGEST if packed else -1)
    if packed and len(data) >= LONGEST:
        raise too_long(file, "a text")
    return data


def expand(data: bytes, packed: str) -> bytes:
    """Bytes that are compressed, unpacked.

    Raises:
        ValueError: they become too many; other errors if they are cut off or damaged.
    """
    with OPENERS[packed](io.BytesIO(data)) as content:
        found: bytes = content.read(LONGEST)
    if len(found) >= LONGEST:
        raise ValueError(f"it unpacks to more than {LONGEST >> 20:,} MiB")
    return found


def too_long(file: Path, what: str) -> UserError:
    """The error for a compressed file that would fill the memory."""
    return UserError(
        f"{escape(file)} unpacks to {what} of more than {LONGEST >> 20:,} MiB; expected less. Likely cause: it is no text; unpack "
        "it first if it is"
    )


def mixture(found: Sequence[Kind]) -> dict[str, Any]:
    """For the manifest: how many files there are of each kind, under `kinds`; nothing if all are of one kind."""
    counts = count_kinds(found)
    return {"kinds": counts} if len(counts) > 1 else {}


def count_kinds(kinds: Sequence[Kind]) -> dict[str, int]:
    """How many files there are of each kind, the most frequent first."""
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[str(kind)] = counts.get(str(kind), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _packed(file: Path, head: bytes) -> str:
    found = next((name for name, fits in MAGIC.items() if head and fits(head)), "")
    if not found and (named := PACKED.get(file.suffix)) and not head.lstrip().startswith((b"{", b"[")):
        return named  # so that its own reader says what is wrong with it
    return found


def _binary(raw: IO[bytes], head: bytes, file: Path) -> str:
    """The form of a file that is no text and not compressed; empty if it may be text."""
    if file.suffix == ".parquet":
        return PARQUET
    if head.startswith(b"PAR1"):
        raw.seek(-4, os.SEEK_END)
        return PARQUET if raw.read() == b"PAR1" else ""
    if head.startswith(b"ARROW1\0\0") or (head.startswith(b"\xff\xff\xff\xff") and head[6:8] == b"\0\0"):
        return ARROW
    return _archive(head)


def _archive(head: bytes) -> str:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZIP
    return TAR if head[257:262] == b"ustar" and b"\0" in head[:257] else ""


def _after(head: bytes, content: IO[bytes]) -> IO[bytes]:
    """What is left of a stream, with what was read of it before it."""

    class Joined(io.RawIOBase):
        def __init__(self) -> None:
            self._head = head

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data = self._head[: len(buffer)] or content.read(len(buffer))
            self._head = self._head[len(buffer) :]
            buffer[: len(data)] = data
            return len(data)

    return io.BufferedReader(Joined())


def _json(head: bytes, content: IO[bytes], names: Sequence[str], rows: bool) -> str:
    """Whether a text holds rows: JSON lines, an array, or neither.

    Args:
        head: what was read of `content`.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if rows:
        return ARRAY if start == b"[" else LINES
    if start not in (b"{", b"["):
        return TEXT
    content = _after(head, content)
    first = _line(content)
    if start == b"{":
        row = _parsed(first)
        if isinstance(row, dict):
            return LINES if _has(row, names) or isinstance(_parsed(_line(content)), dict) else OBJECT
        row = _parsed(first + content.read(LONGEST))
        if isinstance(row, dict):
            return OBJECT if _has(row, names) else TEXT
    if start == b"[":
        # Some rows may be damaged, and the end may be cut off.
        found = [each for each in _elements(first + content.read(LONGEST)) if isinstance(each, dict)]
        if found:
            return ARRAY if any(_has(each, names) for each in found) else OBJECT
    return TEXT


def _line(content: IO[bytes]) -> bytes:
    """The next line that is not blank; empty at the end."""
    while line := content.readline(LONGEST):
        if line.strip(b"\xef\xbb\xbf \t\r\n"):
            return line
    return b""


def _elements(text: bytes) -> list[Any]:
    """The first elements of an array, up to what is no JSON; none if it begins otherwise."""
    words, decoder = text.decode("utf-8-sig", "replace"), json.JSONDecoder()
    found: list[Any] = []
    place = words.index("[") + 1
    try:
        while len(found) < FIRST:
            place = SPACE.match(words, place).end()  # type: ignore[union-attr]
            element, place = decoder.raw_decode(words, place)
            found.append(element)
            place = SPACE.match(words, place).end()  # type: ignore[union-attr]
            if words[place : place + 1] != ",":
                break
            place += 1
    except (ValueError, RecursionError):
        pass
    return found


SPACE = re.compile(r"\s*")


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def _has(row: dict[str, Any], names: Sequence[str]) -> bool:
    tops = {part.partition(".")[0] for name in names for part in name.split("/")}
    return bool(row.keys() & ({*names} | tops))
