"""The strip of a segment between memory tokens: the sequence that attention runs over, who sees whom in it, and what is kept.

Shapes: B lanes, T tokens, C cache, S positions of the strip, Q queries, G heads of keys and values, K head size, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.model.transformer.attention import Heads, LayerCache, Sight, append
from memexp.model.transformer.position import Places


class Strip(NamedTuple):
    """The number of positions of each kind, in their order in the strip; the last `queries` of all are queries."""

    cache: int
    read: int
    tokens: int
    write: int
    queries: int
    sees_cache: str
    """Which memory tokens attend to the cache: none, write or both."""

    @property
    def size(self) -> int:
        return self.cache + self.read + self.tokens + self.write

    @property
    def memory(self) -> slice:
        """The indices of the read tokens."""
        return slice(self.cache, self.cache + self.read)

    @property
    def text(self) -> slice:
        """The indices of the tokens among the queries."""
        before = self.size - self.queries
        start = max(0, self.cache + self.read - before)
        return slice(start, self.queries - self.write)

    def places(self, device: torch.device) -> Places:
        """The positions: read tokens end where the segment begins, write tokens follow the segment."""
        parts = [(-self.cache, 0), (-self.read, 0), (0, self.tokens + self.write)]
        place_S = torch.cat([torch.arange(start, stop, device=device) for start, stop in parts])
        highest = self.tokens + self.write - 1 + max(self.cache, self.read)
        return Places(place_S[-self.queries :], place_S, lowest=min(0, 1 - max(self.read, self.write)), highest=highest)

    def is_read(self, device: torch.device) -> Tensor:
        """Which positions are read tokens, S."""
        index_S = torch.arange(self.size, device=device)
        return (index_S >= self.cache) & (index_S < self.cache + self.read)

    def mask(self, count_B: Tensor, valid_BT: Tensor) -> Tensor:
        """The attention mask, B 1 Q S: true where a query may attend.

        Args:
            count_B: how many of the cached tokens belong to the lane's document.
            valid_BT: which tokens are not padding. Only write tokens need it, because padding comes after every token.
        """
        index_S = torch.arange(self.size, device=count_B.device)
        cached_S = index_S < self.cache
        read_S = self.is_read(count_B.device)
        write_S = index_S >= self.size - self.write
        filled_BS = (index_S >= self.cache - count_B[:, None]) | (index_S >= self.cache)
        valid_BS = F.pad(valid_BT, (self.cache + self.read, self.write), value=True)
        index_Q, read_Q, write_Q = (values_S[-self.queries :, None] for values_S in (index_S, read_S, write_S))
        sees_cache_Q = (~read_Q | (self.sees_cache == "both")) & (~write_Q | (self.sees_cache != "none"))
        by_kind_QS = torch.where(read_Q, read_S, (index_S <= index_Q) | write_Q)
        by_kind_QS = torch.where(cached_S, sees_cache_Q, by_kind_QS)
        return (by_kind_QS & filled_BS[:, None] & (valid_BS[:, None] | ~write_Q))[:, None]


def within(mask: Tensor, places: Places, reach: int | None) -> Tensor:
    """The mask of a layer whose tokens see only so many tokens before themselves."""
    return mask if reach is None else mask & (places.distances() <= reach)


def tokens_kept(sight: Sight, heads: Heads, past: LayerCache, strip: Strip) -> LayerCache:
    """The newest C tokens of cache and segment, without gradient and without memory tokens."""
    first = strip.cache + strip.read

    def newest(x_BGSK: Tensor, like: Tensor) -> Tensor:
        before_BGCK, tokens_BGTK = x_BGSK[:, :, : strip.cache], x_BGSK[:, :, first : first + strip.tokens]
        return append(before_BGCK, tokens_BGTK).detach().to(like.dtype)

    return LayerCache(
        newest(sight.keys_BGSK, past.keys_BGCK),
        newest(sight.values_BGSK, past.values_BGCK),
        heads.input_BD.detach().to(past.input_BD.dtype),
    )
