"""Documents of many files: a repository, or a development of theories."""

import sqlite3
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from memexp.data.sources import kinds
from memexp.data.sources.document import Document
from memexp.data.sources.files import read_text
from memexp.data.sources.kinds import Kind
from memexp.data.sources.published import Published, Row
from memexp.data.sources.rows import BadRow
from memexp.errors import UserError
from memexp.terminal import escape


class Grouped(Published):
    """Files that belong together become a document: they are sorted and joined by line ends. Each is a group of its own.

    On disk the files of the topmost folder that contains `MARK` belong together (`path` itself can be this folder); without a
    mark, those of each folder directly in `path`. Rows come in any order, so they are sorted in a temporary database on
    disk. Published splits are not kept, for they can separate files that belong together.
    """

    ROWS_FIRST = False
    MARK: str
    """A file or folder that marks the root folder of a document."""

    @abstractmethod
    def order(self, name: str, files: dict[str, str]) -> list[str]:
        """The paths of a document's files in the order in which they are joined.

        Args:
            files: texts by their paths.
        """

    def part(self, path: str) -> str:
        """The part of a repository that a file belongs to; empty, the default: the whole repository."""
        return ""

    def wanted(self, name: str) -> bool:
        """Whether a document is taken."""
        return True

    def unwanted(self) -> str:
        """What is noted of documents, or files of them in rows, that are not taken."""
        return "documents left out"

    def read(self, file: Path) -> str | None:
        """A file's text; None leaves the file out."""
        return read_text(file)

    def file_text(self, row: Row) -> str | None:
        """The text of a file that is a row; None leaves the file out."""
        return self.text(row)

    def kind(self, file: Path) -> Kind:
        """Files whose names end as texts do are texts, even if they hold JSON."""
        found = super().kind(file)
        return Kind(kinds.TEXT) if not found.packed and file.name.endswith(self.suffixes or ("\0",)) else found

    def __iter__(self) -> Iterator[Document]:
        self._begin()
        for name, files in self._trees() if self._on_disk else self._sorted():
            if files:
                yield Document(name, name, "\n".join(files[path] for path in self.order(name, files)))

    def identity(self) -> Any:
        """As of every published data set, and the root folder of each document on disk, which depends on the marks."""
        described = super().identity()
        if not self._on_disk:
            return described
        assert self.files is not None
        assert self.path is not None
        top = _tops(self.path, self.MARK)
        tops = {escape(top(self._place(file).parent)) for file in self.files.files}
        return {**described, "tops": sorted(tops)}

    @property
    def _on_disk(self) -> bool:
        """Whether the files are texts and not rows."""
        return self.files is not None and not self.kind(self.files.files[0]).rows

    def _place(self, file: Path) -> PurePosixPath:
        """Where a file is below the path."""
        return PurePosixPath(file.name if file == self.path else file.relative_to(self.path or ""))

    def _trees(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Name and files of each document on disk."""
        assert self.files is not None
        assert self.path is not None
        top = _tops(self.path, self.MARK)
        members: dict[PurePosixPath, dict[str, Path]] = {}
        for file in self.files.files:
            place = self._place(file)
            folder = top(place.parent)
            members.setdefault(folder, {})[str(place.relative_to(folder))] = file
        for folder, files in members.items():
            name = escape(folder if folder.parts else self.path.resolve().name)
            if not self.wanted(name):
                self.notes.add(self.unwanted(), name)
            else:
                read = {path: text for path, file in files.items() if (text := self.read(file)) is not None}
                yield name, read

    def _sorted(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Name and files of each document of the rows."""
        try:
            with (
                tempfile.TemporaryDirectory(prefix="memexp-") as folder,
                closing(sqlite3.connect(Path(folder, "rows.db"))) as base,
            ):
                base.execute("CREATE TABLE files (name, path, text)")
                base.executemany("INSERT INTO files VALUES (?, ?, ?)", self._members())
                base.execute("CREATE INDEX documents ON files (name)")
                for (name,) in base.execute("SELECT DISTINCT name FROM files ORDER BY name"):
                    files: dict[str, str] = {}
                    for path, data in base.execute(
                        "SELECT DISTINCT path, text FROM files WHERE name = ? ORDER BY path, text", (name,)
                    ):
                        text = data.decode()
                        files[path] = f"{files[path]}\n{text}" if path in files else text  # several versions of a file
                    yield name, files
        except sqlite3.OperationalError as error:
            raise UserError(
                f"cannot sort the rows in {tempfile.gettempdir()}: {error}; expected room for all of their text. Set "
                "TMPDIR to a folder on a larger disk"
            ) from error

    def _members(self) -> Iterator[tuple[str, str, bytes]]:
        for row in self.rows():
            try:
                path = self.text(row, "path")
                part = self.part(path)
                name = self.text(row, "repository") + (f"/{part}" if part else "")
                if not self.wanted(name):
                    self.notes.add(self.unwanted(), name)
                    continue
                text = self.file_text(row)
            except BadRow as error:
                self.bad(error)
                continue
            if text is not None:
                yield name, path, text.encode()


def _tops(root: Path, mark: str) -> Callable[[PurePosixPath], PurePosixPath]:
    """A function from a folder below `root` to the root folder of its document."""

    @cache
    def marked(folder: PurePosixPath) -> bool:
        return (root / folder / mark).exists()

    @cache
    def top(folder: PurePosixPath) -> PurePosixPath:
        steps = [*reversed(folder.parents), folder]  # the first is root itself
        return next(filter(marked, steps), steps[min(1, len(steps) - 1)])

    return top
