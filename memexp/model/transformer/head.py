"""Embedding and output layer, which share their weights.

Shapes: B lanes, T tokens, N tokens of all lanes, D width, V vocabulary; with adaptive softmax F frequent words, K clusters of
the other words, M tokens of a cluster, W words of a cluster, E width of its vectors, S = F + K.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memexp.model.on_host import values_of
from memexp.model.transformer.numerics import at_least_fp32, cast_to, full_precision
from memexp.regions import part

LOGITS_AT_ONCE = 1 << 25
"""More logits than this are computed in pieces, and again in the backward pass (128 MiB in fp32)."""


class Head(nn.Module):
    """Tied embedding and softmax as in the Memorizing Transformers code: embeddings of unit variance, logits / sqrt(D).

    *Differs from the published code:* its version of 2022 divides logits by the root of the vocabulary's size, the version of
    2025 by the root of the width, as here.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary = self.most_logits = vocabulary
        self.embedding_VD = nn.Parameter(torch.randn(vocabulary, width))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The input of the first layer, B T D."""
        return F.embedding(tokens_BT, self.embedding_VD)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the next token, B T V."""
        with self._precision(hidden_BTD):
            return self._logits(self._scaled(hidden_BTD))

    def nats_of_another(self, hidden_BTD: Tensor, word_D: Tensor) -> Tensor:
        """Nats of an extra word that is not in the vocabulary, in a softmax over the vocabulary and it; B T in fp32."""
        with self._precision(hidden_BTD):
            logits = at_least_fp32(_products(self._scaled(hidden_BTD), torch.cat([self._words(), word_D[None]])))
        return logits.logsumexp(-1) - logits[..., -1]

    def _words(self) -> Tensor:
        """The vectors of the entries of the softmax."""
        return self.embedding_VD

    def _scaled(self, hidden_BTD: Tensor) -> Tensor:
        """The factors of products with words, already in the type in which autocast multiplies them."""
        hidden_BTD = hidden_BTD if self.training else at_least_fp32(hidden_BTD)
        scaled: Tensor = self.norm(hidden_BTD) / math.sqrt(hidden_BTD.shape[-1])
        return scaled.to(cast_to(scaled.device) or scaled.dtype)

    def _logits(self, scaled_BTD: Tensor) -> Tensor:
        return _products(scaled_BTD, self.embedding_VD)

    def _precision(self, like: Tensor) -> AbstractContextManager[Any]:
        """In evaluation, logits are in full precision: the loss of each token is kept, and half precision is too coarse."""
        return nullcontext() if self.training else full_precision(like.device)

    @property
    def multiplications(self) -> float:
        """Multiplications for the loss of one token."""
        return float(self.embedding_VD.numel())

    def nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, B T in fp32; all logits never exist at once."""
        with part("head"):
            return self._all_nats(hidden_BTD, targets_BT)

    def _all_nats(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        targets_N = targets_BT.flatten()
        with self._precision(hidden_BTD):
            scaled_ND = self._scaled(hidden_BTD.flatten(0, 1))
        at_once = max(1, LOGITS_AT_ONCE // self.most_logits)
        places = self._places(targets_BT, at_once)
        if len(targets_N) <= at_once:
            return self._nats(scaled_ND, targets_N, places[0]).view_as(targets_BT)
        pieces = [
            checkpoint(self._nats, scaled, targets, of_piece, use_reentrant=False, preserve_rng_state=False)
            for scaled, targets, of_piece in zip(
                scaled_ND.split(at_once), targets_N.split(at_once), places, strict=True
            )
        ]
        return torch.cat(pieces).view_as(targets_BT)

    def _places(self, tokens_BT: Tensor, at_once: int) -> list[list[Tensor]]:
        """For each piece of `at_once` tokens, the places of the tokens of each cluster; here there are no clusters."""
        return [[] for _ in range(max(1, -(-tokens_BT.numel() // at_once)))]

    @torch.no_grad()
    def best(self, hidden_BTD: Tensor, first: int = 0) -> Tensor:
        """The most likely next token from `first` on, B T; all logits never exist at once."""
        at_once = max(1, LOGITS_AT_ONCE // self.vocabulary)
        pieces = [self.logits(hidden)[..., first:].argmax(-1) for hidden in hidden_BTD.flatten(0, 1).split(at_once)]
        return first + torch.cat(pieces).view(hidden_BTD.shape[:2])

    def _nats(self, scaled_ND: Tensor, targets_N: Tensor, places: list[Tensor]) -> Tensor:
        with self._precision(scaled_ND):
            return self._nats_of(scaled_ND, targets_N, places)

    def _nats_of(self, scaled_ND: Tensor, targets_N: Tensor, places: list[Tensor]) -> Tensor:
        return F.cross_entropy(self._logits(scaled_ND).float(), targets_N, reduction="none")


def _moved(numbers: np.ndarray, device: torch.device) -> Tensor:
    """The numbers on a device; the host does not wait until they have arrived."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _products(scaled_BTD: Tensor, words_VD: Tensor) -> Tensor:
    """The inner product with each word, B T V."""
    if cast_to(scaled_BTD.device):  # it casts the words once for all pieces
        return F.linear(scaled_BTD, words_VD)
    return F.linear(scaled_BTD, words_VD.to(scaled_BTD.dtype))


