"""Positions in local attention, each correct when part of the keys comes from a cache.

The S keys of an attention are those of the cache followed by the T of the segment, so query t stands at key S - T + t.
All schemes see distances only, never absolute places, so it does not matter how a text is cut into segments.
Shapes: B lanes, H heads, T queries, S keys, K head size, R distances.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Positioned(NamedTuple):
    """Queries and keys as attention multiplies them, and what it adds to their scores."""

    queries_BHTK: Tensor
    keys_BHSK: Tensor
    bias_BHTS: Tensor | None
    """May be 1 in the axis of lanes."""


class Position(nn.Module, ABC):
    """A scheme of positions."""

    @abstractmethod
    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor) -> Positioned:
        """Bring positions into queries and keys, or into a bias."""


class NoPosition(Position):
    """Content alone; order is known from the causal mask."""

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor) -> Positioned:
        return Positioned(queries_BHTK, keys_BHSK, None)


class T5Bias(Position):
    """A learned bias a head and bucket of distance (Raffel et al. 2020): 16 exact buckets, 16 logarithmic up to 128."""

    BUCKETS = 32
    FARTHEST = 128

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.bias_HR = nn.Parameter(torch.zeros(heads, self.BUCKETS))

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor) -> Positioned:
        distance_TS = distances(queries_BHTK.shape[2], keys_BHSK.shape[2], queries_BHTK.device)
        bias_HTS = self.bias_HR[:, bucket(distance_TS, buckets=self.BUCKETS, farthest=self.FARTHEST)]
        return Positioned(queries_BHTK, keys_BHSK, bias_HTS[None])


class RelativeXl(Position):
    """Transformer-XL's relative attention (Dai et al. 2019, section 3.3): scores (q + u) k + (q + v) W R of the distance.

    *Differs from the paper:* u and v are learned in every layer, as in its TensorFlow code; keys come from the cache as
    they were, not computed again from cached activations.
    """

    def __init__(self, heads: int, head_size: int) -> None:
        super().__init__()
        width = heads * head_size
        self.content_H1K = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.place_H1K = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor) -> Positioned:
        heads, length, head_size = queries_BHTK.shape[1:]
        span = keys_BHSK.shape[2]
        waves_RD = sinusoids(span, heads * head_size, queries_BHTK.device)
        places_RHK = self.project(waves_RD.to(self.project.weight.dtype)).view(span, heads, head_size)
        by_distance_BHTR = (queries_BHTK + self.place_H1K) @ places_RHK.permute(1, 2, 0).to(queries_BHTK.dtype)
        distance_TS = distances(length, span, queries_BHTK.device)
        bias_BHTS = by_distance_BHTR.gather(-1, distance_TS.expand(*by_distance_BHTR.shape[:2], -1, -1))
        return Positioned(queries_BHTK + self.content_H1K, keys_BHSK, bias_BHTS)


class Rotary(Position):
    """Rotary positions (Su et al. 2021), counted from the oldest key in sight; base 10,000."""

    def forward(self, queries_BHTK: Tensor, keys_BHSK: Tensor) -> Positioned:
        length, head_size = queries_BHTK.shape[-2:]
        span = keys_BHSK.shape[2]
        angle_SK = _angles(span, head_size, keys_BHSK.device).repeat(1, 2)
        cos_SK, sin_SK = angle_SK.cos().to(keys_BHSK.dtype), angle_SK.sin().to(keys_BHSK.dtype)
        return Positioned(
            _rotate(queries_BHTK, cos_SK[-length:], sin_SK[-length:]), _rotate(keys_BHSK, cos_SK, sin_SK), None
        )


def build_position(name: str, *, heads: int, head_size: int) -> Position:
    """The scheme that `arch.position` names."""
    match name:
        case "none":
            return NoPosition()
        case "t5":
            return T5Bias(heads)
        case "xl":
            return RelativeXl(heads, head_size)
        case "rotary":
            return Rotary()
    raise ValueError(f"unknown position scheme {name!r}")


def distances(length: int, span: int, device: torch.device) -> Tensor:
    """How far each of `span` keys lies before each of the last `length` of them, T S; 0 for keys not yet seen."""
    places = torch.arange(span, device=device)
    return (places[-length:, None] - places).clamp_min(0)


def bucket(distance: Tensor, *, buckets: int, farthest: int) -> Tensor:
    """T5's bucket of a distance into the past: half of the buckets exact, half logarithmic up to `farthest`."""
    exact = buckets // 2
    ratio = torch.log(distance.clamp_min(1) / exact) / math.log(farthest / exact)
    return torch.where(distance < exact, distance, (exact + (ratio * (buckets - exact)).long()).clamp_max(buckets - 1))


def sinusoids(span: int, width: int, device: torch.device) -> Tensor:
    """Vaswani et al.'s waves for distances 0 to span - 1: sines in the first half of the width, cosines in the second."""
    angle = _angles(span, width, device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _angles(span: int, width: int, device: torch.device) -> Tensor:
    """Places 0 to span - 1 times width / 2 frequencies that fall to 1 / 10,000; fp64, for places can be large."""
    rate = 10_000 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float64) / width)
    return torch.outer(torch.arange(span, device=device, dtype=torch.float64), rate)


def _rotate(x_BHSK: Tensor, cos_SK: Tensor, sin_SK: Tensor) -> Tensor:
    first, second = x_BHSK.chunk(2, dim=-1)
    return x_BHSK * cos_SK + torch.cat([-second, first], dim=-1) * sin_SK
