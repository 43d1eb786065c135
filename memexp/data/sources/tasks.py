"""Algorithmic tasks: documents that are drawn from a seed, of which only an answer is scored.

Texts are words with single spaces between them, for the tokenizer kind=words. A mark comes before the answer, so the token
that predicts the answer's first word is not part of the question. A document has one token more than it has inputs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from string import ascii_lowercase
from typing import Any, NamedTuple

import numpy as np

from memexp.config.sources import EchoOptions, MqarOptions, RetrievalOptions, TaskOptions
from memexp.data.sources.document import Document
from memexp.data.splits import SPLITS
from memexp.errors import UserError

MARK = ">"
"""The word before an answer."""

SYMBOLS = "0123456789"

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
    def draw(self, generator: np.random.Generator) -> Drawn:
        """Draw a document."""

    def __iter__(self) -> Iterator[Document]:
        held_out: set[str] = set()
        for number, split in reversed(list(enumerate(SPLITS))):
            generator, here = np.random.default_rng((self._options.seed, number)), set()
            for place in range(self._documents[split]):
                text, drawn = self._new(generator, held_out)
                here.add(text)
                id = f"{split}-{place}"
                yield Document(id, id, text, split, drawn.answers, drawn.slices)
            held_out |= here

    def _new(self, generator: np.random.Generator, held_out: set[str]) -> tuple[str, Drawn]:
        for _ in range(DRAWS):
            drawn = self.draw(generator)
            if (text := " ".join(drawn.words)) not in held_out:
                return text, drawn
        raise UserError(
            f"data.source.documents is {list(self._documents.values())}{self._drawn_of()}, but almost all possible documents are held "
            "out already; expected fewer, or longer documents"
        )

    def _drawn_of(self) -> str:
        """The setting that says how long documents are, for a message."""
        named = [name for name in ("lengths", "pairs") if hasattr(self._options, name)]
        return "".join(f" and data.source.{name} {getattr(self._options, name)}" for name in named)

    def describe(self) -> dict[str, Any]:
        """Only the task; it has no parts and no licences."""
        what = f"{type(self).__name__.lower()} task, drawn from seed {self._options.seed}"
        return {"what": what, "parts": [], "absent": []}

    def identity(self) -> Any:
        """All settings."""
        return {name: value for name, value in asdict(self._options).items() if name != "_target_"}


class _Echo(Task):
    """Symbols, the mark, and a target that follows from the symbols."""

    def __init__(self, options: EchoOptions) -> None:
        super().__init__(options)
        self._lengths = options.lengths

    def draw(self, generator: np.random.Generator) -> Drawn:
        """A source and its target."""
        length = _one_of(self._lengths, generator)
        source = [SYMBOLS[index] for index in generator.integers(len(SYMBOLS), size=length)]
        words = [*source, MARK, *self.target(source)]
        return Drawn(words, range(length + 1, len(words)), {"length": length})

    @staticmethod
    @abstractmethod
    def target(source: list[str]) -> list[str]:
        """The words of the answer."""


class Copy(_Echo):
    """Say the source twice (Recurrent Memory Transformer, Bulatov et al. 2022, figure 3).

    A source of n symbols gives 3n inputs: 72 for 24. With lengths=[3]:

        7 0 4 > 7 0 4 7 0 4
                ^ ^ ^ ^ ^ ^
    """

    @staticmethod
    def target(source: list[str]) -> list[str]:
        """The source twice."""
        return source * 2


class Reverse(_Echo):
    """Say the source backwards (Recurrent Memory Transformer, Bulatov et al. 2022, figure 3).

    A source of n symbols gives 2n inputs: 48 for 24. With lengths=[3]:

        7 0 4 > 4 0 7
                ^ ^ ^
    """

    @staticmethod
    def target(source: list[str]) -> list[str]:
        """The source backwards."""
        return source[::-1]


class Retrieval(Task):
    """Say the digit that stood after a letter (associative retrieval; Bulatov et al. 2022, figure 3).

    n pairs of a letter and a digit, the letters all different, then one of the letters: 2n + 2 inputs, 10 for 4 pairs.
    Slices: the number of pairs, and which pair is asked for, counted from 1. With pairs=[2]:

        k 3 c 0 k > 3
                    ^
    """

    def __init__(self, options: RetrievalOptions) -> None:
        super().__init__(options)
        self._pairs = options.pairs

    def draw(self, generator: np.random.Generator) -> Drawn:
        """Pairs, a key, and its value."""
        pairs = _one_of(self._pairs, generator)
        keys = [ascii_lowercase[index] for index in generator.permutation(len(ascii_lowercase))[:pairs]]
        values = [SYMBOLS[index] for index in generator.integers(len(SYMBOLS), size=pairs)]
        asked = int(generator.integers(pairs))
        words = [*_interleaved(keys, values), keys[asked], MARK, values[asked]]
        return Drawn(words, [len(words) - 1], {"pairs": pairs, "asked": asked + 1})


class Equations(Task):
    """Say the roots of a quadratic equation whose solution is written out (Bulatov et al. 2022, table 1).

    Six fields of 30 characters, each character a word, filled up with `_`: the equation, the same divided by its first
    coefficient, the discriminant, the smaller root, the larger root, and after the mark the answer: 180 inputs. Scored
    are the answer and the first `_` behind it. Roots are integers of -100 to 100 and the multiplier is one of 1 to 10;
    a fifth of the equations have no real roots. Slice: the number of different real roots.

    The paper gives these numbers; its text was not available, so what the fields hold is this module's own.

        3*x^2-15*x+18=0_______________
        x^2-5*x+6=0___________________
        D=5^2-4*6=1=1^2_______________
        x=(5-1)/2=2___________________
        x=(5+1)/2=3___________________>
        2,3___________________________
        ^^^^
    """

    FIELD = 30
    LARGEST_ROOT, LARGEST_MULTIPLIER = 100, 10
    WITHOUT_ROOTS = 0.2

    def draw(self, generator: np.random.Generator) -> Drawn:
        """An equation, its solution, and the answer."""
        roots = generator.integers(-self.LARGEST_ROOT, self.LARGEST_ROOT + 1, size=2).tolist()
        multiplier = int(generator.integers(1, self.LARGEST_MULTIPLIER + 1))
        linear, constant = -sum(roots), math.prod(roots)
        if generator.random() < self.WITHOUT_ROOTS:
            # Larger than the constant at which both roots would be equal.
            constant = linear**2 // 4 + int(generator.integers(1, self.LARGEST_ROOT**2 + 1))
        *solution, answer = solve(multiplier, linear, constant)
        text = "".join(field.ljust(self.FIELD, "_") for field in solution) + MARK
        answers = range(len(text), len(text) + len(answer) + 1)
        real = 0 if answer == "none" else len(set(answer.split(",")))
        return Drawn(text + answer.ljust(self.FIELD, "_"), answers, {"roots": real})


class Mqar(Task):
    """Say the value of every key that comes again (multi-query associative recall; Zoology, Arora et al. 2023).

    n keys with their values, then every key once more, its value behind it and `.` between: the gaps follow a power
    law, so that most keys come again soon. Keys and values are all different. Slices: the number of pairs, and of each
    answer how many words before it its value stood first, down to a power of two. With pairs=[2], length=11:

        k7 v3 k1 v9 k1 v9 .  .  k7 v3 .  .
                       ^           ^

    *Differs from Zoology:* values also stand behind the queries, for every word is an input. Its code fills the gaps so
    with random_non_queries=False, by default with random words.
    """

    POWER = 0.01

    def __init__(self, options: MqarOptions) -> None:
        super().__init__(options)
        self._pairs, self._length, self._keys = options.pairs, options.length, (options.vocabulary - 1) // 2

    def draw(self, generator: np.random.Generator) -> Drawn:
        """Pairs, then the queries between filler words."""
        pairs = _one_of(self._pairs, generator)
        keys, values = ([f"{kind}{index}" for index in generator.permutation(self._keys)[:pairs]] for kind in "kv")
        chances = np.arange(1, (self._length - 2 * pairs) // 2 + 1) ** (self.POWER - 1)
        # Each gap gets an exponential waiting time, and the first ones are taken: a draw without replacement, but faster.
        gaps = np.argsort(generator.exponential(1 / chances))[:pairs]
        words = [*_interleaved(keys, values), *["."] * (self._length + 1 - 2 * pairs)]
        distances = {}
        for pair, gap in enumerate(gaps.tolist()):
            query = 2 * pairs + 2 * gap
            words[query : query + 2] = keys[pair], values[pair]
            distances[query + 1] = query - 2 * pair
        answers = sorted(distances)
        return Drawn(words, answers, {"pairs": pairs, "distance": [_down(distances[answer]) for answer in answers]})


def solve(multiplier: int, linear: int, constant: int) -> list[str]:
    """The steps from `multiplier * (x^2 + linear * x + constant) = 0` to its roots, and the answer.

    `linear` is even or odd as the root of the discriminant is, so that real roots are integers.
    """
    equations = [_equation(*(factor * number for number in (1, linear, constant))) for factor in (multiplier, 1)]
    discriminant = linear**2 - 4 * constant
    step = f"D={abs(linear)}^2{'+' if constant < 0 else '-'}4*{abs(constant)}={discriminant}"
    if discriminant < 0:
        return [*equations, step, *["none"] * 3]
    root = math.isqrt(discriminant)
    roots = [(-linear - root) // 2, (-linear + root) // 2]
    halves = [f"x=({-linear}{sign}{root})/2={value}" for sign, value in zip("-+", roots, strict=True)]
    return [*equations, f"{step}={root}^2", *halves, ",".join(map(str, roots))]


def _equation(square: int, linear: int, constant: int) -> str:
    """5*x^2-x+3=0; a factor of 1 and what is 0 are left out."""
    terms = ((square, "x^2"), (linear, "x"), (constant, ""))
    text = "".join(f"{_factor(factor, power)}{power}" for factor, power in terms if factor)
    return f"{text.removeprefix('+')}=0"


def _factor(factor: int, power: str) -> str:
    if power and abs(factor) == 1:
        return f"{factor:+d}"[0]
    return f"{factor:+d}*" if power else f"{factor:+d}"


def _interleaved(keys: list[str], values: list[str]) -> list[str]:
    return [word for pair in zip(keys, values, strict=True) for word in pair]


def _one_of(numbers: list[int], generator: np.random.Generator) -> int:
    return numbers[int(generator.integers(len(numbers)))]


def _down(number: int) -> int:
    """The largest power of two that is at most `number`."""
    return 1 << (number.bit_length() - 1)
