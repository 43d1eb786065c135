"""Embedding and output layer, which share their weights.

Shapes: B lanes, T tokens, D width, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memexp.model.parts import part

LOGITS_AT_ONCE = 1 << 25
"""Longer logits are computed in pieces, and computed again in the backward pass (128 MiB in fp32)."""


class Head(nn.Module):
    """Tied embedding and softmax, as in the Memorizing Transformers code: unit-variance embeddings, logits / sqrt(D)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding_VD = nn.Parameter(torch.randn(vocabulary, width))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The input of the first layer, B T D."""
        return F.embedding(tokens_BT, self.embedding_VD)

    def logits(self, hidden_BTD: Tensor, words_VD: Tensor | None = None) -> Tensor:
        """Unnormalised log-probabilities of the next token, B T V; or of other words than the vocabulary's."""
        words_VD = self.embedding_VD if words_VD is None else words_VD
        hidden_BTD = self.norm(hidden_BTD) / math.sqrt(hidden_BTD.shape[-1])
        return F.linear(hidden_BTD, words_VD.to(hidden_BTD.dtype))

    def nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, B T in fp32, without ever holding all logits."""
        with part("head"):
            return self._all_nats(hidden_BTD, targets_BT)

    def _all_nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        hidden_ND, targets_N = hidden_BTD.flatten(0, 1), targets_BT.flatten()
        at_once = max(1, LOGITS_AT_ONCE // self.embedding_VD.shape[0])
        if len(targets_N) <= at_once:
            return self._nats(hidden_ND, targets_N).view_as(targets_BT)
        pieces = [
            checkpoint(self._nats, hidden, targets, use_reentrant=False, preserve_rng_state=False)
            for hidden, targets in zip(hidden_ND.split(at_once), targets_N.split(at_once), strict=True)
        ]
        return torch.cat(pieces).view_as(targets_BT)

    @torch.no_grad()
    def best(self, hidden_BTD: Tensor, first: int = 0) -> Tensor:
        """The likeliest next token at each place among those from `first` on, B T, without ever holding all logits."""
        at_once = max(1, LOGITS_AT_ONCE // self.embedding_VD.shape[0])
        pieces = [self.logits(hidden)[..., first:].argmax(-1) for hidden in hidden_BTD.flatten(0, 1).split(at_once)]
        return first + torch.cat(pieces).view(hidden_BTD.shape[:2])

    def _nats(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(hidden_ND).float(), targets_N, reduction="none")
