"""Compression of pairs that leave a cache: each `factor` neighbouring pairs become one pair (Rae et al. 2020, section 3).

Shapes: B lanes, T tokens, H heads, K head size, M compressed slots, N pairs that leave, P = N / factor pairs made of them,
F = factor * K channels of the pairs that become one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.slot_memory import CompressiveArch
from memexp.model.transformer.attention import append
from memexp.model.transformer.numerics import at_least_fp32, full_precision, unit_norm
from memexp.model.transformer.shape import Shape
from memexp.model.watching import watched
from memexp.ranks.exchange import total


class Pairs(NamedTuple):
    """Keys and values of one layer, oldest first."""

    keys_BHNK: Tensor
    values_BHNK: Tensor


class Compressed(NamedTuple):
    """The compressed slots of every layer, right-aligned: the newest slot is last."""

    layers: tuple[Pairs, ...]
    count_B: Tensor
    """How many of the M slots belong to this lane's document."""


class Convolution(nn.Module):
    """A convolution over the pairs of each head with kernel size equal to stride, initialised as a mean."""

    def __init__(self, shape: Shape, *, factor: int) -> None:
        super().__init__()
        mean = torch.eye(shape.head_size).repeat(shape.heads, 1)[..., None].repeat(1, 1, factor) / factor
        self.weight = nn.Parameter(mean)

    def forward(self, x_BHNK: Tensor) -> Tensor:
        heads, factor = x_BHNK.shape[1], self.weight.shape[2]
        # as a product of matrices: on a GPU, torch lets convolutions in fp32 round to TF32; on a CPU, they copy more
        weight_HFK = self.weight.unflatten(0, (heads, -1)).permute(0, 3, 2, 1).flatten(1, 2)
        return x_BHNK.unflatten(2, (-1, factor)).flatten(3) @ weight_HFK


class Pooling(nn.Module):
    """The mean or the maximum of each channel over `factor` pairs."""

    def __init__(self, kind: str, *, factor: int) -> None:
        super().__init__()
        self.kind, self.factor = kind, factor

    def forward(self, x_BHNK: Tensor) -> Tensor:
        groups = x_BHNK.unflatten(2, (-1, self.factor))
        return groups.mean(3) if self.kind == "mean" else groups.amax(3)


class Compressor(nn.Module):
    """The compression of one layer's keys and values; if attention normalises keys, compressed keys have unit norm."""

    def __init__(self, shape: Shape, arch: CompressiveArch) -> None:
        super().__init__()
        self.normalise, kind, factor = arch.normalise, arch.compress, arch.factor
        self.keys, self.values = (
            Convolution(shape, factor=factor) if kind == "convolution" else Pooling(kind, factor=factor)
            for _ in range(2)
        )

    def forward(self, pairs: Pairs) -> Pairs:
        keys_BHPK, values_BHPK = self.keys(pairs.keys_BHNK), self.values(pairs.values_BHNK)
        return Pairs(unit_norm(keys_BHPK) if self.normalise else keys_BHPK, values_BHPK)


def append_pairs(old: Pairs, new: Pairs) -> Pairs:
    """Append new pairs without gradient and drop the oldest, so that the number of slots stays the same."""
    return Pairs(*(append(before, after.detach()) for before, after in zip(old, new, strict=True)))


class Reconstruction(NamedTuple):
    """The squared difference between attention to compressed pairs and attention to the original pairs."""

    loss: Tensor
    """A mean over channels and over the valid tokens of all lanes with pairs to compress; 0 if there are none."""
    by_lane: list[Tensor]
    """Gauge: the loss of each lane alone, mean over lanes; empty if nobody watches."""


def reconstruction(
    queries_BHTK: Tensor, whole: Pairs, made: Pairs, *, there_BP: Tensor, valid_BT: Tensor
) -> Reconstruction:
    """The attention-reconstruction loss (Algorithm 2): attention to compressed pairs against attention to original pairs.

    Attention has no positions here, as in the paper. Only the compressor gets a gradient.

    Args:
        whole: the pairs before compression.
        made: the compressed pairs.
        there_BP: which of the compressed pairs are made of valid tokens of the lane's document.
    """
    factor = whole.keys_BHNK.shape[2] // there_BP.shape[1]
    any_B = there_BP.any(-1)
    mask_BP = there_BP | ~any_B[:, None]  # a softmax needs at least one key
    with full_precision(queries_BHTK.device):
        before = _attend_by_content(queries_BHTK.detach(), whole, mask_BP.repeat_interleave(factor, dim=1)).detach()
        after = _attend_by_content(queries_BHTK.detach(), made, mask_BP)
    scored_BT = valid_BT & any_B[:, None]
    error_BT = torch.where(scored_BT, (after - before).square().mean((1, 3)), 0)
    loss = total(error_BT.sum()) / total(scored_BT.sum()).clamp_min(1)
    by_lane = [(error_BT.detach().sum(-1) / scored_BT.sum(-1).clamp_min(1)).mean()] if watched() else []
    return Reconstruction(loss, by_lane)


def _attend_by_content(queries_BHTK: Tensor, pairs: Pairs, mask_BN: Tensor) -> Tensor:
    """The output of each head over the pairs, without positions, B H T K."""
    keys, values = map(at_least_fp32, pairs)
    return F.scaled_dot_product_attention(
        at_least_fp32(queries_BHTK), keys, values, attn_mask=mask_BN[:, None, None], scale=1.0
    )