class AdaptiveHead(Head):
    """Adaptive softmax (Grave et al. 2017), tied, for a vocabulary whose most frequent words come first.

    A first softmax is over the frequent words and one entry for each cluster of the other words. A second softmax is over
    the words of the target's cluster. So most tokens cost no more than the frequent words. The vectors of each cluster can
    be narrower than those of the cluster before; one matrix maps them to the width and back (Transformer-XL's div_val;
    Baevski & Auli 2019).

    *Differs from Transformer-XL:* no biases, like everywhere in this package; the frequent words have no matrix of their own.
    """

    def __init__(self, vocabulary: int, width: int, *, cutoffs: tuple[int, ...], narrowing: int) -> None:
        """
        Args:
            cutoffs: number of words before each cluster, ascending and smaller than the vocabulary; the first is F.
            narrowing: a cluster's vectors are this many times narrower than those before it; 1: all are equally wide.
        """
        super().__init__(cutoffs[0], width)
        ends = (*cutoffs[1:], vocabulary)
        self.vocabulary, self.most_logits = (
            vocabulary,
            max(cutoffs[0] + len(cutoffs), *np.subtract(ends, cutoffs).tolist()),
        )
        self.entry_KD = nn.Parameter(torch.randn(len(cutoffs), width))
        self.clusters = _Clusters(
            _Cluster(first, end, width, width // narrowing**number)
            for number, (first, end) in enumerate(zip(cutoffs, ends, strict=True), start=1)
        )

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The input of the first layer, B T D."""
        tokens_N = tokens_BT.flatten()
        x_ND = F.embedding(tokens_N.clamp_max(len(self.embedding_VD) - 1), self.embedding_VD)
        (places,) = self._places(tokens_BT, max(1, len(tokens_N)))
        for cluster, place_M in zip(self.clusters, places, strict=True):
            embedded_MD = cluster.embed(tokens_N.index_select(0, place_M))
            x_ND = x_ND.index_put((place_M,), embedded_MD.to(x_ND.dtype))
        return x_ND.view(*tokens_BT.shape, -1)

    def _logits(self, scaled_BTD: Tensor) -> Tensor:
        """Log-probabilities of the next token, B T V."""
        entries_from = len(self.embedding_VD)
        frequent, *entries = self._first(scaled_BTD).split([entries_from, *[1] * len(self.clusters)], dim=-1)
        rest = [
            entry + cluster.logits(scaled_BTD).float().log_softmax(-1)
            for entry, cluster in zip(entries, self.clusters, strict=True)
        ]
        return torch.cat([frequent, *rest], dim=-1)

    @property
    def multiplications(self) -> float:
        """Multiplications for the loss of one token, on average if word frequencies follow Zipf's law."""
        harmonic = np.cumsum(1 / np.arange(1, self.vocabulary + 1))
        total = float(self._words().numel())
        for cluster in self.clusters:
            share = (harmonic[cluster.end - 1] - harmonic[cluster.first - 1]) / harmonic[-1]
            total += share * sum(parameter.numel() for parameter in cluster.parameters())
        return total

    def _words(self) -> Tensor:
        """The vectors of the frequent words and of the clusters; a cluster stands for all of its words."""
        return torch.cat([self.embedding_VD, self.entry_KD])

    def _first(self, scaled_BTD: Tensor) -> Tensor:
        """Log-probabilities of the frequent words and the clusters, B T F+K in fp32."""
        return _products(scaled_BTD, self._words()).float().log_softmax(-1)

    def _places(self, tokens_BT: Tensor, at_once: int) -> list[list[Tensor]]:
        """For each piece of `at_once` tokens, the places in it of the tokens of each cluster, in their order.

        How many there are must be known on the host. Of the tokens of a corpus it knows them.
        """
        tokens_N, firsts = values_of(tokens_BT).reshape(-1), [cluster.first for cluster in self.clusters]
        pieces = range(0, max(1, len(tokens_N)), at_once)
        # 0: frequent words
        cluster_N = np.searchsorted(firsts, tokens_N, side="right")
        order = [cluster_N[first : first + at_once].argsort(kind="stable") for first in pieces]
        sizes = [np.bincount(cluster_N[first : first + at_once], minlength=len(firsts) + 1) for first in pieces]
        place_N = _moved(np.concatenate(order), tokens_BT.device)
        groups = place_N.split(np.concatenate(sizes).tolist())
        return [list(groups[start + 1 : start + 1 + len(firsts)]) for start in range(0, len(groups), len(firsts) + 1)]

    def _nats_of(self, scaled_ND: Tensor, targets_N: Tensor, places: list[Tensor]) -> Tensor:
        first_NS = self._first(scaled_ND)
        entry_N, within_cluster_N = targets_N, torch.zeros_like(first_NS[:, 0])
        for number, (cluster, place_M) in enumerate(zip(self.clusters, places, strict=True)):
            entry_N = torch.where(targets_N >= cluster.first, len(self.embedding_VD) + number, entry_N)
            logits = cluster.logits(scaled_ND.index_select(0, place_M)).float()
            nats_M = F.cross_entropy(logits, targets_N.index_select(0, place_M) - cluster.first, reduction="none")
            within_cluster_N = within_cluster_N.index_put((place_M,), nats_M)
        return within_cluster_N - first_NS.gather(-1, entry_N[:, None]).squeeze(-1)


class _Clusters(nn.ModuleList):
    """The clusters of adaptive softmax, in the order of falling frequency."""

    def __iter__(self) -> Iterator["_Cluster"]:  # only to declare the type
        return super().__iter__()  # type: ignore[return-value]


class _Cluster(nn.Module):
    """The words of adaptive softmax from `first` up to `end`, without `end`."""

    def __init__(self, first: int, end: int, width: int, narrow: int) -> None:
        super().__init__()
        self.first, self.end = first, end
        self.embedding_VD = nn.Parameter(torch.randn(end - first, narrow))
        # with this scale, embeddings and logits have the variance of those of the frequent words
        self.weight = nn.Parameter(torch.randn(narrow, width) / math.sqrt(narrow)) if narrow < width else None

    def embed(self, tokens_N: Tensor) -> Tensor:
        """Embeddings of tokens of this cluster, N D."""
        x_NE = F.embedding(tokens_N - self.first, self.embedding_VD)
        return x_NE if self.weight is None else x_NE @ self.weight

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Logits of the words of this cluster, B T W, from normalised and scaled activations."""
        hidden_BTE = hidden_BTD if self.weight is None else F.linear(hidden_BTD, self.weight)
        return F.linear(hidden_BTE, self.embedding_VD.to(hidden_BTE.dtype))
