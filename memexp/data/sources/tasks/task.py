"""What algorithmic tasks share: documents drawn from a seed, of which only an answer is scored.

Texts are words with single spaces between them. A mark comes before the answer, so the token that predicts the answer's
first word is not part of the question. A document has one word more than it has inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

import numpy as np

from memexp.config.sources import LongOptions, TaskOptions
from memexp.data.sources.document import Document
from memexp.data.splits import SPLITS
from memexp.errors import UserError

T = TypeVar("T")

MARK = ">"
"""The word before an answer."""

DIGITS = "0123456789"

DRAWS = 1000
"""After so many draws in vain, a task is taken to have no more documents than those held out."""


class Drawn(NamedTuple):
    """A document without a name."""

    words: Sequence[str]
    answers: Sequence[int]
    """Indices of the words that are scored."""
    slices: dict[str, Any]


class Task(ABC):
    """Documents of three splits, each drawn from its own generator, so that the size of a split does not change the others.

    No document is in two splits: a document that is already in the test or the validation split is drawn again.
    """

    def __init__(self, options: TaskOptions) -> None:
        self._options, self._documents = options, dict(zip(SPLITS, options.documents, strict=True))

    @abstractmethod
    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """Draw a document.

        Args:
            split: the split it is for; test documents of some tasks are longer than the others.
        """

    def __iter__(self) -> Iterator[Document]:
        held_out: set[str] = set()
        for number, split in reversed(list(enumerate(SPLITS))):
            generator, here = np.random.default_rng((self._options.seed, number)), set()
            for place in range(self._documents[split]):
                text, drawn = self._new(generator, split, held_out)
                here.add(text)
                id = f"{split}-{place}"
                yield Document(id, id, text, split, drawn.answers, drawn.slices)
            held_out |= here

    def _new(self, generator: np.random.Generator, split: str, held_out: set[str]) -> tuple[str, Drawn]:
        for _ in range(DRAWS):
            drawn = self.draw(generator, split)
            if (text := " ".join(drawn.words)) not in held_out:
                return text, drawn
        raise UserError(
            f"data.source.documents is {list(self._documents.values())}{self._drawn_of()}, but almost all possible documents are held "
            "out already; expected fewer, or longer documents"
        )

    def _drawn_of(self) -> str:
        """The setting that says how long documents are, for a message."""
        named = [
            name for name in ("lengths", "test_lengths", "pairs", "test_pairs") if getattr(self._options, name, None)
        ]
        return "".join(f" and data.source.{name} {getattr(self._options, name)}" for name in named)

    def describe(self) -> dict[str, Any]:
        """Only the task; it has no parts and no licences."""
        what = f"{type(self).__name__.lower()} task, drawn from seed {self._options.seed}"
        return {"what": what, "parts": [], "absent": []}

    def identity(self) -> Any:
        """All settings."""
        return {name: value for name, value in asdict(self._options).items() if name != "_target_"}


class LongTask(Task):
    """A task whose documents have a given length; test documents may have other lengths."""

    def __init__(self, options: LongOptions) -> None:
        super().__init__(options)
        self._lengths, self._test_lengths = options.lengths, options.test_lengths or options.lengths

    def length(self, split: str, generator: np.random.Generator) -> int:
        """The number of inputs of a document, which has one word more."""
        return one_of(self._test_lengths if split == "test" else self._lengths, generator)


def refuse_short(length: int, needed: int, what: str) -> None:
    """Refuse a length into which what is asked for does not fit.

    Args:
        needed: the smallest length.
        what: what needs it, for the message.

    Raises:
        UserError: the length is smaller.
    """
    if length < needed:
        raise UserError(
            f"data.source.lengths or test_lengths has {length:,}, but {what} {needed:,} words; expected lengths of {needed:,} or more"
        )


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def one_of(choices: Sequence[T], generator: np.random.Generator) -> T:
    """One of the choices, each as likely as the others."""
    return choices[int(generator.integers(len(choices)))]


def down(number: int) -> int:
    """The largest power of two that is at most `number`."""
    return 1 << (number.bit_length() - 1)
