"""Documents become batches: every lane reads one document after another, a segment of T tokens at a time.

A document of L tokens is shifted first and then split: inputs are its tokens 0 to L-2, targets 1 to L-1, so a
segment's last target is the next segment's first token, and every token but a document's first is scored once, or
of a document with answers only those.
With T = 3, a document a b c d e f and then one that begins g h:

    tokens   a b c | d e - | g h ...
    targets  b c d | e f - | h ...
    weight   1 1 1 | 1 1 0 | 1 ...
    reset    yes   | no    | yes

Letters: B lanes, T tokens of a segment.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from memexp.data.corpus import TokenDocument
from memexp.errors import UserError
from memexp.ranks.place import share

Array = TypeVar("Array")
Other = TypeVar("Other")


class Batch(NamedTuple, Generic[Array]):
    """One segment of every lane: NumPy arrays as lanes give it, tensors as a model reads it (`memexp.train.batch`)."""

    tokens_BT: Array
    """int64; 0 on padding."""
    targets_BT: Array
    """int64, the token that follows; 0 on padding."""
    valid_BT: Array
    """bool: there is a token. Padding stands only after a document's end."""
    weight_BT: Array
    """float32: 1 where the target is scored, else 0."""
    reset_B: Array
    """bool: a document begins at this segment."""
    document_B: np.ndarray
    """int64 index into the documents; -1 where the lane has run out. No model reads it: it stays in NumPy."""
    offset_B: np.ndarray
    """int64 index in the document of the segment's first token. It stays in NumPy, too."""

    def map(self, change: Callable[[Array], Other]) -> "Batch[Other]":
        """The batch with everything that a model reads changed by a function."""
        return Batch(
            change(self.tokens_BT),
            change(self.targets_BT),
            change(self.valid_BT),
            change(self.weight_BT),
            change(self.reset_B),
            self.document_B,
            self.offset_B,
        )


@dataclass(slots=True)
class _Reading:
    """A document, or a crop of it, that a lane is reading."""

    document: int
    tokens: np.ndarray
    start: int
    """Index in the document of `tokens[0]`."""
    answers: np.ndarray | None
    """Bool, whether each of `tokens` is scored; None: every one is."""
    position: int = 0
    """Index in `tokens` of the next input."""

    @property
    def done(self) -> bool:
        return self.position >= len(self.tokens) - 1

    def scored(self, segment: int) -> int:
        """Targets of the segment that is next that are scored."""
        start, end = self.position, self.end(segment)
        return end - start if self.answers is None else int(self.answers[start + 1 : end + 1].sum())

    def end(self, segment: int) -> int:
        """The position behind the segment that is next."""
        return min(self.position + segment, len(self.tokens) - 1)


def _segment_of(readings: Sequence[_Reading | None], segment: int) -> Batch[np.ndarray]:
    """The next segment of every lane, None being one that has run out."""
    shape = (len(readings), segment)
    tokens_BT, targets_BT = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    valid_BT, weight_BT = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32)
    reset_B = np.zeros(len(readings), dtype=bool)
    document_B, offset_B = np.full(len(readings), -1, dtype=np.int64), np.zeros(len(readings), dtype=np.int64)
    for lane, reading in enumerate(readings):
        if reading is None:
            continue
        start, end = reading.position, reading.end(segment)
        tokens_BT[lane, : end - start] = reading.tokens[start:end]
        targets_BT[lane, : end - start] = reading.tokens[start + 1 : end + 1]
        valid_BT[lane, : end - start] = True
        weight_BT[lane, : end - start] = 1 if reading.answers is None else reading.answers[start + 1 : end + 1]
        reset_B[lane] = start == 0
        document_B[lane] = reading.document
        offset_B[lane] = reading.start + start
    return Batch(tokens_BT, targets_BT, valid_BT, weight_BT, reset_B, document_B, offset_B)


