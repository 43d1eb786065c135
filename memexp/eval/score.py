"""Scoring documents: the nats of every token except a document's first, or of its answers only, each exactly once.

document   d0 d1 d2 d3 d4 d5 d6 d7
inputs     d0 d1 d2 | d3 d4 d5 | d6        strides of T = 3; the state is carried across each bar
targets    d1 d2 d3 | d4 d5 d6 | d7        shifted first and split afterwards, so no target is lost between strides
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.data.corpus import TokenDocument
from memexp.data.lanes import Batch, scoring_batches
from memexp.errors import UserError
from memexp.eval.retrieved import rows_of, strongest
from memexp.model.segment import SegmentModel
from memexp.model.state import State, Tree
from memexp.model.transformer.attention import any_shape
from memexp.model.transformer.numerics import FP32, Arithmetic
from memexp.model.watching import Gauges, is_fill, on_host
from memexp.store.folder import RETRIEVED
from memexp.train.batch import onto, to_device, to_host


class Scores(NamedTuple):
    """The result for all scored tokens; documents are one after another, in the given order."""

    nats: np.ndarray
    """float32, one value per scored token."""
    lengths: list[int]
    """Number of scored tokens of each document."""
    memory_fill: float | None
    """Largest share of a memory's slots that was filled; None without memory."""
    said: np.ndarray | None
    """int64, the token that the model predicts in place of each scored token; None if no document has answers."""
    retrieved: np.ndarray | None
    """`memexp.store.folder.RETRIEVED`, one row per scored token; None if it was not asked for."""
    gauges: dict[str, float]
    """The model's gauges, averaged over all strides of all documents; `memory_fill*` and `memory_between*` are left out."""
    strides: int
    """How many strides these are means over."""


class _Living(NamedTuple):
    """One stride of the lanes that still have documents."""

    batch: Batch[np.ndarray]
    still: np.ndarray
    """Indices of these lanes among the lanes of the stride before, int64."""


class _Found(NamedTuple):
    """What was found in one stride, still on the device."""

    nats_BT: Tensor
    said: list[Tensor]
    """The token that the model predicts in place of each target, B T; empty if answers are not predicted."""
    nearest: list[Tensor]
    """What `strongest` gives; empty if it was not asked for."""
    gauges: Gauges


class _Carried:
    """The state of the lanes between two strides. It is held here alone, for it may take most of a device's memory."""

    def __init__(self, state: State) -> None:
        self.put(state)

    def put(self, state: State) -> None:
        """Carry this state."""
        self._leaves, self._structure = pytree.tree_flatten(state)

    def take(self, still: np.ndarray) -> State:
        """Give away the state of the lanes with the indices `still`. The others are left out of one tensor after another.

        So only one tensor is there twice.
        """
        leaves, self._leaves = self._leaves, []
        if any(len(leaf) != len(still) for leaf in leaves):
            devices = {leaf.device for leaf in leaves}  # some may be in the host's memory and others on the device
            index = {device: onto(still, device) for device in devices}
            for number in range(len(leaves)):
                leaves[number] = leaves[number].index_select(0, index[leaves[number].device])
        state: State = pytree.tree_unflatten(leaves, self._structure)
        return state


class _Gathered:
    """What was found of the documents so far, in the host's memory; only gauges stay on the device."""

    def __init__(
        self, documents: Sequence[TokenDocument], *, max_document: int, answered: bool, retrieved: int
    ) -> None:
        """
        Args:
            max_document, answered, retrieved: as `score_documents` takes them.
        """
        lengths = [len(document.tokens) for document in documents]
        self._scored = [document.scored(max_document) for document in documents]
        self._nats = [np.zeros(length, np.float32) for length in lengths]
        self._said = [np.zeros(length, np.int64) for length in lengths] if answered else None
        self._positions = [np.zeros((length, retrieved), RETRIEVED) for length in lengths] if retrieved else None
        self._gauges: Gauges = {}
        self._fills: list[Tensor] = []
        self._strides = 0

    def add(self, batch: Batch[np.ndarray], found: _Found) -> None:
        """Take what was found in a stride of some lanes, in one transfer."""
        arrays = to_host(*found.nearest, found.nats_BT, *found.said)
        if self._said is not None:
            _store(self._said, arrays.pop(), batch)
        _store(self._nats, arrays.pop(), batch)
        if self._positions is not None:
            _store(self._positions, rows_of(arrays[0], arrays[1], self._positions[0].shape[1]), batch)
        lanes = len(batch.document_B)
        self._strides += lanes
        for name, value in found.gauges.items():
            if is_fill(name):
                self._fills.append(value)
            elif not name.startswith("memory_between"):  # it depends on which documents are side by side
                self._gauges[name] = self._gauges.get(name, torch.zeros_like(value)) + value * lanes

    def scores(self) -> Scores:
        """The result, once every stride was added."""
        fill = {"memory_fill": torch.stack(self._fills).max()} if self._fills else {}
        numbers = on_host(self._gauges | fill)
        memory_fill = numbers.pop("memory_fill", None)
        return Scores(
            nats=_joined(self._nats, self._scored),
            lengths=[len(indices) for indices in self._scored],
            memory_fill=memory_fill,
            said=None if self._said is None else _joined(self._said, self._scored),
            retrieved=None if self._positions is None else _joined(self._positions, self._scored),
            gauges={name: total / self._strides for name, total in numbers.items()},
            strides=self._strides,
        )


