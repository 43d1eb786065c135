"""Position encodings of local attention; each is also correct if a part of the keys comes from a cache.

All schemes depend only on distances, never on absolute positions, so it does not matter how a text is cut into segments.
Shapes: B lanes, H heads, T queries, S keys, K head size, R distances, D width of the model.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.transformer.numerics import at_least_fp32


@dataclass(frozen=True)
class Places:
    """The positions of queries and keys, in tokens from a common origin.

    `lowest` and `highest` bound the distance from a key to a query that attends to it. A distance is negative only if the
    key comes after the query, as between write tokens.
    """

    query_T: Tensor
    key_S: Tensor
    lowest: int
    highest: int
    evenly: float = 0
    """Up to this distance before a query, each key is one token before the next key."""
    _made: dict[Hashable, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` computes from these places alone, computed once for all layers that have them.

        Args:
            name: tells it from everything else that is computed from them.
        """
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def distances(self) -> Tensor:
        """The distance from each key to each query, T S; pairs that the mask always hides get `lowest`."""
        return (self.query_T[:, None] - self.key_S).clamp_min(self.lowest)

    def index(self, size: int) -> Tensor:
        """The place of each distance in a list of the `size` distances from `lowest` up, T S; the last holds for larger ones too."""
        return self.once(("index", size), lambda: self._index(size))

    def _index(self, size: int) -> Tensor:
        return (self.distances() - self.lowest).clamp_max(size - 1)

    def chosen(self, size: int, entry_R: Tensor | None) -> Tensor:
        """The number of each pair in a table of `size` numbers, T S in 32 bits, if the distances have these entries."""

        def make() -> Tensor:
            return (self._index(size) if entry_R is None else entry_R[self._index(len(entry_R))]).int()

        return self.once(("chosen", size), make)

    def of(self, rows: slice) -> "Places":
        """With only the queries in `rows`."""
        return self if rows == slice(None) else replace(self, query_T=self.query_T[rows])

    def range(self, highest: float = math.inf) -> Tensor:
        """All possible distances from `self.lowest` up, R, but none above `highest`."""
        return torch.arange(self.lowest, min(self.highest, highest) + 1, device=self.key_S.device)


class ByDistance(NamedTuple):
    """A bias that depends only on the head and the distance."""

    table_HN: Tensor
    """Numbers to choose from."""
    places: Places
    entry_R: Tensor | None = None
    """Which number each distance from `places.lowest` up has; the last also holds for all larger distances. None: number R."""

    @property
    def bias_HR(self) -> Tensor:
        """The bias of each distance from `places.lowest` up; the last also holds for all larger distances."""
        return self.table_HN if self.entry_R is None else self.table_HN[:, self.entry_R]

    @property
    def shared(self) -> Tensor:
        """What all lanes share, with H as its first axis."""
        return self.table_HN

    @property
    def of_lanes(self) -> tuple[Tensor, ...]:
        """What each lane has of its own, with B H as first axes: nothing."""
        return ()

    def prepared(self, table_HN: Tensor) -> Tensor:
        """The bias of some heads by their numbers, 1 H T S, in the type of the table: gradients of lanes are summed in it.

        On a GPU its rows are not yet in order.
        """
        chosen_TS = self.places.chosen(table_HN.shape[1], self.entry_R)
        if chosen_TS.device.type == "cpu":
            return look_up_on_cpu(table_HN, chosen_TS, table_HN.dtype)[None]
        return looked_up(table_HN, chosen_TS)[None]

    def alone(self) -> "ByDistance":
        """This bias without its numbers: they are given to `prepared`, and a backward pass would keep them."""
        return self._replace(table_HN=self.table_HN.new_empty(0))

    def in_lanes(self, bias_1HTS: Tensor) -> Tensor:
        """The bias of some lanes and heads by what is prepared for the heads, 1 H T S."""
        return bias_1HTS

    def dense(self, rows: slice = slice(None), *, dtype: torch.dtype | None = None) -> Tensor:
        """The bias of the queries in `rows` and all keys, 1 H T S; in the type of the table if no other is given."""
        chosen_TS = self.places.of(rows).chosen(self.table_HN.shape[1], self.entry_R)
        look_up = look_up_on_cpu if chosen_TS.device.type == "cpu" else look_up_on_gpu
        return look_up(self.table_HN, chosen_TS, dtype or self.table_HN.dtype)[None]


def look_up_on_cpu(table_HN: Tensor, chosen_TS: Tensor, dtype: torch.dtype) -> Tensor:
    """The chosen numbers of each head, H T S."""
    return table_HN.index_select(1, chosen_TS.flatten()).unflatten(1, chosen_TS.shape).to(dtype)


