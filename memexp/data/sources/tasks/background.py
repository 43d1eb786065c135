"""Sentences of a prepared corpus, between which a task tells its facts."""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from memexp.data.corpus import open_corpus
from memexp.errors import UserError
from memexp.terminal import escape

SHORTEST = 10
"""Words; shorter sentences are left out (BABILong, Kuratov et al. 2024, section 2)."""

WINDOW = 1 << 14
"""Tokens that are decoded at a time."""

_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")


class Background:
    """The sentences of a prepared corpus. Each split of a task gets those of the same split."""

    def __init__(self, path: str | None) -> None:
        """
        Args:
            path: the folder of the corpus.

        Raises:
            UserError: it is no prepared corpus, or damaged.
        """
        if path is None:
            raise UserError(
                "data.source.noise is text, but data.path is not given; expected the folder of a prepared corpus, which "
                "`memexp data list` shows"
            )
        if not (Path(path).expanduser() / "manifest.json").exists():
            raise UserError(
                f"data.path is {escape(path)}, where no prepared corpus is; expected the folder of one, which `memexp data list` shows. "
                "`memexp prepare data=text data.path=DIR` prepares text of your own"
            )
        self.corpus = open_corpus(Path(path).expanduser())

    def sentences(self, words: int, split: str, generator: np.random.Generator) -> Iterator[list[str]]:
        """Sentences in their order from a drawn place on, with so many words together; the last one is cut off.

        Raises:
            UserError: the split has no sentence that is long enough.
        """
        documents = self.corpus.split(split)
        first = index = int(generator.integers(len(documents)))
        start = int(generator.integers(len(documents[index].tokens)))
        none = True
        while words > 0:
            for sentence in self._from(documents[index].tokens, start):
                none = False
                yield (cut := sentence[:words])
                words -= len(cut)
                if words <= 0:
                    return
            index, start = (index + 1) % len(documents), 0
            if none and index == first:
                raise UserError(
                    f"data.path is {self.corpus.path}, whose split {split} has no sentence of {SHORTEST} words; expected a corpus of "
                    "texts in a natural language"
                )

    def _from(self, tokens: np.ndarray, start: int) -> Iterator[list[str]]:
        """The whole sentences from a token on that are long enough."""
        decoder = getincrementaldecoder("utf-8")("replace")  # a window may end inside a character
        left, skip = "", start > 0  # the first sentence is no whole one
        for begin in range(start, len(tokens), WINDOW):
            data = b"".join(self.corpus.tokenizer.pieces(tokens[begin : begin + WINDOW]))
            *whole, left = _END.split(left + decoder.decode(data))
            for text in whole[skip:]:
                if len(sentence := text.split()) >= SHORTEST:
                    yield sentence
            skip = skip and not whole
