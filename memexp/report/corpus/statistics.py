"""What a corpus is like: how long its documents are, how much they repeat themselves and how far apart, and its tokens.

Shapes: D documents of the split, S of them that are sampled, V entries of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memexp.data.corpus import Corpus, TokenDocument
from memexp.data.manifest import tokenizer_name
from memexp.data.repetition import counts_by_distance, distances
from memexp.errors import UserError
from memexp.report.difference.token_text import visible

_FREQUENT = 16
"""Tokens to show, the most frequent ones."""
_PASSAGE = 48
"""Tokens of the passage to show, from the middle of a document."""


@dataclass(frozen=True)
class Length:
    """Documents of at least `low` and less than twice as many tokens.

    Attributes:
        share: of all tokens of the split, those in these documents.
    """

    low: int
    documents: int
    share: float


@dataclass(frozen=True)
class Distance:
    """n-grams that stood before in their document, at least `low` and less than twice as many tokens back.

    Attributes:
        share: of all n-grams of the sample.
        within: share of those less than `2 * low` back: what a past of that many tokens shows again.
    """

    low: int
    share: float
    within: float


@dataclass(frozen=True)
class Inspection:
    """One split of a corpus.

    Attributes:
        quantiles: tokens of a document, by p10, median, p90 and max.
        classes: documents of each label, where the source says one.
        sampled: documents whose repetition was counted, the first in the order that scores take them in.
        ngram: tokens of an n-gram.
        used: entries of the vocabulary that stand in the sample.
        frequent: the most frequent tokens of the sample as text, with their shares.
        passage: tokens one after another as text, from the middle of `passage_of`.
    """

    name: str
    folder: str
    split: str
    tokenizer: str
    vocabulary: int
    documents: int
    bytes: int
    tokens: int
    quantiles: dict[str, int]
    lengths: list[Length]
    classes: dict[str, int]
    sampled: int
    sampled_tokens: int
    ngram: int
    distances: list[Distance]
    used: int
    frequent: list[tuple[str, float]]
    passage_of: str
    passage: list[str]

    def summary(self) -> dict[str, Any]:
        """All of it as JSON content."""
        return asdict(self)


def inspect_corpus(corpus: Corpus, *, split: str, ngram: int, sample: int) -> Inspection:
    """Look into one split.

    Args:
        ngram: tokens of the n-grams whose repetition is looked for.
        sample: tokens after which no more documents are read for that; 0 reads all.

    Raises:
        UserError: the split has no document.
    """
    documents = corpus.split(split)
    if not documents:
        raise UserError(f"the {split} split of {corpus.path} is empty; expected documents. Choose another with split=")
    length_D = np.array([len(document.tokens) for document in documents])
    sampled = documents[: _enough(length_D, sample)]
    count_V = np.zeros(corpus.vocabulary, dtype=np.int64)
    for document in sampled:
        count_V += np.bincount(document.tokens, minlength=corpus.vocabulary)
    frequent = np.argsort(-count_V, kind="stable")[:_FREQUENT]
    texts = [visible(piece) for piece in corpus.tokenizer.pieces(frequent.tolist())]
    shares = (count_V[frequent] / max(1, count_V.sum())).tolist()
    longest = max(sampled, key=lambda document: len(document.tokens))
    middle = max(0, (len(longest.tokens) - _PASSAGE) // 2)
    passage = corpus.tokenizer.pieces(longest.tokens[middle : middle + _PASSAGE].tolist())
    return Inspection(
        name=corpus.name,
        folder=corpus.path.name,
        split=split,
        tokenizer=tokenizer_name(corpus.manifest),
        vocabulary=corpus.vocabulary,
        documents=len(documents),
        bytes=sum(document.bytes for document in documents),
        tokens=int(length_D.sum()),
        quantiles=_quantiles(length_D),
        lengths=_lengths(length_D),
        classes=_classes(documents),
        sampled=len(sampled),
        sampled_tokens=int(length_D[: len(sampled)].sum()),
        ngram=ngram,
        distances=_distances(sampled, ngram),
        used=int((count_V > 0).sum()),
        frequent=[pair for pair in zip(texts, shares, strict=True) if pair[1]],
        passage_of=longest.id,
        passage=[visible(piece) for piece in passage],
    )


def _enough(length_D: np.ndarray, sample: int) -> int:
    """How many of the first documents hold `sample` tokens: all of the last one is read, so that none is too long."""
    return int(np.searchsorted(np.cumsum(length_D), sample)) + 1 if 0 < sample < length_D.sum() else len(length_D)


def _quantiles(length_D: np.ndarray) -> dict[str, int]:
    found = np.quantile(length_D, [0.1, 0.5, 0.9, 1.0], method="inverted_cdf")
    return dict(zip(("p10", "median", "p90", "max"), found.tolist(), strict=True))


def _classes(documents: Sequence[TokenDocument]) -> dict[str, int]:
    labels = [document.label for document in documents if document.label is not None]
    return {label: labels.count(label) for label in sorted(set(labels))}


def _lengths(length_D: np.ndarray) -> list[Length]:
    """A bin for every power of two from the shortest document to the longest; empty documents are of none."""
    exponent_D = np.frexp(length_D)[1] - 1
    held = exponent_D[length_D > 0]
    return [
        Length(1 << at, int((held == at).sum()), float(length_D[exponent_D == at].sum() / length_D.sum()))
        for at in (range(int(held.min()), int(held.max()) + 1) if len(held) else ())
    ]


def _distances(documents: Sequence[TokenDocument], ngram: int) -> list[Distance]:
    """A bin for every power of two up to the greatest distance."""
    counts, total = np.zeros(63, dtype=np.int64), 0
    for document in documents:
        distance_G = distances(document.tokens, ngram)
        counts += counts_by_distance(distance_G)
        total += len(distance_G)
    shares = counts / max(1, total)
    last = int(np.flatnonzero(counts).max(initial=-1))
    within = np.cumsum(shares)
    return [Distance(1 << at, float(shares[at]), float(within[at])) for at in range(last + 1)]
