"""Scoring documents: the nats of every token but a document's first, or of its answers, each exactly once.

document   d0 d1 d2 d3 d4 d5 d6 d7
inputs     d0 d1 d2 | d3 d4 d5 | d6        segments of T = 3, the state carried over each bar
targets    d1 d2 d3 | d4 d5 d6 | d7        shifted before it is split, so no target falls between segments
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memexp.data.corpus import TokenDocument
from memexp.data.lanes import Batch, scoring_batches
from memexp.errors import UserError
from memexp.model.build import Fed, feed
from memexp.model.segment import SegmentModel, Tree, fork


class Scores(NamedTuple):
    """Documents one after another, in the order given."""

    nats: np.ndarray
    """float32, one a scored token."""
    lengths: list[int]
    """Scored tokens of each document."""
    memory_fill: float | None
    """Largest share of a memory's slots that was filled; None without memory."""
    correct: np.ndarray | None
    """Bool, one a scored token: whether it was the likeliest; None where no document has answers."""
    gauges: dict[str, float]
    """Of the model, means over the segments in which something is scored."""


@torch.no_grad()
def score_documents(
    model: SegmentModel,
    documents: Sequence[TokenDocument],
    *,
    lanes: int,
    segment: int,
    max_document: int,
    memory: str = "on",
    bf16: bool = False,
    progress: Any = None,
) -> Scores:
    """Score the first `max_document` targets of each document (0: all), or what is of its answers among them.

    Args:
        lanes: documents read side by side; changes nothing but speed.
        memory: "on"; "off" empties it before every segment; "foreign" puts in its place that of another document, as it
            stands there at the same segment. The cache is a document's own in all three.
        progress: called with the number of targets that were read, after each segment.

    Raises:
        UserError: memory is foreign and there is no other document.
    """
    model.eval()
    device = next(model.parameters()).device
    scored = [document.scored(max_document) for document in documents]
    answered = any(document.answers is not None for document in documents)
    nats = [np.zeros(len(document.tokens), np.float32) for document in documents]
    correct = [np.zeros(len(document.tokens), bool) for document in documents]
    gauges: dict[str, Tensor] = {}
    segments = 0
    lanes = max(1, min(lanes, len(documents)))

    def batches(documents: Sequence[TokenDocument]) -> Iterator[Batch]:
        return scoring_batches(documents, lanes=lanes, segment=segment, max_document=max_document)

    lent = _memories(model, batches(_others(documents)), lanes, bf16=bf16) if memory == "foreign" else None
    state, fill = model.init_state(lanes), None
    for batch in batches(documents):
        fed = _feed(batch, device)
        state = model.clear(state, fed.reset_B)
        if memory == "off":
            state = state._replace(memory=model.clear(state, torch.ones_like(fed.reset_B)).memory)
        if lent is not None:
            state = state._replace(memory=next(lent))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = model.step(fed.tokens_BT, fed.valid_BT, state)
            state = output.state
            nats_BT = model.head.nats(output.hidden_BTD, fed.targets_BT).float().cpu().numpy()
            _store(nats, nats_BT, batch)
            if answered:
                _store(correct, (model.head.best(output.hidden_BTD) == fed.targets_BT).cpu().numpy(), batch)
        if here := int((batch.weight_BT > 0).any(-1).sum()):
            segments += here
            for name, value in output.gauges.items():
                gauges[name] = gauges.get(name, torch.zeros_like(value)) + value * here
        fills = [float(value) for name, value in output.gauges.items() if name.startswith("memory_fill")]
        fill = max([fill or 0.0, *fills]) if fills else fill
        if progress is not None:
            progress(int(batch.valid_BT.sum()))
    return Scores(
        nats=_joined(nats, scored),
        lengths=[len(places) for places in scored],
        memory_fill=fill,
        correct=_joined(correct, scored) if answered else None,
        gauges={name: float(total) / segments for name, total in gauges.items()},
    )


def _others(documents: Sequence[TokenDocument]) -> list[TokenDocument]:
    """For each document the next one, cut or repeated to its length, so that the two are read in step."""
    if len(documents) < 2:
        raise UserError(
            f"memory is foreign but there are {len(documents)} documents to score; expected two at least, for one reads the "
            "memory of another. Raise eval.documents"
        )
    following = [*documents[1:], documents[0]]
    return [
        other._replace(tokens=np.resize(other.tokens[: len(document.tokens)], len(document.tokens)), answers=None)
        for document, other in zip(documents, following, strict=True)
    ]


def _memories(model: SegmentModel, batches: Iterator[Batch], lanes: int, *, bf16: bool) -> Iterator[Tree]:
    """Copies of the memory as it stands before each batch; what the borrower writes to one never reaches its owner."""
    device = next(model.parameters()).device
    state = model.init_state(lanes)
    for batch in batches:
        fed = _feed(batch, device)
        state = model.clear(state, fed.reset_B)
        yield fork(state.memory)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            state = model.step(fed.tokens_BT, fed.valid_BT, state).state


def _feed(batch: Batch, device: torch.device) -> Fed:
    """A batch on the device; lanes that have run out forget, so that their padding never counts as a memory that fills."""
    return feed(batch._replace(reset_B=batch.reset_B | (batch.document_B < 0)), device)


def _store(found: list[np.ndarray], values_BT: np.ndarray, batch: Batch) -> None:
    """Put what a segment says of its targets where these stand in their documents."""
    for lane, (document, offset) in enumerate(zip(batch.document_B, batch.offset_B, strict=True)):
        if document >= 0:
            read = int(batch.valid_BT[lane].sum())
            found[document][offset + 1 : offset + 1 + read] = values_BT[lane, :read]


def _joined(found: list[np.ndarray], scored: list[np.ndarray]) -> np.ndarray:
    """What was found of the scored tokens, documents one after another."""
    parts = [values[places] for values, places in zip(found, scored, strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
