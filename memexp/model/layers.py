"""What decoder layers share besides attention.

Shapes: B lanes, T tokens, D width.
"""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.attention import AttentionOptions, SelfAttention, linear
from memexp.model.segment import Shape


class FeedForward(nn.Module):
    """Two projections with a ReLU between, as in the Memorizing Transformers code."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rise = linear(width, hidden)
        self.fall = linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        output: Tensor = self.fall(F.relu(self.rise(x_BTD)))
        return output


class DecoderLayer(nn.Module):
    """The modules of a pre-norm decoder layer; each architecture writes out what happens between them."""

    def __init__(self, shape: Shape, options: AttentionOptions, *, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.attention = SelfAttention(shape, options)
        self.feedforward_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.feedforward = FeedForward(shape.width, shape.feedforward)
        self.dropout = nn.Dropout(dropout)

    def finish(self, x_BTD: Tensor, read_BHTK: Tensor) -> Tensor:
        """Add what the heads read, then the feed-forward layer, to the residual stream."""
        x_BTD = x_BTD + self.dropout(self.attention.merge(read_BHTK))
        return x_BTD + self.dropout(self.feedforward(self.feedforward_norm(x_BTD)))


class DecoderLayers(nn.ModuleList):
    """One decoder layer for each entry of `options`, from the input up."""

    def __init__(self, shape: Shape, options: Sequence[AttentionOptions], *, dropout: float) -> None:
        super().__init__(DecoderLayer(shape, each, dropout=dropout) for each in options)

    def __iter__(self) -> Iterator[DecoderLayer]:  # says what is in it
        return super().__iter__()  # type: ignore[return-value]
