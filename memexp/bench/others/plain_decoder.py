"""The decoder that `vanilla` is compared with: an equal network in plain PyTorch, without code of memexp.model.

Shapes: B lanes, T tokens, D width, H heads, K head size, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainDecoder(nn.Module):
    """A pre-norm decoder with RMSNorm, ReLU and tied embeddings.

    Queries and keys have unit norm, and queries a scale per head.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        layers: int,
        width: int,
        heads: int,
        head_size: int,
        feedforward: int,
        context: int,
        rotary: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(
            PlainLayer(width=width, heads=heads, head_size=head_size, feedforward=feedforward) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.register_buffer("turns_2TK", turns(context, head_size) if rotary else None, persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token, B T V."""
        x_BTD = self.embedding(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, self.turns_2TK)
        x_BTD = self.norm(x_BTD) / math.sqrt(x_BTD.shape[-1])
        return F.linear(x_BTD, self.embedding.weight)


class PlainLayer(nn.Module):
    """A decoder layer: attention, then the feed-forward network."""

    def __init__(self, *, width: int, heads: int, head_size: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.queries_keys_values = nn.Linear(width, 3 * heads * head_size, bias=False)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.output = nn.Linear(heads * head_size, width, bias=False)
        self.feedforward_norm = nn.RMSNorm(width, eps=1e-6)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward, bias=False), nn.ReLU(), nn.Linear(feedforward, width, bias=False)
        )

    def forward(self, x_BTD: Tensor, turns_2TK: Tensor | None) -> Tensor:
        """The residual stream after this layer."""
        lanes, length, _ = x_BTD.shape
        projected = self.queries_keys_values(self.attention_norm(x_BTD)).view(lanes, length, 3, self.heads, -1)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        queries, keys = F.normalize(queries, dim=-1) * self.scale, F.normalize(keys, dim=-1)
        if turns_2TK is not None:
            queries, keys = turn(queries, turns_2TK), turn(keys, turns_2TK)
        read_BHTK = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=1.0)
        x_BTD = x_BTD + self.output(read_BHTK.transpose(1, 2).reshape(lanes, length, -1))
        return x_BTD + self.feedforward(self.feedforward_norm(x_BTD))


def turns(context: int, head_size: int) -> Tensor:
    """Cosines and sines of the rotation angle of each coordinate at each position, 2 T K."""
    rate = 10_000.0 ** (-torch.arange(0, head_size, 2) / head_size)
    angle = torch.outer(torch.arange(context).float(), rate)
    return torch.stack([angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)])


def turn(x_BHTK: Tensor, turns_2TK: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021), in the form that rotates the coordinates i and i + K / 2 together."""
    half = x_BHTK.shape[-1] // 2
    cosine_TK, sine_TK = turns_2TK[:, : x_BHTK.shape[2]]
    turned = torch.cat([-x_BHTK[..., half:], x_BHTK[..., :half]], dim=-1)
    return x_BHTK * cosine_TK + turned * sine_TK
