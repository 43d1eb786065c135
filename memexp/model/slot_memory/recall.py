"""The extra losses of thought-and-memory and the queries that recall a segment; `published_` marks the original's formulas.

Shapes: B lanes, T tokens, M slots, D width, H heads, S keys, N rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.slot_memory.updater import PublishedAlibi, Updater
from memexp.model.transformer.head import Head
from memexp.model.transformer.numerics import at_least_fp32
from memexp.model.transformer.position import Places
from memexp.model.transformer.shape import Shape


class Losses(NamedTuple):
    """Losses by name, not weighted, and gauges."""

    terms: dict[str, Tensor]
    gauges: dict[str, Tensor]


def updater_losses(
    updater: Updater,
    wanted: set[str],
    *,
    before_BMD: Tensor,
    after_BMD: Tensor,
    text_BTD: Tensor,
    valid_BT: Tensor,
) -> Losses:
    """Composition from the memory before the segment, separation of the slots after it; all inputs without gradient."""
    terms: dict[str, Tensor] = {}
    gauges: dict[str, Tensor] = {}
    if "composition" in wanted:
        composed = composition(updater, before_BMD, text_BTD, valid_BT, random_cuts(text_BTD.shape[1]))
        terms["composition"], gauges["composition_error"] = composed.error, composed.relative.detach()
    if wanted & {"variance", "covariance"}:
        slots_BMD = updater(before_BMD, text_BTD, valid_BT).memory_BMD
        terms |= separation(slots_BMD, valid_BT.any(-1))
    return Losses(terms, gauges)


def published_updater_losses(
    updater: Updater,
    wanted: set[str],
    *,
    before_BMD: Tensor,
    after_BMD: Tensor,
    text_BTD: Tensor,
    valid_BT: Tensor,
) -> Losses:
    """Composition from the memory that has read the segment already, separation of 4 slots drawn from both its ends."""
    if not wanted:
        return Losses({}, {})
    composed = composition(updater, after_BMD, text_BTD, valid_BT, random_cuts(text_BTD.shape[1]))
    both_BMD = torch.cat([composed.pieces_BMD, composed.whole_BMD], dim=1)
    drawn = torch.randint(both_BMD.shape[1], (4,)).to(both_BMD.device)
    terms = published_separation(both_BMD[valid_BT.any(-1)][:, drawn].flatten(0, 1))
    return Losses(terms | {"composition": composed.error}, {"composition_error": composed.relative.detach()})


class Composed(NamedTuple):
    """A memory that read the same tokens at once and in pieces."""

    pieces_BMD: Tensor
    whole_BMD: Tensor
    """Without gradient or dropout."""
    error: Tensor
    """Mean square of their difference."""
    relative: Tensor
    """The error over the mean square of what reading changed, mean over lanes."""


def composition(updater: Updater, memory_BMD: Tensor, text_BTD: Tensor, valid_BT: Tensor, cuts: list[int]) -> Composed:
    """How far reading in pieces leads from reading at once; `cuts` are the first tokens of all pieces but the first."""
    with torch.no_grad(), _without_dropout(updater):
        whole_BMD = updater(memory_BMD, text_BTD, valid_BT).memory_BMD
    pieces_BMD = memory_BMD
    for start, stop in zip([0, *cuts], [*cuts, text_BTD.shape[1]], strict=True):
        pieces_BMD = updater(pieces_BMD, text_BTD[:, start:stop], valid_BT[:, start:stop], start=start).memory_BMD
    written_B = valid_BT.any(-1)
    error_B = (pieces_BMD - whole_BMD).square().mean((1, 2))
    change_B = (whole_BMD - memory_BMD).square().mean((1, 2)).clamp_min(1e-12)
    return Composed(pieces_BMD, whole_BMD, mean_of(error_B, written_B), mean_of(error_B / change_B, written_B))


def random_cuts(length: int) -> list[int]:
    """Borders of 2 to 8 pieces, none empty, from torch's generator; of fewer where there are not so many tokens."""
    pieces = min(int(torch.randint(2, 9, ())), length)
    cuts: list[int] = (torch.randperm(length - 1)[: pieces - 1] + 1).sort().values.tolist()
    return cuts


