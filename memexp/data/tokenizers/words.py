"""Words between single spaces, as the algorithmic tasks write them."""

from collections.abc import Iterable

import numpy as np

from memexp.data.tokenizers.tokenizer import RARE, some, token_type
from memexp.errors import UserError


class Words:
    """Tokens are words, which are separated by single spaces.

    Each piece is a space and a word, so the pieces of a text are its UTF-8 after a space. Only known words can be encoded.
    """

    lossless, by_line, slow = True, False, False

    SAVED = b"words "
    """The start of what `save` returns."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted(words)
        self._ids = {word: id for id, word in enumerate(self._words)}
        self.vocabulary = len(self._words)
        self._dtype = token_type(self.vocabulary)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it.

        Raises:
            UserError: a word is unknown.
        """
        words = _words(text.decode("utf-8") if isinstance(text, bytes) else text)
        try:
            return np.fromiter(map(self._ids.__getitem__, words), dtype=self._dtype, count=len(words))
        except KeyError as error:
            raise UserError(
                f"the word {error.args[0]!r} is none of the {self.vocabulary:,} of the training split; expected known words "
                f"with single spaces between them, such as {some(self._words)}. {RARE}"
            ) from error

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self._words[id] for id in ids)

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        return [f" {self._words[id]}".encode() for id in ids]

    def save(self) -> bytes:
        return self.SAVED + " ".join(self._words).encode()

    @classmethod
    def train(cls, texts: Iterable[str]) -> "Words":
        """All words of the texts."""
        return cls({word for text in texts for word in _words(text) if word})

    @classmethod
    def load(cls, model: bytes) -> "Words":
        """The tokenizer from what `save` returned."""
        return cls(_words(model.removeprefix(cls.SAVED).decode("utf-8")))


def _words(text: str) -> list[str]:
    return text.split(" ") if text else []