@torch.no_grad()
def score_documents(
    model: SegmentModel,
    documents: Sequence[TokenDocument],
    *,
    lanes: int,
    max_document: int,
    memory: str = "on",
    answers_from: int = 0,
    retrieved: int = 0,
    arithmetic: Arithmetic = FP32,
    progress: Callable[[int], None] | None = None,
    foreign: Sequence[TokenDocument] | None = None,
    answered: bool | None = None,
) -> Scores:
    """Score the first `max_document` targets of each document (0: all), or only the answers among them.

    Documents are read one stride at a time, because the model writes to its memory after each stride.

    Args:
        lanes: number of documents read in parallel; affects only the speed.
        memory: "on"; "off" resets the memory to its state at a document's start before every stride; "foreign" replaces the
            memory by that of another document before the same stride. The cache is always the document's own.
        answers_from: the first token id that can be an answer; smaller ids are excluded when an answer is predicted.
        retrieved: how many of the memory positions that each token read to keep; 0 for none.
        progress: called after each stride with the number of targets that were read.
        foreign: for each document the other one whose memory it reads; default: `others` of these documents.
        answered: whether to predict answers; default: whether one of these documents has any.

    Raises:
        UserError: memory is foreign and there is no other document; or `retrieved` is set, but the model retrieves nothing,
            the memory is not the document's own, or only answers are scored.
    """
    model.eval()
    device = next(model.parameters()).device
    answered = has_answers(documents) if answered is None else answered
    if retrieved and (answered or memory != "on"):
        seen = "only answers are scored" if answered else f"memory is {memory}"
        raise UserError(
            f"retrieved is {retrieved}, but {seen}; expected whole documents that read their own memory, because each "
            "position is shown as text of the document"
        )
    lanes = max(1, min(lanes, len(documents)))

    def batches(documents: Sequence[TokenDocument]) -> Iterator[_Living]:
        return _living(scoring_batches(documents, lanes=lanes, segment=model.stride, max_document=max_document), lanes)

    memories = None
    if memory == "foreign":
        read = others(documents) if foreign is None else foreign
        memories = _memories(model, batches(read), lanes, arithmetic=arithmetic)
    # the memory of others takes the place of an own one
    carried = _Carried(model.init_state(lanes) if memories is None else State(model.init_state(lanes).cache, ()))

    def score_stride(batch: Batch[np.ndarray], still: np.ndarray) -> _Found:
        """Read one stride. In a function of its own, because nothing but `carried` may hold the state after it."""
        inputs = to_device(batch, device)
        state = carried.take(still)
        if memories is None:
            state = model.clear(state, inputs.reset_B)
        else:  # cleared where it comes from, for the same lanes; another copy of it may be large
            others_memory = next(memories)
            cleared = model.clear(state._replace(memory=others_memory), inputs.reset_B)
            state = State(cleared.cache, others_memory)
            del cleared, others_memory
        if memory == "off":
            state = state._replace(memory=model.clear(state, torch.ones_like(inputs.reset_B)).memory)
        nearest: list[Tensor] = []
        with any_shape(), arithmetic.on(device):
            if retrieved:
                reset_B = torch.zeros_like(inputs.reset_B)  # the state was already cleared above
                retrieval = model.inspect(inputs.tokens_BT, inputs.valid_BT, state, reset_B)
                if retrieval.ages_BTLHk.shape[2] == 0:
                    raise UserError(
                        f"retrieved is {retrieved}, but this model retrieves nothing; expected a memory of key-value pairs"
                    )
                nearest += strongest(retrieval, retrieved)
            output = model.step(inputs.tokens_BT, inputs.valid_BT, state)
            carried.put(output.state if memories is None else State(output.state.cache, ()))
            nats_BT = model.head.nats(output.hidden_BTD, inputs.targets_BT).float()
            said = [model.head.best(output.hidden_BTD, answers_from)] if answered else []
        return _Found(nats_BT, said, nearest, output.gauges)

    gathered = _Gathered(documents, max_document=max_document, answered=answered, retrieved=retrieved)
    for batch, still in batches(documents):
        gathered.add(batch, score_stride(batch, still))
        if progress is not None:
            progress(int(batch.valid_BT.sum()))
    return gathered.scores()


