"""A user's own text: a file, or a folder of text, JSON lines, JSON arrays, Parquet and Arrow files."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from memexp.config.sources import FilesOptions
from memexp.data.sources import kinds
from memexp.data.sources.document import Document
from memexp.data.sources.kinds import Kind
from memexp.data.sources.notes import Notes
from memexp.data.sources.places import irregular, pick, reading, unreadable, walk
from memexp.data.sources.rows import LINES, TABLES, BadRow, BadRows, label_field, read_rows, refuse_mark, text_field
from memexp.errors import UserError
from memexp.files import checksum
from memexp.terminal import escape
from memexp.wording import plural

ROWS = LINES + TABLES
"""Files with these endings have always been rows. What any other file is, its content says."""

NAMED = 20
"""The number of files that an error names."""

NO_ROW = "files without a row"
LIKE_ROWS = "files read as text that are JSON, but not rows with the field"


class Files:
    """A document for each text file, and for each row of a file of JSON lines, a JSON array, Parquet or Arrow.

    What a file is, and how it is compressed, is known by its content. Files are read in the order of their names, without
    hidden files. Every document is a group of its own. A NUL byte is refused, because it often means text of another encoding.
    """

    def __init__(
        self, options: FilesOptions, path: str | None, *, endings_in: str = ", or other endings in data.source.suffixes"
    ) -> None:
        """
        Args:
            path: a file, or a folder, which is read with all folders in it.
            endings_in: says for a message where other endings can be set.

        Raises:
            UserError: there is no such path, or no file to read in it.
        """
        if path is None:
            raise UserError(
                "data.path is not given; expected the file or folder to read, as in data=text data.path=DIR"
            )
        self._path = Path(path).expanduser()
        self._field, self._label, self._bad_rows = options.field, options.label, options.bad_rows
        suffixes = tuple(options.suffixes)
        self.left_out: dict[str, list[str]] = {}
        """Names of what is not read, by the reason."""
        if is_file(self._path, path):
            self.files = [self._path]
        else:
            self.files, self.left_out = pick(walk(self._path), suffixes)
        if not self.files:
            expected = f"file that ends in {' or '.join(suffixes)}" if suffixes else "file that is not hidden"
            others = "".join(f"; {len(names)} {what}: {_listed(names)}" for what, names in self.left_out.items())
            raise UserError(
                f"data.path is {escape(path)}, a folder without any {expected}; expected documents in it{endings_in if suffixes else ''}{others}"
            )
        self.notes = Notes(self.left_out)
        self._kinds: dict[Path, Kind] = {}

    def name(self, file: Path) -> str:
        """The path of a file in the folder, with escapes for what does not print."""
        return escape(file.name if file == self._path else file.relative_to(self._path).as_posix())

    def kind(self, file: Path) -> Kind:
        """What a file is."""
        if file not in self._kinds:
            self._kinds[file] = kinds.kind_of(file, [self._field])
        return self._kinds[file]

    def __iter__(self) -> Iterator[Document]:
        self.notes = Notes(self.left_out)
        bad = BadRows(self._bad_rows, self.notes)
        self._refuse_unread_fields()
        for file in self.files:
            name, kind = self.name(file), self.kind(file)
            if not kind.rows:
                if kind.form == kinds.OBJECT:
                    self.notes.add(f"{LIKE_ROWS} {self._field!r}", name)
                yield Document(name, name, self._text(file))
                continue
            empty = True
            for where, row in read_rows(file, kind, self._names, bad):
                empty = False
                id, at = f"{name}:{where.split()[1]}", f"{escape(file)}, {where}"
                try:
                    text = text_field(row, [self._field], where=at, setting="data.source.field")
                    label = label_field(row, self._label, where=at) if self._label else None
                except BadRow as error:
                    bad(error)
                    continue
                yield Document(id, id, text, label=label)
            if empty:
                self.notes.add(NO_ROW, name)

    @property
    def _names(self) -> list[str]:
        return [self._field, *([self._label] if self._label else [])]

    def _refuse_unread_fields(self) -> None:
        """Refuse fields that are given but that nothing reads.

        Raises:
            UserError: no file has rows.
        """
        given = {"field": self._field} if self._field != FilesOptions.field else {}
        given |= {"label": self._label} if self._label else {}
        if given and not any(self.kind(file).rows for file in self.files):
            name, value = next(iter(given.items()))
            raise UserError(
                f"data.source.{name} is {value}, but {plural(len(self.files), 'file')} at {escape(self._path)} hold no rows with the "
                f"field {self._field!r}: {_kinds([self.kind(file) for file in self.files])}; expected JSON lines, a JSON array, Parquet or "
                f"Arrow, or no data.source.{name}"
            )

    def _text(self, file: Path) -> str:
        """A file's text.

        Raises:
            UserError: it is not text. All other files like it are then named too, so that they can be fixed together.
        """
        try:
            return read_text(file, self.kind(file))
        except UserError as error:
            others = [self.name(one) for one in self.files if one != file and not self._is_sound(one)]
            if not others:
                raise
            raise UserError(f"{error}. {len(others)} other files cannot be read either: {_listed(others)}") from error

    def _is_sound(self, file: Path) -> bool:
        """Whether a file has rows, or can be read as text."""
        try:
            kind = self.kind(file)
            if not kind.rows:
                read_text(file, kind)
        except UserError:
            return False
        return True

    @cached_property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file, by its name."""
        found = {}
        for file in self.files:
            with reading(file):
                found[self.name(file)] = checksum(file)
        return found

    def describe(self) -> dict[str, Any]:
        """The files with their checksums; their licences are unknown."""
        return {**self.listed(), **kinds.mixture([self.kind(file) for file in self.files])}

    def listed(self) -> dict[str, Any]:
        """The files with their checksums, without what they hold."""
        part = {"name": escape(self._path), "version": f"{len(self.files)} files", "licence": "not stated"}
        return {"what": "files", "parts": [part], "absent": [], "files": self.checksums}

    def identity(self) -> Any:
        """Names and contents, so that a folder that has changed is prepared again."""
        content: dict[str, Any] = {"field": self._field, "files": self.checksums}
        content |= {"label": self._label} if self._label else {}
        # Older versions read these as texts, or not at all.
        rows = [self.name(file) for file in self.files if self.kind(file).rows and not file.name.endswith(ROWS)]
        content |= {"rows": rows} if rows else {}
        return content | ({"bad_rows": self._bad_rows} if self._bad_rows != FilesOptions.bad_rows else {})