def looked_up(table_HN: Tensor, chosen_TS: Tensor) -> Tensor:
    """The chosen numbers of each head, H T S, where H has the smallest stride; takes ten times as long on a CPU.

    Indexing would add up the gradient of equal distances one after another.
    """
    return F.embedding(chosen_TS, table_HN.T).permute(2, 0, 1)


def look_up_on_gpu(table_HN: Tensor, chosen_TS: Tensor, dtype: torch.dtype) -> Tensor:
    """As `looked_up`, but a kernel of attention takes only a bias whose rows are without gaps."""
    found_HTS = looked_up(table_HN, chosen_TS)
    return torch.empty(found_HTS.shape, dtype=dtype, device=found_HTS.device).copy_(found_HTS)


class ByQuery(NamedTuple):
    """A bias that is the product of the query with a vector of the distance; has the same methods as `ByDistance`."""

    queries_BHTK: Tensor
    vectors_HRK: Tensor
    """Of each distance from `places.lowest` up; the last also holds for all larger distances."""
    places: Places

    @property
    def shared(self) -> Tensor:
        return self.vectors_HRK

    @property
    def of_lanes(self) -> tuple[Tensor, ...]:
        return (self.queries_BHTK,)

    def alone(self) -> "ByQuery":
        return self._replace(queries_BHTK=self.queries_BHTK.new_empty(0), vectors_HRK=self.vectors_HRK.new_empty(0))

    def prepared(self, vectors_HRK: Tensor) -> Tensor:
        return at_least_fp32(vectors_HRK)

    def in_lanes(self, vectors_HRK: Tensor, queries_BHTK: Tensor) -> Tensor:
        products_BHTR = queries_BHTK @ vectors_HRK.mT.to(queries_BHTK.dtype)
        index_TS = self.places.index(products_BHTR.shape[-1])
        return products_BHTR.gather(-1, index_TS.expand(*products_BHTR.shape[:2], -1, -1))

    def dense(self, rows: slice = slice(None), *, dtype: torch.dtype | None = None) -> Tensor:
        """The bias of the queries in `rows` and all keys, B H T S; in the type of products if no other is given."""
        bias_BHTS = self._replace(places=self.places.of(rows)).in_lanes(self.vectors_HRK, self.queries_BHTK[:, :, rows])
        return bias_BHTS.to(dtype or bias_BHTS.dtype)


class Behind(NamedTuple):
    """A bias of keys that follow others without positions, to whose scores nothing is added; has the same methods as the bias itself."""

    bias: ByDistance | ByQuery
    unplaced: int
    """How many keys without positions are in front."""

    @property
    def shared(self) -> Tensor:
        return self.bias.shared

    @property
    def of_lanes(self) -> tuple[Tensor, ...]:
        return self.bias.of_lanes

    def alone(self) -> "Behind":
        return self._replace(bias=self.bias.alone())

    def prepared(self, shared: Tensor) -> Tensor:
        return self.bias.prepared(shared)

    def in_lanes(self, prepared: Tensor, *of_lanes: Tensor) -> Tensor:
        return F.pad(self.bias.in_lanes(prepared, *of_lanes), (self.unplaced, 0))

    def dense(self, rows: slice = slice(None), *, dtype: torch.dtype | None = None) -> Tensor:
        return F.pad(self.bias.dense(rows, dtype=dtype), (self.unplaced, 0))


Structured = ByDistance | ByQuery | Behind
"""A bias that attention itself can add, for a part of the lanes after another."""

Bias = Tensor | Structured
"""What positions add to scores; a tensor has the shape B H T S, where B may be 1."""


def dense(bias: Bias | None, rows: slice = slice(None), *, dtype: torch.dtype | None = None) -> Tensor | None:
    """The bias of the queries in `rows` as a tensor, of its own type if no other is given."""
    if isinstance(bias, Tensor):
        return bias[:, :, rows].to(dtype or bias.dtype)
    return None if bias is None else bias.dense(rows, dtype=dtype)


class Positioned(NamedTuple):
    """Queries and keys whose products are the scores, and the bias that is added to the scores."""

    queries_BHTK: Tensor
    keys_BHSK: Tensor
    bias: Bias | None


class Position(nn.Module, ABC):
    """A position encoding."""

    adds: bool = False
    """Whether a bias is added to the scores."""
    turns: bool = False
    """Whether positions change queries and keys; a key without a position then needs the unchanged query."""

    @abstractmethod
    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        """Put positions into queries and keys, or into a bias."""


