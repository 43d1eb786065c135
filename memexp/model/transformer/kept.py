"""What the backward pass needs of a forward pass on an accelerator, in bytes: what torch keeps there of each operation; and what a
forward pass holds at once if none follows.

D width, I all heads together, G heads of keys and values together, H heads, F hidden size of the feed-forward layer, T positions
that are read at once, S keys in sight, P positions of something else.
"""

from dataclasses import dataclass, replace

from memexp.model.transformer.shape import Shape

FULL, HALF = 4, 2
"""Bytes of a number in fp32 and in bf16."""
ALIGNED = 16
"""Kernels of attention take what is added to scores in rows that are a multiple of so many numbers."""


@dataclass(frozen=True)
class Kept:
    """The bytes that modules keep of one pass in one lane.

    The residual stream, and so the input of each norm, is in fp32. In half precision each product keeps its input as a copy
    of its own, also where two products have the same input.

    Attributes:
        half: whether products are in bf16.
        normalise: whether queries and keys have unit norm.
        stored: size of all heads of keys, and of values.
    """

    shape: Shape
    half: bool
    normalise: bool = True
    stored: int = 0
    dropout: bool = False

    @property
    def number(self) -> int:
        """Bytes of a number that a product makes."""
        return HALF if self.half else FULL

    @property
    def inner(self) -> int:
        return self.shape.heads * self.shape.head_size

    @property
    def keys(self) -> int:
        """Size of all heads of keys."""
        return self.stored or self.inner

    def as_fp32(self) -> "Kept":
        """What is kept where products are in fp32."""
        return replace(self, half=False)

    def residual(self, positions: float) -> float:
        """A sum on the residual stream, which is the input of the next norm, with the mask of its dropout."""
        return positions * self.shape.width * (FULL + self.dropout)

    def normed(self, positions: float, *, products: int) -> float:
        """The output of a norm as the input of so many products, and the norm's factors."""
        copies = HALF * products if self.half else FULL
        return positions * (self.shape.width * copies + FULL)

    def of_heads(self, positions: float, size: int) -> float:
        """Numbers of so many heads together, as a product makes them."""
        return positions * size * self.number

    def unit_norm(self, positions: float, size: int) -> float:
        """The result of `unit_norm`, and its factors."""
        if not self.normalise:
            return 0.0
        return self.of_heads(positions, size) + positions * FULL * size / self.shape.head_size

    def queries(self, positions: float) -> float:
        """Queries of unit norm, and the same with their scale."""
        return self.unit_norm(positions, self.inner) + self.of_heads(positions, self.inner)

    def read(self, positions: float) -> float:
        """The output of attention, which is the input of the output projection, and the logarithms of its sums."""
        return self.of_heads(positions, self.inner) + positions * self.shape.heads * FULL

    def feedforward(self, positions: float) -> float:
        """A norm, the inner layer after its ReLU, and the sum on the residual stream."""
        hidden = self.of_heads(positions, self.shape.feedforward)
        return self.normed(positions, products=1) + hidden + self.residual(positions)

    def layer(
        self, positions: int, *, seen: int, joined: bool, turns: bool = False, by_position: bool = False
    ) -> float:
        """A layer with self-attention and a feed-forward layer, without what is added to the scores.

        Args:
            positions: T.
            seen: S.
            joined: whether keys and values in sight are joined from several tensors. Then those of the segment need not be
                kept; otherwise values are kept in one tensor with the queries that were not yet normalised.
            turns: whether positions turn queries and keys.
            by_position: whether other queries are multiplied with vectors of distances.
        """
        keys_values = 2 * self.of_heads(seen, self.keys) if joined else self.of_heads(positions, self.inner + self.keys)
        if not joined and (turns or not self.normalise):
            keys_values += self.of_heads(positions, self.keys)
        return (
            self.normed(positions, products=2)
            + self.queries(positions)
            + self.unit_norm(positions, self.keys)
            + keys_values
            + (self.of_heads(positions, self.inner) if by_position else 0.0)
            + self.read(positions)
            + self.residual(positions)
            + self.feedforward(positions)
        )

    def held_by_feedforward(self, positions: float) -> float:
        """What a feed-forward layer holds at most without a backward pass: its input before and after a norm, that of the whole layer,
        what attention has read before and after its projection, and the inner layer before and after its ReLU.
        """
        products = self.of_heads(positions, self.inner + self.shape.width + 2 * self.shape.feedforward)
        return 3 * positions * self.shape.width * FULL + products

    def held_by_attention(
        self, positions: float, *, seen: float, joined: bool, turns: bool = False, by_position: bool = False
    ) -> float:
        """What attention holds at most without a backward pass, without what is added to the scores: the input of the layer, projections
        of queries, keys and values, queries with their scale in fp32 and as they are multiplied, and what they read.

        Args:
            positions, seen, joined, turns, by_position: as `layer` takes them.
        """
        own_scale = FULL * positions * self.inner * (self.half and self.normalise)
        queries = own_scale * (1 + turns + 2 * by_position) + self.of_heads(positions, self.inner)
        projected = self.of_heads(positions, self.inner + 2 * self.keys)
        in_sight = self.of_heads(seen, self.keys) * (2 * joined + turns)
        read = self.of_heads(positions, self.inner)
        return positions * self.shape.width * FULL + queries + projected + in_sight + read

    def held_in_sight(self, positions: float, *, seen: float) -> float:
        """Queries of a layer and the keys and values that they saw, joined with those of a cache; in full precision these are the cache."""
        own_scale = FULL if self.normalise else self.number
        return own_scale * positions * self.inner + self.half * 2 * self.of_heads(seen, self.keys)

    def attention(self, positions: int, *, seen: int) -> float:
        """The attention of a checkpoint's layer, without its output, which the next product keeps: turned queries, and keys and values
        in sight for every head; those that all heads share are kept once.
        """
        alone = self.keys in (self.shape.head_size, self.inner)
        in_sight = 2 * self.of_heads(seen, self.keys if alone else self.inner)
        return self.of_heads(positions, self.inner) + in_sight + positions * self.shape.heads * FULL

    def by_query(self, positions: int, seen: int) -> float:
        """The products of queries with vectors of all distances, and these vectors."""
        return positions * seen * self.shape.heads * self.number + self.of_heads(seen, self.inner)

    def added_to_scores(self, positions: int, seen: int, *, heads: int) -> float:
        """What is added to the scores: a bias for each head, or a mask for all heads. Rows are padded.

        Args:
            heads: 0 if positions are no bias; the mask then becomes numbers, one for each pair.
        """
        row = -(-seen // ALIGNED) * ALIGNED
        return positions * row * max(heads, 1) * self.number
