"""The sizes of a network without its memory."""

from dataclasses import dataclass

from memexp.model.transformer.head import AdaptiveHead, Head


@dataclass(frozen=True)
class Shape:
    """What every architecture is told: the network without its memory, and what it will be fed.

    `segment` is the longest T of a step; `bptt_segments` the segment borders that a gradient may cross.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    head_size: int
    feedforward: int
    segment: int
    bptt_segments: int = 0
    cutoffs: tuple[int, ...] = ()
    """Words before each cluster of adaptive softmax; empty: one softmax over all."""
    narrowing: int = 1
    """How many times narrower a further cluster's vectors are."""


def build_head(shape: Shape) -> Head:
    """Embedding and output layer."""
    if not shape.cutoffs:
        return Head(shape.vocabulary, shape.width)
    return AdaptiveHead(shape.vocabulary, shape.width, cutoffs=shape.cutoffs, narrowing=shape.narrowing)
