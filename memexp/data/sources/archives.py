"""The files in a package, which is a .deb, a wheel or a source archive. No other program is needed."""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from memexp.data.sources.kinds import expand
from memexp.errors import UserError

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
"""Bytes: the name in the first 16, the size in decimal digits at 48, and two bytes that end it."""


DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, RuntimeError
)  # fmt: skip
"""What the readers raise; pyarrow's errors are subclasses of these, and zipfile's of an archive with a password."""

LARGEST = 1 << 31
"""Bytes of the wanted files of an archive together, at most: they are in memory."""

LONGEST = 1 << 35
"""Bytes of an archive when it is unpacked, at most: each of them is unpacked to find the next file."""


def read_archive(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The wanted files of a package by their names, sorted. Files that end in .gz are unpacked.

    Names are as in the installed system, or in a source archive as seen from its one top folder.

    Raises:
        UserError: the archive is damaged or of an unknown kind.
    """
    try:
        found = dict(sorted(_members(archive, wanted)))
        return {name: expand(data, "gzip") if name.endswith(".gz") else data for name, data in found.items()}
    except DAMAGED as error:
        raise UserError(
            f"cannot read {archive}: {error}; expected a .deb, a wheel or a source archive. Likely cause: it is damaged"
        ) from error


def _members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".deb":
        yield from _tar_members(_deb_data(archive.read_bytes()), 0, wanted)
    elif archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if wanted(member.filename)]
            _refuse_large(sum(member.file_size for member in members), LARGEST)
            for member in members:
                yield member.filename, opened.read(member)  # no more than the size that it says
    else:
        with archive.open("rb") as file:
            yield from _tar_members(file, 1, wanted)


def _tar_members(file: IO[bytes], above: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a tar archive, with names that leave out the first `above` folders."""
    size = 0
    with tarfile.open(fileobj=file, mode="r|*") as opened:
        for member in opened:
            _refuse_large(member.offset_data + member.size, LONGEST)
            name = "/".join(member.name.removeprefix("./").split("/")[above:])
            if member.isfile() and wanted(name):
                content = opened.extractfile(member)
                assert content is not None  # it is a file
                size += member.size
                _refuse_large(size, LARGEST)
                yield name, content.read()


def _refuse_large(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it unpacks to {size:,} bytes or more, and {limit:,} at most are read")


def _deb_data(deb: bytes) -> IO[bytes]:
    """The tar archive of installed files inside of a .deb, which is an `ar` archive."""
    import pyarrow

    if not deb.startswith(AR_MAGIC):
        raise ValueError("it is no ar archive")
    start = len(AR_MAGIC)
    while start < len(deb):
        header = deb[start : start + AR_HEADER]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        content = deb[start + AR_HEADER : start + AR_HEADER + size]
        if name == "data.tar.zst":  # Ubuntu's; the standard library of Python 3.11 has no zstd
            return pyarrow.input_stream(pyarrow.py_buffer(content), compression="zstd")
        if name.startswith("data.tar"):
            return io.BytesIO(content)
        start += AR_HEADER + size + size % 2
    raise ValueError("it has no data.tar")
