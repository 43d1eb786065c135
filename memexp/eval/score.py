"""Scoring documents: the nats of every token but a document's first, each exactly once.

document   d0 d1 d2 d3 d4 d5 d6 d7
inputs     d0 d1 d2 | d3 d4 d5 | d6        segments of T = 3, the state carried over each bar
targets    d1 d2 d3 | d4 d5 d6 | d7        shifted before it is split, so no target falls between segments
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from memexp.data.corpus import TokenDocument
from memexp.data.lanes import Batch, scoring_batches
from memexp.model.build import Fed, feed
from memexp.model.segment import SegmentModel, SegmentOutput, State, select_lanes


class Scores(NamedTuple):
    """Documents one after another, in the order given."""

    nats: np.ndarray
    """float32, one a scored token."""
    lengths: list[int]
    """Scored tokens of each document."""
    memory_fill: float | None
    """Largest share of a memory's slots that was filled; None without memory."""


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
    """Score the first `max_document` targets of each document (0: all).

    Args:
        lanes: documents read side by side; changes nothing but speed.
        memory: "on"; "off" empties it before every segment; "foreign" reads that of the next lane's document, as it
            stands at the same segment, while each lane's own goes on being written.
        progress: called with the number of tokens after each segment.
    """
    model.eval()
    device = next(model.parameters()).device
    lengths = [_scored(document, max_document) for document in documents]
    nats = [np.zeros(length, np.float32) for length in lengths]
    lanes = max(min(lanes, len(documents)), 2 if memory == "foreign" else 1)
    state, fill = model.init_state(lanes), None
    for batch in scoring_batches(documents, lanes=lanes, segment=segment, max_document=max_document):
        fed = feed(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output, state = _step(model, fed, state, memory)
            nats_BT = model.head.nats(output.hidden_BTD, fed.targets_BT).float().cpu().numpy()
        _store(nats, nats_BT, batch)
        fills = [float(value) for name, value in output.gauges.items() if name.startswith("memory_fill")]
        fill = max([fill or 0.0, *fills]) if fills else fill
        if progress is not None:
            progress(int(batch.weight_BT.sum()))
    return Scores(np.concatenate(nats) if nats else np.zeros(0, np.float32), lengths, fill)


def _step(model: SegmentModel, fed: Fed, state: State, memory: str) -> tuple[SegmentOutput, State]:
    """The output to score, and the state that goes on."""
    if memory == "on":
        output = model(fed.tokens_BT, fed.valid_BT, state, fed.reset_B)
        return output, output.state
    state = model.clear(state, fed.reset_B)
    if memory == "off":
        emptied = model.clear(state, torch.ones_like(fed.reset_B)).memory
        output = model.step(fed.tokens_BT, fed.valid_BT, state._replace(memory=emptied))
        return output, output.state
    others = torch.arange(1, len(fed.reset_B) + 1, device=fed.reset_B.device) % len(fed.reset_B)
    # a copy, so that what this step writes to the borrowed memory never reaches its owner
    borrowed = state._replace(memory=select_lanes(state.memory, others))
    output = model.step(fed.tokens_BT, fed.valid_BT, borrowed)
    return output, model.step(fed.tokens_BT, fed.valid_BT, state).state


def _store(nats: list[np.ndarray], nats_BT: np.ndarray, batch: Batch) -> None:
    for lane, (document, offset) in enumerate(zip(batch.document_B, batch.offset_B, strict=True)):
        if document >= 0:
            scored = int(batch.weight_BT[lane].sum())
            nats[document][offset : offset + scored] = nats_BT[lane, :scored]


def _scored(document: TokenDocument, max_document: int) -> int:
    length = max(0, len(document.tokens) - 1)
    return min(length, max_document) if max_document else length
