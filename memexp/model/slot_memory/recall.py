"""Losses of thought-and-memory and the queries that recall a segment; `published_` marks formulas of the published code.

Shapes: B lanes, T tokens, M slots, D width, H heads, S keys, N rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.slot_memory.prefix import read_beside, read_unplaced
from memexp.model.slot_memory.updater import PublishedAlibi, Updater
from memexp.model.transformer.attention import any_shape
from memexp.model.transformer.decoder import DecoderLayers
from memexp.model.transformer.head import Head
from memexp.model.transformer.kept import Kept
from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.model.transformer.position import Places
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched
from memexp.ranks.draws import common
from memexp.ranks.exchange import total

MOST_PIECES = 8
"""The most pieces in which composition reads a segment."""


class Losses(NamedTuple):
    """Losses by name, before weighting, and gauges."""

    terms: dict[str, Tensor]
    gauges: Gauges


def updater_losses(
    updater: Updater,
    wanted: set[str],
    *,
    before_BMD: Tensor,
    after_BMD: Tensor,
    text_BTD: Tensor,
    valid_BT: Tensor,
) -> Losses:
    """The losses of the updater: composition from the memory before the segment, separation of the slots after it.

    Args:
        wanted: names of the losses to compute.
        before_BMD, after_BMD, text_BTD: the memory before and after the segment, and its activations, without gradient.
    """
    terms: dict[str, Tensor] = {}
    gauges: Gauges = {}
    if "composition" in wanted:
        whole_BMD = None if _drops_out(updater) else after_BMD
        cuts = random_cuts(text_BTD.shape[1])
        composed = composition(updater, before_BMD, text_BTD, valid_BT, cuts, whole_BMD=whole_BMD)
        terms["composition"], gauges = composed.error, composed.gauges
    if wanted & {"variance", "covariance"}:
        slots_BMD = updater(before_BMD, text_BTD, valid_BT).memory_BMD
        terms |= separation(slots_BMD, valid_BT.any(-1))
    return Losses(terms, gauges)


def updates_of(wanted: set[str]) -> list[int]:
    """For each update with gradient in `updater_losses`, in how many pieces it reads the segment at most."""
    return [MOST_PIECES] * ("composition" in wanted) + [1] * bool(wanted & {"variance", "covariance"})


def published_updates_of(wanted: set[str]) -> list[int]:
    """As `updates_of`, for `published_updater_losses`."""
    return [MOST_PIECES] * bool(wanted)


def published_updater_losses(
    updater: Updater,
    wanted: set[str],
    *,
    before_BMD: Tensor,
    after_BMD: Tensor,
    text_BTD: Tensor,
    valid_BT: Tensor,
) -> Losses:
    """Like `updater_losses` with the published formulas.

    Composition starts from the memory that has already read the segment. Separation is computed for 4 random slots of the
    two memories that composition compares.
    """
    if not wanted:
        return Losses({}, {})
    composed = composition(updater, after_BMD, text_BTD, valid_BT, random_cuts(text_BTD.shape[1]))
    both_BMD = torch.cat([composed.pieces_BMD, composed.whole_BMD], dim=1)
    slots: list[int] = torch.randint(both_BMD.shape[1], (4,), generator=common(), device="cpu").tolist()
    drawn_BMD = torch.stack([both_BMD[:, slot] for slot in slots], dim=1)
    terms = published_separation(drawn_BMD.flatten(0, 1), valid_BT.any(-1).repeat_interleave(len(slots)))
    return Losses(terms | {"composition": composed.error}, composed.gauges)


class Composed(NamedTuple):
    """Two memories after the same tokens: one read them in pieces, the other at once."""

    pieces_BMD: Tensor
    whole_BMD: Tensor
    """Without gradient or dropout."""
    error: Tensor
    """Mean square of their difference."""
    gauges: Gauges
    """composition_error: the error over the mean square of the change by reading, mean over lanes."""


def composition(
    updater: Updater,
    memory_BMD: Tensor,
    text_BTD: Tensor,
    valid_BT: Tensor,
    cuts: list[int],
    *,
    whole_BMD: Tensor | None = None,
) -> Composed:
    """Compare reading in pieces with reading at once.

    Args:
        cuts: the first tokens of all pieces except the first piece.
        whole_BMD: the memory after reading at once, without gradient or dropout, if it is known.
    """
    if whole_BMD is None:
        with torch.no_grad(), _without_dropout(updater):
            whole_BMD = updater(memory_BMD, text_BTD, valid_BT).memory_BMD
    pieces_BMD = memory_BMD
    with any_shape():
        for start, stop in zip([0, *cuts], [*cuts, text_BTD.shape[1]], strict=True):
            pieces_BMD = updater(pieces_BMD, text_BTD[:, start:stop], valid_BT[:, start:stop], start=start).memory_BMD
    written_B = valid_BT.any(-1)
    error_B = (pieces_BMD - whole_BMD).square().mean((1, 2))
    gauges = _relative(error_B, whole_BMD - memory_BMD, written_B)
    return Composed(pieces_BMD, whole_BMD, mean_of(error_B, written_B), gauges)


@if_watched
def _relative(error_B: Tensor, change_BMD: Tensor, written_B: Tensor) -> Gauges:
    change_B = change_BMD.square().mean((1, 2)).clamp_min(1e-12)
    return {"composition_error": mean_of(error_B / change_B, written_B)}


def random_cuts(length: int) -> list[int]:
    """Random borders of 2 to `MOST_PIECES` pieces, none empty, the same in all processes; at most one piece per token."""
    pieces = min(int(torch.randint(2, MOST_PIECES + 1, (), generator=common())), length)
    cuts: list[int] = (torch.randperm(length - 1, generator=common())[: pieces - 1] + 1).sort().values.tolist()
    return cuts


def even_cuts(length: int) -> list[int]:
    """Borders of four equally long pieces, so that a gauge needs no random numbers."""
    return sorted({length * quarter // 4 for quarter in (1, 2, 3)} - {0})


def separation(slots_BMD: Tensor, written_B: Tensor) -> dict[str, Tensor]:
    """VICReg's variance and covariance losses (Bardes et al. 2022, equations 1 to 4; target 1), over all slots.

    Args:
        written_B: which lanes count.
    """
    weight_N1 = written_B.repeat_interleave(slots_BMD.shape[1])[:, None].to(slots_BMD.dtype)
    rows_ND, count = slots_BMD.flatten(0, 1), total(weight_N1.sum())
    centred_ND = (rows_ND - total((rows_ND * weight_N1).sum(0)) / count.clamp_min(1)) * weight_N1
    covariance_DD = total(_products(centred_ND)) / (count - 1).clamp_min(1)
    variance_D = covariance_DD.diagonal()
    return {
        "variance": F.relu(1 - (variance_D + 1e-4).sqrt()).mean(),
        "covariance": (covariance_DD.square().sum() - variance_D.square().sum()) / len(variance_D),
    }


def published_separation(rows_ND: Tensor, written_N: Tensor) -> dict[str, Tensor]:
    """The published code's variant: target 4, and the upper triangle of the covariance matrix with its diagonal.

    Args:
        written_N: which rows count. As weights, for the host would wait to know how many they are.
    """
    weight_N1 = written_N[:, None].to(rows_ND.dtype)
    count = total(weight_N1.sum())
    centred_ND = (rows_ND - total((rows_ND * weight_N1).sum(0)) / count.clamp_min(1)) * weight_N1
    variance_D = total(centred_ND.square().sum(0)) / (count - 1).clamp_min(1)
    covariance_DD = total(_products(centred_ND)) / count.clamp_min(1)
    return {
        "variance": F.relu(4 - (variance_D + 1e-5).sqrt()).mean(),
        "covariance": covariance_DD.triu().square().sum() / len(covariance_DD),
    }


def _products(rows_ND: Tensor) -> Tensor:
    with full_precision(rows_ND.device):  # half precision is too coarse for a sum over rows
        return rows_ND.T @ rows_ND


class RecallQueries(nn.Module, ABC):
    """Inputs that replace the tokens of a segment when the predictor has to recall them from the memory."""

    @abstractmethod
    def forward(self, lanes: int, length: int) -> Tensor:
        """The input of the predictor, B T D."""

    @abstractmethod
    def read(self, layers: DecoderLayers, memory_BMD: Tensor, length: int) -> Tensor:
        """What the predictor's layers make of the queries beside the memory, B T D."""

    @abstractmethod
    def kept(self, kept: Kept, layers: int, slots: int, length: int) -> float:
        """The bytes that the backward pass needs of `read` by so many layers, in a lane."""

    @abstractmethod
    def scored(self, valid_BT: Tensor) -> Tensor:
        """Which tokens have to be recalled, B T."""


