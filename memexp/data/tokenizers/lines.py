"""The words of lines and the ends of lines, as WikiText-103 is read."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from memexp.data.tokenizers.tokenizer import LOSSY, RARE, some, token_type
from memexp.errors import UserError


class Lines:
    """Tokens are words between white space, and ends of lines; the most frequent words have the smallest ids.

    WikiText and the vocabularies of Transformer-XL are made so. Each piece of a text is a space and a word, or a space and a
    line end: this is WikiText's own form, so it comes back unchanged. An unknown word becomes `<unk>` if that is in the
    vocabulary.
    """

    by_line, slow = True, False

    SAVED = b"lines "
    """The start of what `save` returns."""

    END, UNKNOWN = "\n", "<unk>"

    def __init__(self, words: Iterable[str], *, lossless: bool = True) -> None:
        """
        Args:
            words: in the order of their ids; the line end is the first.
            lossless: whether a text that does not come back unchanged must be refused.
        """
        self.lossless = lossless
        self._words = list(words)
        self._ids = {word: id for id, word in enumerate(self._words)}
        self.vocabulary = len(self._words)
        self._dtype = token_type(self.vocabulary)

    @classmethod
    def train(cls, texts: Iterable[str], *, lossless: bool) -> "Lines":
        """The words of the texts, the most frequent first; words of equal frequency are in alphabetical order."""
        counts = Counter(word for text in texts for word in cls._split(text))
        del counts[cls.END]
        return cls([cls.END, *sorted(counts, key=lambda word: (-counts[word], word))], lossless=lossless)

    @classmethod
    def _split(cls, text: str) -> Iterator[str]:
        for line in io.StringIO(text, newline="\n"):
            yield from line.split()
            if line.endswith("\n"):
                yield cls.END

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids as uint16, or uint32 where the vocabulary needs it.

        Raises:
            UserError: a word is unknown, and there is no `<unk>`.
        """
        words = list(self._split(text.decode("utf-8") if isinstance(text, bytes) else text))
        unknown = self._ids.get(self.UNKNOWN)
        ids = [self._ids.get(word, unknown) for word in words]
        if None in ids:
            raise UserError(
                f"the word {words[ids.index(None)]!r} is none of the {self.vocabulary:,} of the training split, and "
                f"{self.UNKNOWN} is none either; expected known words, such as {some(self._words[1:])}. {RARE}"
            )
        return np.array(ids, dtype=self._dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(f" {self._words[id]}" for id in ids)

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        return [f" {self._words[id]}".encode() for id in ids]

    def save(self) -> bytes:
        return (b"" if self.lossless else LOSSY) + self.SAVED + " ".join(self._words).encode()

    @classmethod
    def load(cls, model: bytes, *, lossless: bool) -> "Lines":
        """The tokenizer from what `save` returned, without `LOSSY`."""
        return cls(model.removeprefix(cls.SAVED).decode().split(" "), lossless=lossless)
