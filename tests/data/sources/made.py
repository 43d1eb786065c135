"""Archives and data files in the formats of real ones, made for tests."""

import bz2
import gzip
import io
import lzma
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow

Files = Mapping[str, bytes]


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".xz": lambda data: lzma.compress(data, preset=0), ".bz2": bz2.compress, ".zst": zstd,
}  # fmt: skip


def tar(files: Files, top: str) -> bytes:
    """A tar archive of files below `top`, with a folder and a link in it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as opened:
        folder = tarfile.TarInfo(top or "./")
        folder.type = tarfile.DIRTYPE
        opened.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo(f"{top}link")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
        opened.addfile(link)
    return archive.getvalue()


def deb(path: Path, files: Files, compression: str = ".xz") -> Path:
    """A Debian package; what stands before its data has an odd length, so that it is padded."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": b"x" * 7,
        f"data.tar{compression}": COMPRESSORS[compression](tar(files, "./")),
    }
    archive = b"!<arch>\n"
    for name, data in members.items():
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(archive)
    return path


def wheel(path: Path, files: Files) -> Path:
    """A zip archive; with the right name and `metadata` a wheel."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def metadata(name: str, version: str) -> dict[str, bytes]:
    """What pip wants to see in a wheel."""
    return {
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{name}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-{version}.dist-info/RECORD": b"",
    }


def source_archive(path: Path, files: Files, top: str) -> Path:
    """A source archive with one top folder, compressed as its name says."""
    path.write_bytes(COMPRESSORS[path.suffix](tar(files, f"{top}/")))
    return path


def _integers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def _string(text: str, flags: int = 9) -> bytes:
    data = text.encode("latin-1" if flags & 1 << 14 else "utf-8")
    return _integers(flags, len(data)) + data


def _strings(texts: list[str], flags: int = 16) -> bytes:
    return _integers(flags, len(texts)) + b"".join(map(_string, texts))


def _names(names: list[str], *, first: bool) -> bytes:
    """The attribute of a value that names its parts; after its first use the symbol is a reference."""
    symbol = _integers(1) + _string("names") if first else _integers(1 << 8 | 255)
    return _integers(2 | 0x400) + symbol + _strings(names) + _integers(254)


def r_database(variables: dict[str, bytes], version: int = 2) -> tuple[bytes, bytes]:
    """R's .rdb and .rdx of variables that are serialised already."""
    header = b"X\n" + _integers(version, 0x040000, 0x020300) + (_integers(5) + b"UTF-8" if version == 3 else b"")
    database, places = b"begin", []
    for value in variables.values():
        record = _integers(len(header + value)) + zlib.compress(header + value)
        places.append((len(database), len(record)))
        database += record
    listed = _integers(19 | 0x200, len(places))
    listed += b"".join(_integers(13, 2, *place) for place in places)
    listed += _names(list(variables), first=True)
    index = _integers(19 | 0x200, 3) + listed + _integers(19, 0) + _integers(10, 1, 1)
    index += _names(["variables", "references", "compressed"], first=False)
    return database, gzip.compress(header + index)


def r_strings(lines: list[str]) -> bytes:
    """A vector of strings."""
    return _strings(lines)


def r_named_strings(lines: dict[str, str]) -> bytes:
    return _strings(list(lines.values()), 16 | 0x200) + _names(list(lines), first=True)


def r_latin1(line: str) -> bytes:
    return _integers(16, 1) + _string(line, 9 | 1 << 14)


def r_numbers(values: list[float]) -> bytes:
    return _integers(14, len(values)) + struct.pack(f">{len(values)}d", *values)


def bible(path: Path, books: dict[str, list[tuple[str, str]]]) -> bytes:
    """A database with the tables of the real one, as far as they are read."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE Books (TestamentID INT, BookID INT, ShortName TEXT, LongName TEXT)")
    database.execute("CREATE TABLE Bible (TestamentID INT, BookID INT, Passage1 TEXT, Passage2 TEXT)")
    for number, (name, passages) in enumerate(books.items()):
        database.execute("INSERT INTO Books VALUES (1, ?, ?, ?)", (number, name, f"The Book of {name}"))
        database.executemany("INSERT INTO Bible VALUES (1, ?, ?, ?)", [(number, *passage) for passage in passages])
    database.commit()
    database.close()
    return path.read_bytes()


def wikipedia(pages: list[tuple[str, int, str]], *, redirects: tuple[str, ...] = ()) -> bytes:
    """A dump of pages: title, namespace, markup."""
    text = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">\n'
    for title, namespace, markup in pages:
        redirect = '<redirect title="x" />' if title in redirects else ""
        text += f"<page><title>{escape(title)}</title><ns>{namespace}</ns>{redirect}"
        text += f"<revision><text>{escape(markup)}</text></revision></page>\n"
    return bz2.compress((text + "</mediawiki>").encode())