@final
class PlacedQueries(RecallQueries):
    """A learned mask vector plus a learned vector for each position of the segment; the memory is read as in prediction.

    Queries see all slots and one another; slots see only slots. There is no position bias.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mask_D = nn.Parameter(torch.randn(shape.width))
        self.place_TD = nn.Parameter(torch.randn(shape.segment, shape.width))

    def forward(self, lanes: int, length: int) -> Tensor:
        return (self.mask_D + self.place_TD[:length]).expand(lanes, -1, -1)

    def read(self, layers: DecoderLayers, memory_BMD: Tensor, length: int) -> Tensor:
        beside = read_unplaced(layers, memory_BMD).prefix
        return read_beside(layers, self(len(memory_BMD), length), beside)

    def kept(self, kept: Kept, layers: int, slots: int, length: int) -> float:
        beside = kept.layer(slots, seen=slots, joined=False)
        return layers * (beside + kept.layer(length, seen=slots + length, joined=True)) + kept.residual(length)

    def scored(self, valid_BT: Tensor) -> Tensor:
        return valid_BT


@final
class PublishedQueries(RecallQueries):
    """A recall token, then the same mask vector at all positions; only a penalty of distances gives the position.

    Slots and queries are one sequence, slots in front, in which everything sees everything: slots also see the queries.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first_D = nn.Parameter(torch.randn(shape.width))
        self.mask_D = nn.Parameter(torch.randn(shape.width))
        self.alibi = PublishedAlibi(shape.heads)

    def forward(self, lanes: int, length: int) -> Tensor:
        return torch.stack([self.first_D, *[self.mask_D] * (length - 1)]).expand(lanes, -1, -1)

    def read(self, layers: DecoderLayers, memory_BMD: Tensor, length: int) -> Tensor:
        slots = memory_BMD.shape[1]
        both_BSD = torch.cat([memory_BMD, self(len(memory_BMD), length).to(memory_BMD.dtype)], dim=1)
        return read_unplaced(layers, both_BSD, bias_1HMS=self.bias(slots + length)).hidden_BMD[:, slots:]

    def kept(self, kept: Kept, layers: int, slots: int, length: int) -> float:
        both = slots + length
        return layers * kept.layer(both, seen=both, joined=False) + kept.residual(both)

    def bias(self, count: int) -> Tensor:
        """The penalty between `count` places, 1 H S S."""
        place_S = torch.arange(count, device=self.mask_D.device)
        return self.alibi.penalty(Places(place_S, place_S, lowest=1 - count, highest=count - 1))

    def scored(self, valid_BT: Tensor) -> Tensor:
        return valid_BT & (torch.arange(valid_BT.shape[1], device=valid_BT.device) > 0)


