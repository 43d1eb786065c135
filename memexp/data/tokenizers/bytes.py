"""Bytes as tokens."""

from collections.abc import Iterable

import numpy as np


class Bytes:
    """Each byte of the text's UTF-8 is a token."""

    vocabulary = 256
    lossless, by_line, slow = True, True, False

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        return [bytes((id,)) for id in ids]

    def save(self) -> bytes:
        return b""
