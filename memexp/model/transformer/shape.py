"""The sizes of a network, without its memory."""

from dataclasses import dataclass

from memexp.model.transformer.head import AdaptiveHead, Head


@dataclass(frozen=True)
class Shape:
    """The sizes that every architecture needs: those of the network without its memory, and those of its input.

    `segment` is the largest T of a step; `bptt_segments` is the number of segment borders that a gradient may cross.
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
    """Number of words before each cluster of adaptive softmax; empty: one softmax over all words."""
    narrowing: int = 1
    """Each cluster has vectors this many times narrower than the cluster before it."""


def build_head(shape: Shape) -> Head:
    """Build the embedding and output layer."""
    if not shape.cutoffs:
        return Head(shape.vocabulary, shape.width)
    return AdaptiveHead(shape.vocabulary, shape.width, cutoffs=shape.cutoffs, narrowing=shape.narrowing)
