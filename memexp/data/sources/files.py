"""A user's own text: a file, or a folder of text, JSON lines and Parquet files."""

import codecs
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from memexp.config.sources import FilesOptions
from memexp.data.sources.document import Document
from memexp.data.sources.rows import LINES, TABLES, label_field, read_rows, text_field, unreadable
from memexp.errors import UserError
from memexp.files import checksum

ROWS = LINES + TABLES
"""Files with these endings have a document in each row. Any other file is a document and must be UTF-8."""

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""How files of other encodings begin. Longer marks come first, because they begin with the shorter ones."""


NAMED = 20
"""The number of files that an error names."""


class Files:
    """A document for each text file, each line of a .jsonl, .jsonl.gz or .jsonl.zst file and each row of a .parquet file.

    Files are read in the order of their names, without hidden files. Every document is a group of its own. A NUL byte
    is refused, because it often means text of another encoding.
    """

    def __init__(self, options: FilesOptions, path: str | None) -> None:
        """
        Args:
            path: a file, or a folder, which is read with all folders in it.

        Raises:
            UserError: there is no such path, or no file to read in it.
        """
        if path is None:
            raise UserError(
                "data.path is not given; expected the file or folder to read, as in data=text data.path=DIR"
            )
        self._path = Path(path).expanduser()
        self._field, self._label = options.field, options.label
        suffixes = tuple(options.suffixes)
        if not self._path.exists():
            raise UserError(
                f"data.path is {path}, which does not exist; expected a file or a folder (seen from {Path.cwd()})"
            )
        self.files = [self._path] if self._path.is_file() else search(self._path, suffixes)
        if not self.files:
            kinds = f"file that ends in {' or '.join(suffixes)}" if suffixes else "file that is not hidden"
            raise UserError(f"data.path is {path}, a folder without any {kinds}; expected documents in it")

    def name(self, file: Path) -> str:
        """The path of a file in the folder."""
        return file.name if file == self._path else file.relative_to(self._path).as_posix()

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            name = self.name(file)
            if not file.name.endswith(ROWS):
                yield Document(name, name, self._text(file))
                continue
            for where, row in read_rows(file, [self._field, *([self._label] if self._label else [])]):
                id, at = f"{name}:{where.split()[1]}", f"{file}, {where}"
                text = text_field(row, [self._field], where=at, setting="data.source.field")
                yield Document(id, id, text, label=label_field(row, self._label, where=at) if self._label else None)

    def _text(self, file: Path) -> str:
        """A file's text.

        Raises:
            UserError: it is not text. All other files like it are then named too, so that they can be fixed together.
        """
        try:
            return read_text(file)
        except UserError as error:
            others = [
                self.name(one)
                for one in self.files
                if one != file and not one.name.endswith(ROWS) and not _is_text(one)
            ]
            if not others:
                raise
            named = f"{', '.join(others[:NAMED])}{', ...' if len(others) > NAMED else ''}"
            raise UserError(f"{error}. {len(others)} other files cannot be read either: {named}") from error

    @cached_property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file, by its name."""
        try:
            return {self.name(file): checksum(file) for file in self.files}
        except OSError as error:
            raise unreadable(Path(error.filename), error) from error

    def describe(self) -> dict[str, Any]:
        """The files with their checksums; their licences are unknown."""
        part = {"name": str(self._path), "version": f"{len(self.files)} files", "licence": "not stated"}
        return {"what": "files", "parts": [part], "absent": [], "files": self.checksums}

    def identity(self) -> Any:
        """Names and contents, so that a folder that has changed is prepared again."""
        content = {"field": self._field, "files": self.checksums}
        return content | {"label": self._label} if self._label else content


def _is_text(file: Path) -> bool:
    try:
        read_text(file)
    except UserError:
        return False
    return True


def search(root: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """The files in a folder and in all folders below it, sorted by name, without hidden files and folders.

    Args:
        suffixes: only files with these endings; empty: all.
    """
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if not suffixes or file.name.endswith(tuple(suffixes)))


def read_text(file: Path) -> str:
    """The whole text of a file, with its line ends unchanged.

    Raises:
        UserError: it cannot be read or is not text.
    """
    name_others = "convert it, remove it, or name the endings of the files to take, as in data.source.suffixes=[.txt]"
    try:
        content = file.read_bytes()
        for mark, encoding in MARKS.items():
            if content.startswith(mark):
                raise UserError(f"{file} is {encoding}, as its first bytes say; expected UTF-8: {name_others}")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; expected text. Likely "
            f"cause: another encoding, or not text; {name_others}"
        ) from error
    except OSError as error:
        raise unreadable(file, error) from error
    if "\0" in text:
        raise UserError(
            f"{file} has a NUL byte at offset {content.index(0)}; expected text. Likely cause: another encoding, or "
            f"not text; {name_others}"
        )
    return text
