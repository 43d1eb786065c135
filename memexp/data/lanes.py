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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from memexp.data.corpus import TokenDocument
from memexp.errors import UserError


class Batch(NamedTuple):
    """One segment of every lane."""

    tokens_BT: np.ndarray
    """int64; 0 on padding."""
    targets_BT: np.ndarray
    """int64, the token that follows; 0 on padding."""
    valid_BT: np.ndarray
    """bool: there is a token. Padding stands only after a document's end."""
    weight_BT: np.ndarray
    """float32: 1 where the target is scored, else 0."""
    reset_B: np.ndarray
    """bool: a document begins at this segment."""
    document_B: np.ndarray
    """int64 index into the documents; -1 where the lane has run out."""
    offset_B: np.ndarray
    """int64 index in the document of the segment's first token."""


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


def _next_segment(readings: Sequence[_Reading | None], segment: int) -> Batch:
    """Read a segment of every lane, None being one that has run out."""
    shape = (len(readings), segment)
    tokens_BT, targets_BT = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    valid_BT, weight_BT = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32)
    reset_B = np.zeros(len(readings), dtype=bool)
    document_B, offset_B = np.full(len(readings), -1, dtype=np.int64), np.zeros(len(readings), dtype=np.int64)
    for lane, reading in enumerate(readings):
        if reading is None:
            continue
        start = reading.position
        end = min(start + segment, len(reading.tokens) - 1)
        tokens_BT[lane, : end - start] = reading.tokens[start:end]
        targets_BT[lane, : end - start] = reading.tokens[start + 1 : end + 1]
        valid_BT[lane, : end - start] = True
        weight_BT[lane, : end - start] = 1 if reading.answers is None else reading.answers[start + 1 : end + 1]
        reset_B[lane] = start == 0
        document_B[lane] = reading.document
        offset_B[lane] = reading.start + start
        reading.position = end
    return Batch(tokens_BT, targets_BT, valid_BT, weight_BT, reset_B, document_B, offset_B)


class TrainingLanes:
    """Batches without end.

    Documents are visited in an order that is permuted for each epoch; a lane that has finished one takes the next
    visit. A visit reads a whole document, or one random crop. Order and crop depend on the seed and the number of the
    visit alone, so `state` is a few integers.
    """

    def __init__(
        self, documents: Sequence[TokenDocument], *, lanes: int, segment: int, seed: int, max_document: int
    ) -> None:
        """
        Args:
            max_document: scored tokens of a visit at most, from one token more; 0 reads whole documents.

        Raises:
            UserError: no document has two tokens.
        """
        self._documents = documents
        self._usable = [index for index, document in enumerate(documents) if len(document.tokens) > 1]
        if not self._usable:
            raise UserError(
                f"none of {len(documents)} training documents has two tokens; expected something to predict"
            )
        self._segment = segment
        self._seed = seed
        self._max_document = max_document
        self._order = (-1, np.empty(0, dtype=np.int64))
        self._visits = list(range(lanes))
        self._readings = [self._visit(number) for number in self._visits]
        self._next_visit = lanes

    def _visit(self, number: int) -> _Reading:
        """The reading that visit `number`, counted from 0, begins."""
        epoch, place = divmod(number, len(self._usable))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, 0, epoch)).permutation(self._usable)
        document = int(self._order[1][place])
        tokens, answers = self._documents[document].tokens, self._documents[document].answers
        length = self._max_document + 1
        if not self._max_document or len(tokens) <= length:
            return _Reading(document, tokens, 0, answers)
        start = int(np.random.default_rng((self._seed, 1, number)).integers(len(tokens) - length + 1))
        crop = slice(start, start + length)
        return _Reading(document, tokens[crop], start, None if answers is None else answers[crop])

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        for lane, reading in enumerate(self._readings):
            if reading.done:
                self._visits[lane] = self._next_visit
                self._readings[lane] = self._visit(self._next_visit)
                self._next_visit += 1
        return _next_segment(self._readings, self._segment)

    @property
    def epoch(self) -> int:
        """Times that every document has been taken up, before the newest visit."""
        return (self._next_visit - 1) // len(self._usable)

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
        self._readings = [self._visit(number) for number in self._visits]
        for reading, position in zip(self._readings, state["positions"], strict=True):
            reading.position = position


def scoring_batches(
    documents: Sequence[TokenDocument], *, lanes: int, segment: int, max_document: int
) -> Iterator[Batch]:
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
        yield _next_segment(readings, segment)