class Growth(NamedTuple):
    """Crops that become longer during training: each length, twice the one before, reads the same share of the tokens.

    Short crops show many documents while the model learns most. Long crops fill a large memory.
    """

    first: int
    """Scored tokens of the first crops."""
    tokens: int
    """Tokens of the whole training, of all lanes."""

    def length(self, read: int, longest: int) -> int:
        """Scored tokens of a crop that begins after `read` tokens, if the last crops have `longest`."""
        doublings = max(0, math.ceil(math.log2(longest / self.first)))
        return min(longest, self.first << min(doublings, read * (doublings + 1) // self.tokens))


class _Visits:
    """What is read in which order: documents, crops or chunks of them, permuted for each epoch.

    A visit depends on the settings, the seed and its number alone.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        *,
        segment: int,
        lanes: int,
        seed: int,
        max_document: int,
        cut: str,
        growth: Growth | None,
        tails: bool,
    ) -> None:
        self._documents, self._segment, self._lanes, self._seed = documents, segment, lanes, seed
        self._growth, self._tails = growth, tails
        self._begun = [0]
        """With growth: the scored tokens of all visits before each visit, as far as they were asked for."""
        targets = np.array([len(document.tokens) - 1 for document in documents], dtype=np.int64)
        if growth is not None and not max_document:
            max_document = int(targets.max())
        self._max_document, self._cropped = max_document, max_document > 0 and cut == "crop"
        self._document = np.flatnonzero(targets > 0)
        self._first = np.zeros(len(self._document), dtype=np.int64)
        if cut == "chunks":
            chunks = -(-targets[self._document] // max_document)
            self._first = max_document * _counted(chunks)
            self._document = np.repeat(self._document, chunks)
        self._order = (-1, np.empty(0, dtype=np.int64))
        self._targets = self._kept(np.minimum(targets[self._document] - self._first, max_document or targets.max()))

    def __len__(self) -> int:
        """Visits of an epoch."""
        return len(self._document)

    def __getitem__(self, number: int) -> _Reading:
        """The reading that visit `number`, counted from 0, begins."""
        visit = self._visit(number)
        document, first, length = int(self._document[visit]), int(self._first[visit]), int(self._targets[visit]) + 1
        tokens, answers = self._documents[document].tokens, self._documents[document].answers
        longest = self._longest(number) + 1
        if self._cropped and len(tokens) > longest:
            first = int(np.random.default_rng((self._seed, 1, number)).integers(len(tokens) - longest + 1))
        part = slice(first, first + min(length, longest) if self._cropped else first + length)
        return _Reading(document, tokens[part], first, None if answers is None else answers[part])

    def _visit(self, number: int) -> int:
        """Which visit of an epoch it is: an index into what all epochs read."""
        epoch, place = divmod(number, len(self))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, 0, epoch)).permutation(len(self))
        return int(self._order[1][place])

    def _longest(self, number: int) -> int:
        """Scored tokens of this visit at most.

        It grows with the tokens of the visits that had ended when this one began: all before it but those of the other lanes.
        """
        if self._growth is None:
            return self._max_document
        ended = max(0, number - self._lanes + 1)
        while len(self._begun) <= ended:
            before = len(self._begun) - 1
            targets = int(self._targets[self._visit(before)])
            self._begun.append(self._begun[-1] + min(targets, self._longest(before)))
        return self._growth.length(self._begun[ended], self._max_document)

    def _kept(self, targets: np.ndarray) -> np.ndarray:
        """Targets of each visit that are read: all, or those of whole segments; what is shorter than one is read as it is."""
        whole = targets - targets % self._segment
        return targets if self._tails else np.where(whole > 0, whole, targets)

    @property
    def padding(self) -> float:
        """Share of an epoch's segments, in tokens, that stands behind the end of what is read; of crops that grow, the longest count."""
        return 1 - float(self._targets.sum()) / float((-(-self._targets // self._segment) * self._segment).sum())


def _counted(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each of the counts in turn."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


class TrainingLanes:
    """Batches without end.

    Documents are visited in an order that is permuted for each epoch; a lane that has finished one takes the next
    visit. A visit reads a whole document, one random crop, or a chunk. Order and crop depend on the seed and the number
    of the visit alone, so `state` is a few integers.

    Lanes never run out, so no order of documents would leave less padding: it stands where a document ends within a
    segment. `drop_tails` reads nothing there.

    Several processes may read a part of the lanes each. All of them follow all lanes, which costs no reading: their
    batches, one below the other, are those of one process, and so is their state.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        *,
        lanes: int,
        segment: int,
        seed: int,
        max_document: int,
        cut: str = "crop",
        growth: Growth | None = None,
        drop_tails: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """
        Args:
            lanes: of all processes.
            max_document: scored tokens of a visit at most, from one token more; 0 reads whole documents.
            cut: what a visit to a longer document reads: a random crop, or one of the consecutive chunks that it is cut into.
            growth: how crops grow to `max_document`; None: they always have it.
            drop_tails: leave out what does not fill a segment at the end of a visit, unless it is all of it.
            rank, ranks: which process this is, counted from 0, and how many there are.

        Raises:
            UserError: no document has two tokens, answers or what they need would be dropped, or the lanes cannot be shared out evenly.
        """
        if not any(len(document.tokens) > 1 for document in documents):
            raise UserError(
                f"none of {len(documents)} training documents has two tokens; expected something to predict"
            )
        if drop_tails and any(document.answers is not None for document in documents):
            raise UserError(
                "data.drop_tails is true, but documents have answers, which stand at their ends; expected "
                "data.drop_tails=false"
            )
        name, shortest = ("data.max_document", max_document) if growth is None else ("data.grow_from", growth.first)
        cut_off = (one for one in documents if one.answers is not None and 0 < shortest < len(one.tokens) - 1)
        if (document := next(cut_off, None)) is not None:
            raise UserError(
                f"{name} is {shortest}, but document {document.id} has {len(document.tokens) - 1} tokens to predict, and "
                f"its answers need all that stands before them; expected {name}=0, or more"
            )
        if lanes % ranks:
            raise UserError(
                f"lanes is {lanes} with {ranks} processes; expected a multiple, because each process has a device and reads as many "
                "lanes as the others"
            )
        self._segment = segment
        self._visit = _Visits(
            documents,
            segment=segment,
            lanes=lanes,
            seed=seed,
            max_document=max_document,
            cut=cut,
            growth=growth,
            tails=not drop_tails,
        )
        self._own = share(lanes, rank, ranks)
        self._visits = list(range(lanes))
        self._readings = [self._visit[number] for number in self._visits]
        self._next_visit = lanes
        self.scored = 0
        """Targets of the last batch that are scored, in the lanes of all processes."""

    def __iter__(self) -> Iterator[Batch[np.ndarray]]:
        return self

    def __next__(self) -> Batch[np.ndarray]:
        for lane, reading in enumerate(self._readings):
            if reading.done:
                self._visits[lane] = self._next_visit
                self._readings[lane] = self._visit[self._next_visit]
                self._next_visit += 1
        batch = _segment_of(self._readings[self._own], self._segment)
        self.scored = sum(reading.scored(self._segment) for reading in self._readings)
        for reading in self._readings:
            reading.position = reading.end(self._segment)
        return batch

    @property
    def epoch(self) -> int:
        """Times that everything has been taken up, before the newest visit."""
        return (self._next_visit - 1) // len(self._visit)

    @property
    def padding(self) -> float:
        """Share of an epoch's segments, in tokens, that is padding behind documents' ends."""
        return self._visit.padding

    def state(self) -> dict[str, Any]:
        """Where every lane is, in plain integers: the next batch after `restore` is the next one now."""
        positions = [reading.position for reading in self._readings]
        return {"next_visit": self._next_visit, "visits": list(self._visits), "positions": positions}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken, in lanes of the same documents and settings."""
        if len(state["visits"]) != len(self._readings):
            raise ValueError(f"the state has {len(state['visits'])} lanes; expected {len(self._readings)}")
        self._next_visit = state["next_visit"]
        self._visits = list(state["visits"])
        # In the order of visits, for the order of an epoch is drawn when the first of it is asked for.
        readings = {number: self._visit[number] for number in sorted(self._visits)}
        self._readings = [readings[number] for number in self._visits]
        for reading, position in zip(self._readings, state["positions"], strict=True):
            reading.position = position


def scoring_batches(
    documents: Sequence[TokenDocument], *, lanes: int, segment: int, max_document: int
) -> Iterator[Batch[np.ndarray]]:
    """Every document once, in order: the next one goes to the lane that is free first.

    Args:
        max_document: targets of each document at most, from its start; 0 reads all.
    """
    end = max_document + 1 if max_document else None
    waiting = (
        _Reading(index, document.tokens[:end], 0, document.answers)
        for index, document in enumerate(documents)
        if len(document.tokens) > 1
    )
    readings: list[_Reading | None] = [None] * lanes
    while True:
        readings = [next(waiting, None) if reading is None or reading.done else reading for reading in readings]
        if not any(readings):
            return
        yield _segment_of(readings, segment)
        for reading in readings:
            if reading is not None:
                reading.position = reading.end(segment)