class Recalled(NamedTuple):
    """How well each token was recalled."""

    error_BT: Tensor
    right: Callable[[], Tensor]
    """Computes which of the recalled tokens are right, B T."""


def recalled_tokens(head: Head, recalled_BTD: Tensor, tokens_BT: Tensor, hidden_BTD: Tensor) -> Recalled:
    """Recall of tokens: the error is the nats of each token; it is right if it is the most likely token."""
    return Recalled(head.nats(recalled_BTD, tokens_BT), lambda: head.best(recalled_BTD) == tokens_BT)


def recalled_embeddings(head: Head, recalled_BTD: Tensor, tokens_BT: Tensor, hidden_BTD: Tensor) -> Recalled:
    """Recall of activations: the error is the mean square; a token is right if both give the same most likely next token."""
    error_BT = at_least_fp32(recalled_BTD - hidden_BTD.detach()).square().mean(-1)
    return Recalled(error_BT, lambda: head.best(recalled_BTD) == head.best(hidden_BTD))


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values where `counted` is true; 0 if it is false everywhere."""
    return total((values * counted).sum()) / total(counted.sum()).clamp_min(1)


def _drops_out(module: nn.Module) -> bool:
    return module.training and any(isinstance(each, nn.Dropout) and each.p > 0 for each in module.modules())


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)
