"""enwik8 and text8: a text of a hundred million bytes, cut into three splits."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

from memexp.config.sources import PiecesOptions
from memexp.data.sources.document import Document
from memexp.data.sources.published import ROWS, Published
from memexp.data.sources.rows import unreadable
from memexp.errors import UserError

SHARES = {"train": 90, "valid": 5, "test": 5}
"""Percent of the text for each split, in this order."""


class Pieces(Published):
    """A text of bytes, cut into documents of equal length. 90 % are for training, 5 % for validation, 5 % for the test.

    *Differs from Transformer-XL and LM-RMT:* they cut a split into one piece for each row of the batch, so their pieces
    are longer.
    """

    def __init__(self, options: PiecesOptions, path: str | None) -> None:
        """
        Args:
            path: the file, its zip, or a file of rows.

        Raises:
            UserError: there is more than one file at `path`.
        """
        super().__init__(options, path, suffixes=("8", "8.zip", ".txt"))
        self._size, self._piece = options.size, options.piece
        if self.files is not None and len(self.files.files) > 1:
            raise UserError(
                f"data.path is {path}, where there are {len(self.files.files)} files; expected one: the text, or its zip"
            )

    def __iter__(self) -> Iterator[Document]:
        with ExitStack() as opened:
            text = self._opened(opened)
            start = 0
            for split, share in SHARES.items():
                end = start + self._size * share // 100
                while start < end and (piece := self._read(text, min(self._piece, end - start))):
                    id = f"{split}:{start}"
                    yield Document(id, id, piece, split)
                    start += len(piece)
            read = start + len(self._read(text, 1))
        if read != self._size:
            seen = f"{read:,}" if read < self._size else f"more than {self._size:,}"
            raise UserError(
                f"the text has {seen} bytes; expected {self._size:,}. Likely cause: it is cut off, or another text"
            )

    def chosen(self) -> dict[str, Any]:
        return {"size": self._size, "piece": self._piece}

    def _read(self, text: IO[bytes], size: int) -> bytes:
        try:
            return text.read(size)
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"cannot read {text.name}: {error}; expected a whole file. Likely cause: it is cut off"
            ) from error

    def _opened(self, stack: ExitStack) -> IO[bytes]:
        file = self.files.files[0] if self.files is not None else None
        if file is None or file.name.endswith(ROWS):
            return io.BytesIO(b"".join(self.text(row).encode("utf-8", "surrogatepass") for row in self.rows()))
        try:
            if not zipfile.is_zipfile(file):
                return stack.enter_context(file.open("rb"))
            archive = stack.enter_context(zipfile.ZipFile(file))
            return stack.enter_context(archive.open(max(archive.infolist(), key=lambda member: member.file_size)))
        except OSError as error:
            raise unreadable(file, error) from error