class NoPosition(Position):
    """No position encoding; only the causal mask gives the order."""

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        return Positioned(queries_BHTK, keys_BHSK, None)


class T5Bias(Position):
    """A learned bias for each head and bucket of distances (Raffel et al. 2020): 16 exact buckets, 16 logarithmic up to 128.

    With `two_sided`, keys after their query have another 32 buckets.

    *Differs from the published code:* there, an encoder has 16 buckets for each side.

    *Differs from the code of Memorizing and Block-Recurrent Transformers:* there the bias is added before the learned scale of
    a head multiplies the scores, here after it. With a bias that is divided by the scale both give the same outputs, but not the
    same gradients. There the bias starts with standard deviation 0.17, here at 0. So Adafactor, whose steps are relative to the
    size of a parameter, moves it about 100 times more slowly at first.
    """

    adds = True

    BUCKETS = 32
    FARTHEST = 128

    def __init__(self, heads: int, *, two_sided: bool) -> None:
        super().__init__()
        self.bias_HR = nn.Parameter(torch.zeros(heads, self.BUCKETS))
        self.ahead_HR = nn.Parameter(torch.zeros(heads, self.BUCKETS)) if two_sided else None

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        table_HN = self.bias_HR if self.ahead_HR is None else torch.cat([self.bias_HR, self.ahead_HR], dim=1)
        bucket_R = places.once(("t5", table_HN.shape[1]), lambda: self._buckets(places))
        return Positioned(queries_BHTK, keys_BHSK, ByDistance(table_HN, places, bucket_R))

    def _buckets(self, places: Places) -> Tensor:
        # all distances from FARTHEST on are in the last bucket
        distance_R = places.range(highest=self.FARTHEST)
        bucket_R = bucket(distance_R.abs(), buckets=self.BUCKETS, farthest=self.FARTHEST)
        return bucket_R if self.ahead_HR is None else bucket_R + self.BUCKETS * (distance_R < 0)


class RelativeXl(Position):
    """Transformer-XL's relative attention (Dai et al. 2019, section 3.3): scores (q + u) k + (q + v) W R(distance).

    The waves R have the width of the model, which W maps to the heads, as in the published code.

    *Differs from the paper:*

    - Each layer learns its own u and v, as in the TensorFlow code.
    - Cached keys and values are used as they were computed. The paper and its code project the cached activations again, so
      that the weights of keys and values also learn from cached tokens; ours learn from the tokens of the segment alone.
    - Scores are as in the paper only with `arch.normalise=false`; otherwise q and k have unit norm.
    """

    adds = True

    def __init__(self, heads: int, head_size: int, *, width: int) -> None:
        """
        Args:
            width: hidden size of the model.
        """
        super().__init__()
        self.content_H1K = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.place_H1K = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.project = nn.Linear(width, heads * head_size, bias=False)

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        heads, head_size = queries_BHTK.shape[1], queries_BHTK.shape[3]
        width = self.project.in_features
        waves_RD = places.once(("waves", width), lambda: sinusoids(places.range(), width))
        places_RHK = self.project(waves_RD.to(self.project.weight.dtype)).view(-1, heads, head_size)
        bias = ByQuery(queries_BHTK + self.place_H1K, places_RHK.transpose(0, 1), places)
        return Positioned(queries_BHTK + self.content_H1K, keys_BHSK, bias)


class Rotary(Position):
    """Rotary positions (Su et al. 2021) with base 10,000."""

    turns = True

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        return Positioned(_rotate(queries_BHTK, places, "query_T"), _rotate(keys_BHSK, places, "key_S"), None)


class Xpos(Position):
    """Rotary positions whose channels decay with distance, slow channels least (xPos, Sun et al. 2022, section 2)."""

    turns = True
    BASE = 512
    """Distance in tokens at which the fastest pair of channels has decayed to 0.4 / 1.4."""

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        return Positioned(
            _rotate(queries_BHTK, places, "query_T") * self._decay(queries_BHTK, places, "query_T"),
            _rotate(keys_BHSK, places, "key_S") * self._decay(keys_BHSK, places, "key_S"),
            None,
        )

    def _decay(self, like: Tensor, places: Places, whose: Literal["query_T", "key_S"]) -> Tensor:
        """The factors of queries, decay^(place / BASE), or those of keys, one over it, S K."""

        def make() -> Tensor:
            ramp_K = torch.arange(0, like.shape[-1], 2, device=like.device, dtype=torch.float64) / like.shape[-1]
            decay_K = ((ramp_K + 0.4) / 1.4).repeat(2)
            # every origin gives the same scores; with this one all factors are near 1
            place_S = getattr(places, whose) - places.query_T[0]
            power_S = (place_S if whose == "query_T" else -place_S).double() / self.BASE
            return (decay_K ** power_S[:, None]).to(like.dtype)

        return places.once(("decay", whose, like.shape[-1], like.dtype), make)