def even_cuts(length: int) -> list[int]:
    """Borders of four pieces as long as one another, so that a gauge depends on no generator."""
    return sorted({length * quarter // 4 for quarter in (1, 2, 3)} - {0})


def separation(slots_BMD: Tensor, written_B: Tensor) -> dict[str, Tensor]:
    """VICReg's variance and covariance (Bardes et al. 2022, equations 1 to 4; target 1) of all slots of the lanes written."""
    weight_N1 = written_B.repeat_interleave(slots_BMD.shape[1])[:, None].to(slots_BMD.dtype)
    rows_ND, count = slots_BMD.flatten(0, 1), weight_N1.sum()
    centred_ND = (rows_ND - (rows_ND * weight_N1).sum(0) / count.clamp_min(1)) * weight_N1
    covariance_DD = _products(centred_ND) / (count - 1).clamp_min(1)
    variance_D = covariance_DD.diagonal()
    return {
        "variance": F.relu(1 - (variance_D + 1e-4).sqrt()).mean(),
        "covariance": (covariance_DD.square().sum() - variance_D.square().sum()) / len(variance_D),
    }


def published_separation(rows_ND: Tensor) -> dict[str, Tensor]:
    """The code's variant: target 4, and the upper triangle of the covariances together with its diagonal."""
    centred_ND = rows_ND - rows_ND.mean(0)
    covariance_DD = _products(centred_ND) / len(rows_ND)
    return {
        "variance": F.relu(4 - (rows_ND.var(0) + 1e-5).sqrt()).mean(),
        "covariance": covariance_DD.triu().square().sum() / len(covariance_DD),
    }


def _products(rows_ND: Tensor) -> Tensor:
    with torch.autocast(rows_ND.device.type, enabled=False):  # half precision has too few digits for a sum over rows
        return rows_ND.T @ rows_ND


class RecallQueries(nn.Module, ABC):
    """What stands in the place of a segment's tokens when only the memory is there to recall them."""

    @abstractmethod
    def forward(self, lanes: int, length: int) -> Tensor:
        """The input of the predictor, B T D."""

    @abstractmethod
    def bias(self, slots: int, length: int) -> Tensor | None:
        """What places add to the scores of queries over slots and queries, 1 H T S."""

    @abstractmethod
    def scored(self, valid_BT: Tensor) -> Tensor:
        """Which tokens have to be recalled."""


@final
class PlacedQueries(RecallQueries):
    """A learned mask plus a learned vector for each place of the segment, and no distances."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mask_D = nn.Parameter(torch.randn(shape.width))
        self.place_TD = nn.Parameter(torch.randn(shape.segment, shape.width))

    def forward(self, lanes: int, length: int) -> Tensor:
        return (self.mask_D + self.place_TD[:length]).expand(lanes, -1, -1)

    def bias(self, slots: int, length: int) -> None:
        return None

    def scored(self, valid_BT: Tensor) -> Tensor:
        return valid_BT


@final
class PublishedQueries(RecallQueries):
    """A recall token, then the same mask everywhere: only the penalty of distances, to slots too, tells places apart."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first_D = nn.Parameter(torch.randn(shape.width))
        self.mask_D = nn.Parameter(torch.randn(shape.width))
        self.alibi = PublishedAlibi(shape.heads)

    def forward(self, lanes: int, length: int) -> Tensor:
        return torch.stack([self.first_D, *[self.mask_D] * (length - 1)]).expand(lanes, -1, -1)

    def bias(self, slots: int, length: int) -> Tensor:
        place_S = torch.arange(slots + length, device=self.mask_D.device)
        return self.alibi.penalty(Places(place_S[slots:], place_S, lowest=1 - length, highest=slots + length - 1))

    def scored(self, valid_BT: Tensor) -> Tensor:
        return valid_BT & (torch.arange(valid_BT.shape[1], device=valid_BT.device) > 0)


class Recalled(NamedTuple):
    """How well each token came back, B T."""

    error_BT: Tensor
    right_BT: Tensor


def recalled_tokens(head: Head, recalled_BTD: Tensor, tokens_BT: Tensor, hidden_BTD: Tensor) -> Recalled:
    """Nats of each token itself; right is that no other token was more likely."""
    return Recalled(head.nats(recalled_BTD, tokens_BT), head.best(recalled_BTD) == tokens_BT)


def recalled_embeddings(head: Head, recalled_BTD: Tensor, tokens_BT: Tensor, hidden_BTD: Tensor) -> Recalled:
    """Mean square error to the predictor's own activations; right is that both give the same likeliest next token."""
    error_BT = at_least_fp32(recalled_BTD - hidden_BTD.detach()).square().mean(-1)
    return Recalled(error_BT, head.best(recalled_BTD) == head.best(hidden_BTD))


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values that count; 0 where none does."""
    return (values * counted).sum() / counted.sum().clamp_min(1)


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)
