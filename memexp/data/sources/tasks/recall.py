"""Tasks of keys and values: one value of a key is asked for, or many are."""

from abc import abstractmethod
from string import ascii_lowercase

import numpy as np

from memexp.config.sources import MqarOptions, RetrievalOptions, WrittenOptions
from memexp.data.sources.tasks.task import DIGITS, MARK, Drawn, Task, down, one_of


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

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """Pairs, a key, and its value."""
        pairs = one_of(self._pairs, generator)
        keys = [ascii_lowercase[index] for index in generator.permutation(len(ascii_lowercase))[:pairs]]
        values = [DIGITS[index] for index in generator.integers(len(DIGITS), size=pairs)]
        asked = int(generator.integers(pairs))
        words = [*_interleaved(keys, values), keys[asked], MARK, values[asked]]
        return Drawn(words, [len(words) - 1], {"pairs": pairs, "asked": asked + 1})


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

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """Pairs, then the queries between filler words."""
        pairs = one_of(self._pairs, generator)
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
        return Drawn(words, answers, {"pairs": pairs, "distance": [down(distances[answer]) for answer in answers]})


class _Written(Task):
    """Pairs of a key and a value, then a key and its value. Keys and values are made of the symbols 0 to 15.

    Scored are the value and the end mark. With key=1, value=2 and two pairs:

        7 : 3 12 , 4 : 9 9 , 7 - 3 12 .
                                 ^  ^ ^
    A pair has key + value + 2 words, and so has the question: with segments of this length, each segment holds one of them.
    """

    SYMBOLS = 16

    def __init__(self, options: WrittenOptions) -> None:
        super().__init__(options)
        self._key, self._value = options.key, options.value
        self._pairs = {"test": options.test_pairs or options.pairs}
        self._else = options.pairs

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """Pairs, one of the keys, and its value."""
        pairs = one_of(self._pairs.get(split, self._else), generator)
        keys, asked = self.keys(pairs, generator)
        values = generator.integers(self.SYMBOLS, size=(pairs, self._value)).astype(str).tolist()
        words: list[str] = []
        for key, value in zip(keys, values, strict=True):
            words += [*self._symbols(key), ":", *value, ","]
        words += [*self._symbols(keys[asked]), "-"]
        answers = range(len(words), len(words) + self._value + 1)
        slices = {"pairs": pairs, "age": down(pairs - asked), "writes": down(keys.count(keys[asked]))}
        return Drawn([*words, *values[asked], "."], answers, slices)

    @abstractmethod
    def keys(self, pairs: int, generator: np.random.Generator) -> tuple[list[int], int]:
        """The key of each pair, as a number, and the pair whose value is asked for: the last one with its key."""

    def _symbols(self, key: int) -> list[str]:
        """The symbols of a key: its digits to the base 16."""
        return [str(key // self.SYMBOLS**place % self.SYMBOLS) for place in reversed(range(self._key))]


class Remember(_Written):
    """Say the value of one of many keys, which are all different (Associative RMT, Rodkin et al. 2024, section 4.1).

    How many pairs a memory holds follows from the share a of right answers, with v possible values: pairs * (v * a - 1) / (v - 1).
    Slices: the number of pairs, and how many pairs ago the asked one stood, down to a power of two.
    """

    def keys(self, pairs: int, generator: np.random.Generator) -> tuple[list[int], int]:
        """Different keys; each pair is as likely to be asked for."""
        keys = generator.choice(self.SYMBOLS**self._key, size=pairs, replace=False).tolist()
        return keys, int(generator.integers(pairs))


class Rewrite(_Written):
    """Say the value that a key was given last (Associative RMT, Rodkin et al. 2024, section 4.1).

    Keys come again with other values, so a memory has to replace what it holds.
    Slices: the number of pairs, how many pairs ago the asked key was written last, and how often it was written, the last two
    down to a power of two.
    """

    def keys(self, pairs: int, generator: np.random.Generator) -> tuple[list[int], int]:
        """Keys that may come again; each different key is as likely to be asked for."""
        keys = generator.integers(self.SYMBOLS**self._key, size=pairs).tolist()
        asked = one_of(sorted(set(keys)), generator)
        return keys, pairs - 1 - keys[::-1].index(asked)


def _interleaved(keys: list[str], values: list[str]) -> list[str]:
    return [word for pair in zip(keys, values, strict=True) for word in pair]