class Alibi(Position):
    """A penalty proportional to distance, with slope 2^(-8 h / H) for head h of H (Press et al. 2022, section 3).

    *Differs from the paper's code:* there, if H is not a power of two, the slopes are those of the next smaller power of two,
    and every second slope of twice this power. Here the formula is the same for every H.
    """

    adds = True

    slope_H1: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        slope_H = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slope_H1", slope_H[:, None], persistent=False)

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        distance_R = places.once("alibi", lambda: -places.range().abs())
        return Positioned(queries_BHTK, keys_BHSK, ByDistance(self.slope_H1 * distance_R, places))


class DynamicBias(Position):
    """A bias per head from a small network of the logarithm of the distance (after CrossFormer, Wang et al. 2021, 3.3)."""

    adds = True

    HIDDEN = 32

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.rise = nn.Linear(1, self.HIDDEN)
        self.fall = nn.Linear(self.HIDDEN, heads)

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor, places: Places) -> Positioned:
        log_R1 = places.once(("dynamic", self.rise.weight.dtype), lambda: self._logarithms(places))
        bias_HR = self.fall(F.silu(self.rise(log_R1))).T
        return Positioned(queries_BHTK, keys_BHSK, ByDistance(bias_HR, places))

    def _logarithms(self, places: Places) -> Tensor:
        distance_R = places.range()
        return (distance_R.sign() * distance_R.abs().log1p())[:, None].to(self.rise.weight.dtype)


def build_position(name: str, *, width: int, heads: int, head_size: int, two_sided: bool = False) -> Position:
    """Build the position encoding that `arch.position` names.

    Args:
        width: hidden size of the model.
        two_sided: whether some keys come after their query.
    """
    match name:
        case "none":
            return NoPosition()
        case "t5":
            return T5Bias(heads, two_sided=two_sided)
        case "xl":
            return RelativeXl(heads, head_size, width=width)
        case "rotary":
            return Rotary()
        case "xpos":
            return Xpos()
        case "alibi":
            return Alibi(heads)
        case "dynamic":
            return DynamicBias(heads)
    raise ValueError(f"unknown position scheme {name!r}")


def in_order(length: int, span: int, device: torch.device) -> Places:
    """The positions of `span` consecutive keys; the last `length` keys are at the positions of the queries."""
    place_S = torch.arange(span, device=device)
    return Places(place_S[span - length :], place_S, lowest=0, highest=span - 1, evenly=math.inf)


def bucket(distance: Tensor, *, buckets: int, farthest: int) -> Tensor:
    """T5's bucket for a distance into the past: half of the buckets are exact, half are logarithmic up to `farthest`."""
    exact = buckets // 2
    ratio = torch.log(distance.clamp_min(1) / exact) / math.log(farthest / exact)
    return torch.where(distance < exact, distance, (exact + (ratio * (buckets - exact)).long()).clamp_max(buckets - 1))


def sinusoids(distance_R: Tensor, width: int) -> Tensor:
    """The sinusoids of Vaswani et al. (2017), R width: sines in the first half, cosines in the second."""
    angle = _angles(distance_R, width)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _angles(place_S: Tensor, width: int) -> Tensor:
    """Positions times width / 2 frequencies that fall to 1 / 10,000; in fp64, because positions can be large."""
    rate = 10_000 ** (-torch.arange(0, width, 2, device=place_S.device, dtype=torch.float64) / width)
    return torch.outer(place_S.double(), rate)


def _rotate(x_BHSK: Tensor, places: Places, whose: Literal["query_T", "key_S"]) -> Tensor:
    size, kind = x_BHSK.shape[-1], x_BHSK.dtype
    angle_SK = places.once(("angles", whose, size), lambda: _angles(getattr(places, whose), size).repeat(1, 2))
    cosine_SK = places.once(("cosine", whose, size, kind), lambda: angle_SK.cos().to(kind))
    sine_SK = places.once(("sine", whose, size, kind), lambda: angle_SK.sin().to(kind))
    first, second = x_BHSK.chunk(2, dim=-1)
    return x_BHSK * cosine_SK + torch.cat([-second, first], dim=-1) * sine_SK
