"""Documents of many files: a repository, or a development of theories."""

import sqlite3
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from memexp.data.sources.document import Document
from memexp.data.sources.files import read_text
from memexp.data.sources.published import ROWS, Published, Row
from memexp.errors import UserError


class Grouped(Published):
    """A document of all files that belong together, in an order, joined by line ends; each is a group of its own.

    On disk what belongs together is the topmost folder that holds a mark, `path` itself included, else the folder directly
    below `path`. Rows come in no order: they are sorted in a temporary data base on disk. They may be split by file, and
    what belongs together by another measure, so of published splits none is kept.
    """

    ROWS_FIRST = False
    MARK: str
    """A file or a folder at the root of what belongs together."""

    @abstractmethod
    def order(self, name: str, files: dict[str, str]) -> list[str]:
        """The paths of a document's files as they are joined.

        Args:
            files: texts by their paths.
        """

    def part(self, path: str) -> str:
        """What a file of a repository belongs to in it; by default the whole."""
        return ""

    def wanted(self, name: str) -> bool:
        """Whether a document is taken."""
        return True

    def read(self, file: Path) -> str | None:
        """A file's text; None leaves it out."""
        return read_text(file)

    def file_text(self, row: Row) -> str | None:
        """The same of a file that is a row."""
        return self.text(row)

    def __iter__(self) -> Iterator[Document]:
        for name, files in self._trees() if self._on_disk else self._sorted():
            if files:
                yield Document(name, name, "\n".join(files[path] for path in self.order(name, files)))

    def identity(self) -> Any:
        """The same, and which of the files on disk are one document, for marks decide that."""
        described = super().identity()
        if not self._on_disk:
            return described
        assert self.files is not None
        assert self.path is not None
        top = _tops(self.path, self.MARK)
        tops = {str(top(PurePosixPath(self.files.name(file)).parent)) for file in self.files.files}
        return {**described, "tops": sorted(tops)}

    @property
    def _on_disk(self) -> bool:
        """Whether files are files, and no rows."""
        return self.files is not None and not self.files.files[0].name.endswith(ROWS)

    def _trees(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Name and files of each document on disk."""
        assert self.files is not None
        assert self.path is not None
        top = _tops(self.path, self.MARK)
        members: dict[PurePosixPath, dict[str, Path]] = {}
        for file in self.files.files:
            place = PurePosixPath(self.files.name(file))
            folder = top(place.parent)
            members.setdefault(folder, {})[str(place.relative_to(folder))] = file
        for folder, files in members.items():
            name = str(folder) if folder.parts else self.path.resolve().name
            if self.wanted(name):
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
                        text = data.decode("utf-8", "surrogatepass")
                        files[path] = f"{files[path]}\n{text}" if path in files else text  # several versions of a file
                    yield name, files
        except sqlite3.OperationalError as error:
            raise UserError(
                f"cannot sort the rows in {tempfile.gettempdir()}: {error}; expected room for all of their text. Set "
                "TMPDIR to a folder on a larger disk"
            ) from error

    def _members(self) -> Iterator[tuple[str, str, bytes]]:
        for row in self.rows():
            path = self.text(row, "path")
            part = self.part(path)
            name = self.text(row, "repository") + (f"/{part}" if part else "")
            if self.wanted(name) and (text := self.file_text(row)) is not None:
                yield name, path, text.encode("utf-8", "surrogatepass")


def _tops(root: Path, mark: str) -> Callable[[PurePosixPath], PurePosixPath]:
    """What gives, of a folder below `root`, the one whose files are its document."""

    @cache
    def marked(folder: PurePosixPath) -> bool:
        return (root / folder / mark).exists()

    @cache
    def top(folder: PurePosixPath) -> PurePosixPath:
        steps = [*reversed(folder.parents), folder]  # the first is root itself
        return next(filter(marked, steps), steps[min(1, len(steps) - 1)])

    return top
