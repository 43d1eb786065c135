"""enwik8 and text8: a text of a hundred million bytes, cut into three splits."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

from memexp.config.sources import PiecesOptions
from memexp.data.sources.document import Document
from memexp.data.sources.kinds import ZIP, unpacked
from memexp.data.sources.places import DAMAGED, open_file, reading
from memexp.data.sources.published import Published
from memexp.data.sources.rows import BadRow
from memexp.errors import UserError
from memexp.terminal import escape

SHARES = {"train": 90, "valid": 5, "test": 5}
"""Percent of the text for each split, in this order."""

OTHERS = "smaller files in the zip left out"


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
                # What is left over of a size that is no multiple of 20 is for the test.
                end = self._size if split == "test" else start + self._size * share // 100
                while start < end and (piece := self._read(text, min(self._piece, end - start))):
                    id = f"{split}:{start}"
                    yield Document(id, id, piece, split)
                    start += len(piece)
            read = start + len(self._read(text, 1))
        if read != self._size:
            seen = f"{read:,}" if read < self._size else f"more than {self._size:,}"
            raise UserError(
                f"the text has {seen} bytes; expected {self._size:,}, as data.source.size says. Likely cause: it is cut off, or another text"
            )

    def chosen(self) -> dict[str, Any]:
        return {"size": self._size, "piece": self._piece}

    def _read(self, text: IO[bytes], size: int) -> bytes:
        try:
            return text.read(size)
        except (*DAMAGED, RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"cannot read {escape(getattr(text, 'name', self.path))}: {error}; expected a whole file. Likely cause: it is cut off"
            ) from error

    def _opened(self, stack: ExitStack) -> IO[bytes]:
        self._begin()
        file = self.files.files[0] if self.files is not None else None
        if file is None or (kind := self.kind(file)).rows:
            return io.BytesIO(b"".join(self._rows_text()))
        if kind.form != ZIP or kind.packed:
            return stack.enter_context(unpacked(file, kind.packed))
        with reading(file):
            try:
                archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_file(file))))
                members = sorted(archive.infolist(), key=lambda member: -member.file_size)
                for other in members[1:]:
                    self.notes.add(OTHERS, other.filename)
                return stack.enter_context(archive.open(members[0]))
            except (IndexError, RuntimeError, NotImplementedError) as error:
                reason = "it is empty" if isinstance(error, IndexError) else error
                raise UserError(f"cannot read {escape(file)}: {reason}; expected a zip with the text") from error

    def _rows_text(self) -> Iterator[bytes]:
        for row in self.rows():
            try:
                yield self.text(row).encode()
            except BadRow as error:
                self.bad(error)