def is_file(path: Path, typed: str) -> bool:
    """Whether data.path is a file and not a folder.

    Raises:
        UserError: there is nothing, it cannot be looked at, or it is a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        link = f", a link to {escape(path.readlink())}," if path.is_symlink() else ","
        raise UserError(
            f"data.path is {escape(typed)}{link} which does not exist; expected a file or a folder (seen from "
            f"{escape(Path.cwd())})"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if odd := irregular(mode):
        raise UserError(
            f"data.path is {escape(typed)}, {odd}; expected a file or a folder. Copy what it gives to a file first"
        )
    return not path.is_dir()


def _kinds(found: list[Kind]) -> str:
    return ", ".join(f"{count} of {kind}" for kind, count in kinds.count_kinds(found).items())


def _listed(names: list[str]) -> str:
    return f"{', '.join(map(escape, names[:NAMED]))}{', ...' if len(names) > NAMED else ''}"


def read_text(file: Path, kind: Kind | None = None) -> str:
    """The whole text of a file, with its line ends unchanged.

    Args:
        kind: what the file is; default: text that is not compressed.

    Raises:
        UserError: it cannot be read or is not text.
    """
    remedy = "convert it, remove it, or name the endings of the files to take, as in data.source.suffixes=[.txt]"
    if kind is not None and kind.form in kinds.ARCHIVES:
        raise UserError(f"{escape(file)} is {kind.form}; expected text or rows: unpack it, {remedy.partition(', ')[2]}")
    content = kinds.whole(file, kind.packed if kind is not None else "")
    refuse_mark(file, content, remedy)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{escape(file)} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; expected text. Likely "
            f"cause: another encoding, or not text; {remedy}"
        ) from error
    if "\0" in text:
        raise UserError(
            f"{escape(file)} has a NUL byte at offset {content.index(0)}; expected text. Likely cause: another encoding, or "
            f"not text; {remedy}"
        )
    return text
