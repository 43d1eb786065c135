"""Questions about stories of people, places and things, in the manner of bAbI's tasks 1 to 5 (Weston et al. 2015), told
between other sentences as in BABILong (Kuratov et al. 2024).

The published files cannot be drawn again, so the stories are of our own grammar: the same worlds, rules and questions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from memexp.config.sources import BabiOptions
from memexp.data.sources.tasks.background import Background
from memexp.data.sources.tasks.task import DRAWS, MARK, Drawn, LongTask, down, one_of
from memexp.errors import UserError
from memexp.terminal import escape

PEOPLE = ("daniel", "john", "mary", "sandra")
GIVERS = ("bill", "fred", "jeff", "mary")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")

MOVES = ("went to", "journeyed to", "travelled to", "moved to", "went back to")
GETS = ("got", "took", "grabbed", "picked up")
DROPS = ("dropped", "discarded", "put down", "left")
GIVES = ("gave", "handed", "passed")

QUESTIONS = 5
"""Questions of a story. A document has the facts before one of them, without the earlier questions."""

OTHERS = ("alice", "george", "helen", "oscar", "paula", "simon", "vera", "walter")
ELSEWHERE = ("bakery", "bridge", "forest", "harbour", "library", "museum", "station", "theatre")
GOODS = ("basket", "camera", "hammer", "letter", "pencil", "ticket", "umbrella", "violin")
DEEDS = (
    "{who} {move} the {place} .", "{who} {get} the {thing} .", "{who} {drop} the {thing} .", "{who} {give} the {thing} to {other} .",
    "{who} waited at the {place} .", "{who} and {other} talked about the {thing} .", "the {place} was closed .",
    "{who} looked for the {thing} at the {place} .",
)  # fmt: skip
"""Sentences of no use: their people, places and things are in no story."""


class Asked(NamedTuple):
    """A question about a story."""

    words: str
    answer: str
    support: list[int]
    """The facts that it follows from, by their places in the story."""


class World:
    """Who and what is where, what is told of it, and what follows from what is told.

    A move goes to another place than the present one. To get a thing, it must be in the same place and held by nobody. A held
    thing moves along. Where everybody and every thing is at the start is not told.
    """

    def __init__(self, people: tuple[str, ...], generator: np.random.Generator) -> None:
        self._generator, self.people = generator, people
        self._at = {each: one_of(PLACES, generator) for each in (*people, *THINGS)}
        self.holder: dict[str, str] = {}
        self.facts: list[str] = []
        self.known: dict[str, tuple[str, int]] = {}
        """The place of a person, and the fact that told it."""
        self._taken: dict[str, int] = {}
        """The fact that told who holds a thing."""
        self.track: dict[str, list[tuple[str, list[int]]]] = {thing: [] for thing in THINGS}
        """The places where a thing is known to have been, in order, each with the facts that it follows from."""
        self.given: list[tuple[str, str, str, int]] = []
        """Giver, thing, receiver and fact of what was given."""

    def move(self) -> bool:
        """Somebody goes somewhere else."""
        who = one_of(self.people, self._generator)
        place = one_of([each for each in PLACES if each != self._at[who]], self._generator)
        self._at[who] = place
        self._tell(f"{who} {one_of(MOVES, self._generator)} the {place} .")
        self.known[who] = place, len(self.facts) - 1
        for thing, holder in self.holder.items():
            if holder == who:
                self._at[thing] = place
                self._follow(thing)
        return True

    def get(self) -> bool:
        """Somebody takes a thing; False, and nothing happens, if nobody can."""
        free = [thing for thing in THINGS if thing not in self.holder]
        found = [(who, thing) for who in self.people for thing in free if self._at[who] == self._at[thing]]
        if not found:
            return False
        who, thing = one_of(found, self._generator)
        self.holder[thing] = who
        self._tell(f"{who} {one_of(GETS, self._generator)} the {thing} {self._there()}.")
        self._taken[thing] = len(self.facts) - 1
        self._follow(thing)
        return True

    def drop(self) -> bool:
        """Somebody drops a thing; False, and nothing happens, if nobody holds one."""
        if not self.holder:
            return False
        thing, who = one_of(sorted(self.holder.items()), self._generator)
        self._tell(f"{who} {one_of(DROPS, self._generator)} the {thing} {self._there()}.")
        self._follow(thing)
        del self.holder[thing]
        return True

    def give(self) -> bool:
        """Somebody gives a thing to another in the same place; False, and nothing happens, if nobody can."""
        found = [
            (who, thing, other)
            for thing, who in sorted(self.holder.items())
            for other in self.people
            if who != other and self._at[who] == self._at[other]
        ]
        if not found:
            return False
        who, thing, other = one_of(found, self._generator)
        self.holder[thing] = other
        self._tell(f"{who} {one_of(GIVES, self._generator)} the {thing} to {other} .")
        self._taken[thing] = len(self.facts) - 1
        self.given.append((who, thing, other, len(self.facts) - 1))
        return True

    def one_of(self, *events: Callable[[], bool]) -> None:
        """One of the events; those that cannot happen are drawn again."""
        while not one_of(events, self._generator)():
            pass

    def _tell(self, fact: str) -> None:
        self.facts.append(fact)

    def _there(self) -> str:
        return one_of(("there ", ""), self._generator)

    def _follow(self, thing: str) -> None:
        """Note where a thing is, if the place of its holder was told: it follows from that, from who holds it, and from the last fact."""
        if (told := self.known.get(self.holder[thing])) is None:
            return
        place, fact = told
        now, track = (place, sorted({fact, self._taken[thing], len(self.facts) - 1})), self.track[thing]
        if track and track[-1][0] == place:
            track[-1] = now
        else:
            track.append(now)


class Story(ABC):
    """A kind of story, with the questions about it."""

    @abstractmethod
    def tell(self, questions: int, generator: np.random.Generator) -> tuple[list[str], Asked]:
        """The facts of a story up to one of its questions, and this question.

        Args:
            questions: which one, counted from 1.
        """


class _WherePerson(Story):
    def tell(self, questions: int, generator: np.random.Generator) -> tuple[list[str], Asked]:
        world = World(PEOPLE, generator)
        for _ in range(2 * questions):
            world.move()
        who = one_of(sorted(world.known), generator)
        place, fact = world.known[who]
        return world.facts, Asked(f"where is {who} ?", place, [fact])


class _WhereThing(Story):
    """A story in which things are carried. Questions follow at least three facts after the last question."""

    def tell(self, questions: int, generator: np.random.Generator) -> tuple[list[str], Asked]:
        world, since = World(PEOPLE, generator), 0
        while True:
            world.one_of(world.move, world.get, world.drop)
            since += 1
            if (
                since < 3
                or generator.random() < 0.5
                or not (things := [each for each in THINGS if self.askable(world, each)])
            ):
                continue
            since, questions = 0, questions - 1
            if not questions:
                return world.facts, self.ask(world, one_of(things, generator))

    def askable(self, world: World, thing: str) -> bool:
        return bool(world.track[thing])

    def ask(self, world: World, thing: str) -> Asked:
        place, support = world.track[thing][-1]
        return Asked(f"where is the {thing} ?", place, support)


class _WhereBefore(_WhereThing):
    def askable(self, world: World, thing: str) -> bool:
        return len(world.track[thing]) > 1

    def ask(self, world: World, thing: str) -> Asked:
        (before, early), (place, late) = world.track[thing][-2:]
        return Asked(f"where was the {thing} before the {place} ?", before, sorted({*early, *late}))


class _WhatIsNorth(Story):
    def tell(self, questions: int, generator: np.random.Generator) -> tuple[list[str], Asked]:
        del questions  # a story has one
        first, middle, last = (PLACES[index] for index in generator.permutation(len(PLACES))[:3])
        ahead, back = one_of((("north", "south"), ("east", "west")), generator)
        told = [
            one_of((f"the {one} is {ahead} of the {other} .", f"the {other} is {back} of the {one} ."), generator)
            for one, other in ((first, middle), (middle, last))
        ]
        order = generator.permutation(2).tolist()
        words, answer, fact = one_of(
            (
                (f"what is {ahead} of the {middle} ?", first, 0),
                (f"what is {back} of the {middle} ?", last, 1),
                (f"what is the {middle} {back} of ?", first, 0),
                (f"what is the {middle} {ahead} of ?", last, 1),
            ),
            generator,
        )
        return [told[index] for index in order], Asked(words, answer, [order.index(fact)])


class _WhoGave(Story):
    def tell(self, questions: int, generator: np.random.Generator) -> tuple[list[str], Asked]:
        world = World(GIVERS, generator)
        while True:
            gifts = len(world.given)
            while len(world.given) == gifts:
                world.one_of(world.move, world.get, world.drop, world.give)
            questions -= 1
            if not questions:
                break
        giver, thing, receiver, fact = world.given[-1]
        for _ in range(int(generator.integers(6))):
            world.one_of(world.move, world.get, world.drop)
        question, answer = one_of(
            (
                (f"what did {giver} give to {receiver} ?", thing),
                (f"who gave the {thing} to {receiver} ?", giver),
                (f"who did {giver} give the {thing} to ?", receiver),
                (f"who gave the {thing} ?", giver),
                (f"who received the {thing} ?", receiver),
            ),
            generator,
        )
        return world.facts, Asked(question, answer, [fact])


STORIES: dict[str, type[Story]] = {
    "qa1": _WherePerson, "qa2": _WhereThing, "qa3": _WhereBefore, "qa4": _WhatIsNorth, "qa5": _WhoGave,
}  # fmt: skip


class Babi(LongTask):
    """Answer a question about a story. Scored are the answer and the end mark.

    Facts keep their order, and each stands before a drawn sentence of no use. Slices: the length of the document (not with
    noise=none), the number of facts, and how many words before the answer the earliest fact begins that it follows from, the
    last two down to a power of two. With question=qa1:

        vera waited at the bridge . mary went to the kitchen . the museum was closed . where is mary ? > kitchen .
                                                                                                         ^       ^

    *Differs from bAbI and BABILong:* the published files were made by a generator that is not public, so the sentences are of our own
    grammar; a document has one question, and in qa5 no other thing is given between the asked gift and the question. A story is drawn
    again until it fits the document's length, so short documents have only stories of few facts: with 64, 128, 256 and 4,096
    words, qa2 has means of 7, 12, 16 and 16 facts, qa3 of 7, 14, 24 and 29, qa5 of 7, 13, 23 and 40. A result by length is
    therefore one by facts too; `memexp table by=facts` tells the two apart.
    """

    def __init__(self, options: BabiOptions, path: str | None) -> None:
        """
        Args:
            path: with noise=text, the folder of the prepared corpus whose sentences stand between the facts.

        Raises:
            UserError: it is no prepared corpus, or nothing reads it.
        """
        super().__init__(options)
        self._story, self._noise, self._question = STORIES[options.question](), options.noise, options.question
        if path is not None and self._noise != "text":
            raise UserError(
                f"data.path is {escape(path)}, but data.source.noise is {self._noise}, with which no files are read; expected "
                "data.source.noise=text, or no path"
            )
        self._background = Background(path) if self._noise == "text" else None

    def describe(self) -> dict[str, Any]:
        """The task, and the corpus between whose sentences it is told."""
        described = super().describe()
        if self._background is not None:
            described["what"] += f", between sentences of {self._background.corpus.name}"
            described["parts"] = self._background.corpus.manifest["source"]["parts"]
        return described

    def identity(self) -> Any:
        """All settings, and the checksums of the corpus between whose sentences it is told."""
        return super().identity() | ({"background": self._background.corpus.content} if self._background else {})

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """A story between other sentences, a question and its answer."""
        length = self.length(split, generator)
        for _ in range(DRAWS):
            facts, asked = self._story.tell(int(generator.integers(QUESTIONS)) + 1, generator)
            told, end = [fact.split() for fact in facts], [*asked.words.split(), MARK, asked.answer, "."]
            room = length + 1 - len(end) - sum(map(len, told))
            if self._noise == "none" or room >= 0:
                break
        else:
            raise UserError(
                f"data.source.lengths or test_lengths has {length:,}, but no story of {DRAWS:,} with data.source.question={self._question} "
                "is as short; expected longer ones"
            )
        words, begins = _mixed(told, list(self._others(room, split, generator)), generator)
        answer = len(words) + len(end) - 2
        slices = {"facts": down(len(facts)), "distance": down(answer - begins[min(asked.support)])}
        if self._noise != "none":
            slices["length"] = length
        return Drawn([*words, *end], [answer, answer + 1], slices)

    def _others(self, words: int, split: str, generator: np.random.Generator) -> Iterator[list[str]]:
        """The sentences between the facts."""
        if self._noise == "none":
            return iter(())
        if self._background is not None:
            return self._background.sentences(words, split, generator)
        return _sentences(words, generator)


def _mixed(
    facts: list[list[str]], others: list[list[str]], generator: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Both, each in its own order; the gap of every fact between the other sentences is drawn.

    No fact stands behind the last of the others, which may be cut off.

    Returns:
        The words, and the place of the first word of each fact.
    """
    gaps = sorted(generator.integers(max(len(others), 1), size=len(facts)).tolist())
    words: list[str] = []
    begins = []
    last = 0
    for fact, gap in zip(facts, gaps, strict=True):
        words += chain.from_iterable(others[last:gap])
        begins.append(len(words))
        words += fact
        last = gap
    return [*words, *chain.from_iterable(others[last:])], begins


DRAWN = {
    "who": OTHERS, "place": ELSEWHERE, "thing": GOODS, "move": MOVES, "get": GETS, "drop": DROPS, "give": GIVES,
}  # fmt: skip
"""What stands in the sentences of `DEEDS`; the other person is not the first one."""


def _sentences(words: int, generator: np.random.Generator) -> Iterator[list[str]]:
    """Sentences of no use with so many words together; the last one is cut off."""
    choices = [DEEDS, OTHERS[1:], *DRAWN.values()]
    limits = np.array([len(each) for each in choices])
    # One call, for a call takes longer than many draws; no sentence has less than 5 words.
    for deed, other, *chosen in generator.integers(limits, size=(words // 5 + 1, len(limits))).tolist():
        filled = {name: each[index] for (name, each), index in zip(DRAWN.items(), chosen, strict=True)}
        filled["other"] = OTHERS[(chosen[0] + 1 + other) % len(OTHERS)]
        if cut := DEEDS[deed].format(**filled).split()[:words]:
            yield cut
        words -= len(cut)
