"""Tasks that hide numbers in a long text: pass key and needle."""

from collections.abc import Iterable, Iterator
from itertools import cycle, islice, product

import numpy as np

from memexp.config.sources import HiddenOptions, NeedleOptions
from memexp.data.sources.tasks.task import DIGITS, MARK, Drawn, LongTask, one_of, refuse_short, words_of

STOP = "."

BEGIN = words_of("a pass key is hidden in this text . find it and remember it .")
ASK = words_of(f"what is the pass key ? {MARK}")

FILLER = words_of("the river is long . the hill is high . the road is dry . we walk on and on . then we rest .")
"""Sentences of no use, which come again and again."""

KINDS = words_of(
    "quiet bright narrow distant heavy gentle hollow early bitter golden humble rapid silent tender vivid windy young ancient "
    "broken calm dusty eager faint grand icy jolly keen lively modest noble open plain rough sharp steep thick warm wild"
)
THINGS = words_of(
    "harbour lantern meadow bridge kettle ladder market needle orchard pillow quarry ribbon saddle tunnel valley window anchor "
    "basket candle drawer engine feather garden hammer island jacket keyboard letter mirror notebook oven pencil rocket station "
    "ticket umbrella violin wagon"
)
"""A name is one of `KINDS` and one of `THINGS`, such as quiet harbour."""


class _Hidden(LongTask):
    """Sentences with numbers, between sentences of no use; then questions, each with its answer.

    A digit is a word. A document has exactly the drawn length; its last sentence of no use may be cut off for that.
    """

    def __init__(self, options: HiddenOptions) -> None:
        super().__init__(options)
        self._depths, self._digits = options.depths, options.digits

    def number(self, generator: np.random.Generator) -> list[str]:
        """The digits of a number; the first may be 0."""
        return [DIGITS[digit] for digit in generator.integers(len(DIGITS), size=self._digits)]

    def depths(self, count: int, generator: np.random.Generator) -> list[int]:
        """Where so many sentences are hidden, in percent of the text, in the order of the text."""
        return sorted(one_of(self._depths, generator) for _ in range(count))

    @staticmethod
    def hide(sentences: list[list[str]], depths: list[int], haystack: Iterable[str], length: int) -> list[str]:
        """A text of `length` words with each of the sentences at its depth, or at the nearest end of a sentence."""
        around = list(islice(haystack, length - sum(map(len, sentences))))
        ends = np.array([0, *(place + 1 for place, word in enumerate(around) if word == STOP)])
        text: list[str] = []
        begin = 0
        for sentence, depth in zip(sentences, depths, strict=True):
            end = int(ends[np.abs(ends - len(around) * depth / 100).argmin()])
            text += [*around[begin:end], *sentence]
            begin = end
        return [*text, *around[begin:]]


class Passkey(_Hidden):
    """Say the number that a text hides (pass key retrieval; Mohtashami and Jaggi 2023, section 4.3).

    Slices: the length of the document, and the asked depth of the sentence with the number, in percent; it stands at the nearest end of a
    sentence. With lengths=[58], digits=2:

        a pass key is hidden in this text . find it and remember it . the river is long . the hill is high .
        the pass key is 4 1 . remember it . 4 1 is the pass key . the road is dry . what is the pass key ? > 4 1
                                                                                                            ^ ^

    *Differs from the paper:* the sentences are our own, and numbers may begin with 0.
    """

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """A text with a number, and the number."""
        length, number, depths = self.length(split, generator), self.number(generator), self.depths(1, generator)
        sentence = f"the pass key is {' '.join(number)} . remember it . {' '.join(number)} is the pass key .".split()
        rest = len(BEGIN) + len(ASK) + len(number)
        refuse_short(length, rest + len(sentence) - 1, "the pass key, what stands before it and the question need")
        text = self.hide([sentence], depths, cycle(FILLER), length + 1 - rest)
        words = [*BEGIN, *text, *ASK, *number]
        return Drawn(words, range(len(words) - len(number), len(words)), {"length": length, "depth": depths[0]})


class Needle(_Hidden):
    """Say numbers that a text hides, each under a name (needle in a haystack; RULER, Hsieh et al. 2024, section 3).

    haystack=needles is RULER's multi-key task with numbers in place of all other text, names=4 its multi-key task,
    values=4 its multi-value and queries=4 its multi-query task. The numbers of a name are asked for in the order of the text.
    Slices: the length of the document, and of each digit the asked depth of its sentence, in percent. A sentence and a question:

        the number of quiet harbour is 4 1 7 .
        what is the number of quiet harbour ? > 4 1 7 .
                                                ^ ^ ^

    *Differs from the paper:* the sentences are our own, a digit is a word, and numbers may begin with 0.
    """

    def __init__(self, options: NeedleOptions) -> None:
        super().__init__(options)
        self._names, self._values, self._queries = options.names, options.values, options.queries
        self._haystack = options.haystack

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """A text with numbers under names, then questions for some of the names."""
        length = self.length(split, generator)
        every = list(product(KINDS, THINGS))
        names = [every[index] for index in generator.permutation(len(every))[: self._names]]
        owners = [names[index] for index in generator.permutation(np.repeat(np.arange(len(names)), self._values))]
        numbers, depths = [self.number(generator) for _ in owners], self.depths(len(owners), generator)
        sentences = [self._sentence(*pair) for pair in zip(owners, numbers, strict=True)]
        asked = [names[index] for index in generator.permutation(len(names))[: self._queries]]
        questions: list[str] = []
        places: list[int] = []
        found: list[int] = []
        for name in asked:
            questions += [*f"what is the number of {' '.join(name)} ?".split(), MARK]
            for number, depth, owner in zip(numbers, depths, owners, strict=True):
                if owner == name:
                    places += range(len(questions), len(questions) + len(number))
                    found += [depth] * len(number)
                    questions += [*number, ","]
            questions[-1] = STOP
        needed = len(questions) + sum(map(len, sentences)) - 1
        refuse_short(length, needed, "the numbers and the questions need")
        begin = length + 1 - len(questions)
        haystack = cycle(FILLER) if self._haystack == "filler" else self._others(set(names), generator)
        text = self.hide(sentences, depths, haystack, begin)
        return Drawn([*text, *questions], [begin + place for place in places], {"length": length, "depth": found})

    def _others(self, names: set[tuple[str, str]], generator: np.random.Generator) -> Iterator[str]:
        """Sentences with numbers of other names, without end."""
        while True:
            name = one_of(KINDS, generator), one_of(THINGS, generator)
            if name not in names:
                yield from self._sentence(name, self.number(generator))

    @staticmethod
    def _sentence(name: tuple[str, str], number: list[str]) -> list[str]:
        return f"the number of {' '.join(name)} is {' '.join(number)} .".split()
