"""The sizes of a network, without its memory."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memexp.model.transformer.head import AdaptiveHead, Head


class Network(NamedTuple):
    """The layers of a published checkpoint, which take the place of ours."""

    head: Any
    """A `memexp.model.pretrained.layers.PretrainedHead`."""
    layers: Any
    """A module with the interface of `memexp.model.transformer.decoder.Layers`."""
    places: int | None
    """How many places its positions know, if they are added to embeddings; then no cache continues a text. None: any."""
    unit: float
    """Root mean square of its embeddings: the size of vectors that its layers are used to."""
    remark: str = ""
    """What the user should know about it; empty: nothing."""


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
    groups: int = 0
    """Heads of keys and values, each shared by as many heads; 0: each head has its own."""
    pretrained: Network | None = field(default=None, compare=False, repr=False)
    """None: our own layers, with random weights."""

    @property
    def stored_heads(self) -> int:
        """Heads of keys and values that caches and memories store."""
        return self.groups or self.heads

    @property
    def queries_kept(self) -> int:
        """The queries of a lane and head, in all layers and segments of a gradient window: of each the backward pass keeps something."""
        return self.layers * self.segment * (self.bptt_segments + 1)


def build_head(shape: Shape) -> Head:
    """Build the embedding and output layer."""
    if not shape.cutoffs:
        return Head(shape.vocabulary, shape.width)
    return AdaptiveHead(shape.vocabulary, shape.width, cutoffs=shape.cutoffs, narrowing=shape.narrowing)
