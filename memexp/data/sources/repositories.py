"""GitHub: each repository is a document."""

from pathlib import Path, PurePosixPath
from typing import Any

from memexp.config.sources import RepositoriesOptions
from memexp.data.sources.grouped import Grouped
from memexp.data.sources.kinds import whole
from memexp.data.sources.published import Row
from memexp.data.splits import hashed

BINARY = "binary files left out"


class Repositories(Grouped):
    """Each repository is a document: its files joined in a random order of its folders, drawn from a seed.

    The files and folders of each folder are in random order, and all files of a folder stay together (Memorizing
    Transformers). Binary files are left out: those that are not UTF-8 or have a NUL byte.
    """

    MARK = ".git"

    def __init__(self, options: RepositoriesOptions, path: str | None) -> None:
        """
        Args:
            path: a folder of repositories, or one repository, or files of rows.
        """
        super().__init__(options, path, suffixes=options.suffixes)
        self._seed, self._share = options.seed, options.share

    def chosen(self) -> dict[str, Any]:
        # Settings used to have no types, so that share=1 was a whole number in the names of folders.
        return {"seed": self._seed, "share": 1 if self._share == 1 else self._share}

    def wanted(self, name: str) -> bool:
        return int.from_bytes(hashed(name)[:4]) < self._share * 2**32

    def unwanted(self) -> str:
        return f"repositories, or their rows, left out (data.source.share={self._share:g})"

    def read(self, file: Path) -> str | None:
        try:
            text = whole(file, "").decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            self.notes.add(BINARY, file)
            return None
        return text

    def file_text(self, row: Row) -> str | None:
        value = self.value(row, "text")
        if isinstance(value, str) and "\0" in value:
            self.notes.add(BINARY, row.where)
            return None
        return self.text(row)

    def order(self, name: str, files: dict[str, str]) -> list[str]:
        """The sort key of a path is a random number for each folder on the path and for the file."""

        def drawn(path: str) -> list[bytes]:
            place = PurePosixPath(path)
            return [hashed(f"{self._seed} {name} {step}") for step in [*reversed(place.parents), place]]

        return sorted(files, key=drawn)
