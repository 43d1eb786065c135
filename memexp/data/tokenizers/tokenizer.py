"""What every tokenizer can do."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

LOSSY = b"lossy "
"""What `save` of a tokenizer that may change text begins with. A SentencePiece model is a protocol buffer, so it never
begins with this."""

RARE = "Likely cause: another kind of text than that of training, or too few training documents to show every word"
"""Why a word may be unknown."""


def some(words: Sequence[str]) -> str:
    """The first words, to show what is known."""
    return ", ".join(words[:3])


class Tokenizer(Protocol):
    """Turns text into ids and back.

    If it is lossless, `decode(encode(text)) == text` for every text that it accepts, and its pieces joined are the UTF-8.
    """

    vocabulary: int
    lossless: bool
    by_line: bool
    """Whether the tokens of a line do not depend on other lines, so that a text can be cut at a line end."""
    slow: bool
    """Whether encoding takes longer than sending text to another process and tokens back."""

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8, for example after a cut inside a character, become U+FFFD."""
        ...

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each token."""
        ...

    def save(self) -> bytes:
        """Bytes from which `load` makes an equal tokenizer; empty for the tokenizer of bytes."""
        ...


def token_type(vocabulary: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type for the ids of so many entries."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32
