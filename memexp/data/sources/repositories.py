"""GitHub: a repository is a document."""

from pathlib import Path, PurePosixPath
from typing import Any

from memexp.data.sources.grouped import Grouped
from memexp.data.sources.published import Row
from memexp.data.sources.rows import unreadable
from memexp.data.splits import hashed
from memexp.errors import UserError


class Repositories(Grouped):
    """A document a repository: its files as they come when its folders are walked in an order drawn from a seed.

    Files and folders of a folder come in that order, and a folder's files stay together (Memorizing Transformers). Files
    that are no UTF-8, or have a NUL byte as binary ones do, are left out.
    """

    MARK = ".git"

    def __init__(
        self,
        *,
        sets: list[dict[str, Any]],
        fields: dict[str, list[str]],
        licence: str,
        instead: str,
        path: str | None = None,
        suffixes: list[str] | None = None,
        seed: int = 0,
        share: float = 1.0,
    ) -> None:
        """
        Args:
            fields: `text`, `repository` and `path`.
            path: a folder of repositories, or one repository, or files of rows.
            suffixes: the files on disk to take.
            seed: of the order of files and folders.
            share: of repositories that are taken, chosen by their names.
            others: as `Published` has them.

        Raises:
            UserError: `share` is no share.
        """
        super().__init__(
            sets=sets, fields=fields, licence=licence, instead=instead, path=path, suffixes=suffixes or (),
            seed=seed, share=share,
        )  # fmt: skip
        if not 0 < share <= 1:
            raise UserError(f"data.source.share is {share:g}; expected more than 0 and 1 at most")
        self._seed, self._share = seed, share

    def wanted(self, name: str) -> bool:
        return int.from_bytes(hashed(name)[:4]) < self._share * 2**32

    def read(self, file: Path) -> str | None:
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            return None
        except OSError as error:
            raise unreadable(file, error) from error
        return None if "\0" in text else text

    def file_text(self, row: Row) -> str | None:
        value = self.value(row, "text")
        return None if isinstance(value, str) and "\0" in value else self.text(row)

    def order(self, name: str, files: dict[str, str]) -> list[str]:
        """A path is sorted by a random number for each folder that it leads through, and for itself."""

        def drawn(path: str) -> list[bytes]:
            place = PurePosixPath(path)
            return [hashed(f"{self._seed} {name} {step}") for step in [*reversed(place.parents), place]]

        return sorted(files, key=drawn)