def has_answers(documents: Sequence[TokenDocument]) -> bool:
    """Whether only answers are scored in one of the documents."""
    return any(document.answers is not None for document in documents)


def shares(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Which documents each of several processes scores: the longest first, each to the process that has least to read.

    Args:
        sizes: how much of each document is read.

    Returns:
        The indices of each process's documents, in their order. With fewer documents than processes some have none.
    """
    loads, found = [0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[int], list[list[int]]]
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        least = loads.index(min(loads))
        found[least].append(index)
        loads[least] += sizes[index]
    return [sorted(indices) for indices in found]


def put_together(parts: Sequence[tuple[Scores, list[int]]]) -> Scores:
    """The scores of all documents, in their order, from those of several processes.

    Args:
        parts: the scores of each process that has scored any, and the indices of its documents.
    """
    place = {index: number for number, index in enumerate(index for _, indices in parts for index in indices)}
    lengths = [length for scores, _ in parts for length in scores.lengths]
    order = [place[index] for index in range(len(place))]

    def in_order(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        if any(array is None for array in arrays):
            return None
        pieces = np.split(np.concatenate([array for array in arrays if array is not None]), np.cumsum(lengths)[:-1])
        return np.concatenate([pieces[number] for number in order])

    nats = in_order([scores.nats for scores, _ in parts])
    assert nats is not None
    fills = [scores.memory_fill for scores, _ in parts if scores.memory_fill is not None]
    strides = sum(scores.strides for scores, _ in parts)
    return Scores(
        nats=nats,
        lengths=[lengths[number] for number in order],
        memory_fill=max(fills, default=None),
        said=in_order([scores.said for scores, _ in parts]),
        retrieved=in_order([scores.retrieved for scores, _ in parts]),
        gauges={
            name: sum(scores.gauges[name] * scores.strides for scores, _ in parts) / strides
            for name in parts[0][0].gauges
        },
        strides=strides,
    )


def others(documents: Sequence[TokenDocument]) -> list[TokenDocument]:
    """For each document the next document, cut or repeated to the same length, so that both are read in parallel."""
    if len(documents) < 2:
        raise UserError(
            f"memory is foreign but there {'is 1 document' if len(documents) == 1 else f'are {len(documents)} documents'} to score; expected two at least, because each document "
            "reads the memory of another. Increase eval.documents"
        )
    following = [*documents[1:], documents[0]]
    # A class token is never an input, so it is cut off before a document is repeated.
    texts = [other.tokens if other.answers is None or other.label is None else other.tokens[:-1] for other in following]
    return [
        other._replace(tokens=np.resize(text[: len(document.tokens)], len(document.tokens)), answers=None)
        for document, other, text in zip(documents, following, texts, strict=True)
    ]


def _memories(model: SegmentModel, batches: Iterator[_Living], lanes: int, *, arithmetic: Arithmetic) -> Iterator[Tree]:
    """Yield the memory before each batch, which may be written to until the next is taken: a state can be read again after that."""
    device = next(model.parameters()).device
    carried = _Carried(model.init_state(lanes))
    for batch, still in batches:
        inputs = to_device(batch, device)
        state = model.clear(carried.take(still), inputs.reset_B)
        yield state.memory
        with any_shape(), arithmetic.on(device):
            carried.put(model.step(inputs.tokens_BT, inputs.valid_BT, state).state)
        del state


def _living(batches: Iterator[Batch[np.ndarray]], lanes: int) -> Iterator[_Living]:
    """Leave out lanes that have no document left; they need no computation and must not count in gauges."""
    living = np.arange(lanes)
    for batch in batches:
        still = np.flatnonzero(batch.document_B[living] >= 0)
        living = living[still]
        yield _Living(Batch(*(array[living] for array in batch)), still)


def _store(results: list[np.ndarray], values_BT: np.ndarray, batch: Batch[np.ndarray]) -> None:
    """Write the values of a stride's targets into `results`, one array per document, at the targets' positions."""
    for lane, (document, offset) in enumerate(zip(batch.document_B, batch.offset_B, strict=True)):
        read = int(batch.valid_BT[lane].sum())
        results[document][offset + 1 : offset + 1 + read] = values_BT[lane, :read]


def _joined(results: list[np.ndarray], scored: list[np.ndarray]) -> np.ndarray:
    """The values of the scored tokens, documents one after another."""
    parts = [values[indices] for values, indices in zip(results, scored, strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
