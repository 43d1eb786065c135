"""Tasks that say a source of symbols again: copy and reverse."""

from abc import abstractmethod

import numpy as np

from memexp.config.sources import EchoOptions
from memexp.data.sources.tasks.task import DIGITS, MARK, Drawn, Task, one_of


class _Echo(Task):
    """Symbols, the mark, and a target that follows from the symbols."""

    def __init__(self, options: EchoOptions) -> None:
        super().__init__(options)
        self._lengths = options.lengths

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """A source and its target."""
        length = one_of(self._lengths, generator)
        source = [DIGITS[index] for index in generator.integers(len(DIGITS), size=length)]
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
