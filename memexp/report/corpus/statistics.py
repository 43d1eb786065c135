"""Statistics of a corpus: the lengths of its documents, how much they repeat and at what distance, and its tokens.

Shapes: D documents of the split, V entries of the vocabulary, G n-grams of a document.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memexp.data.corpus import Corpus, TokenDocument
from memexp.data.manifest import splitting_of, tokenizer_name
from memexp.data.repetition import counts_by_distance, distances
from memexp.errors import UserError
from memexp.report.difference.token_text import visible

_FREQUENT = 16
"""How many of the most frequent tokens to show."""
_PASSAGE = 48
"""Length of the passage to show, in tokens."""


@dataclass(frozen=True)
class Length:
    """The documents with at least `low` and less than `2 * low` tokens.

    Attributes:
        share: share of the split's tokens that are in these documents.
    """

    low: int
    documents: int
    share: float


@dataclass(frozen=True)
class Distance:
    """The n-grams that occurred before in their document, at least `low` and less than `2 * low` tokens back.

    Attributes:
        share: share of all n-grams of the sample.
        within: share of n-grams that occurred less than `2 * low` tokens back, so that a context of this length holds them.
    """

    low: int
    share: float
    within: float


@dataclass(frozen=True)
class Inspection:
    """Statistics of one split of a corpus.

    Attributes:
        splitting: how the corpus was split; empty for one that an older version prepared.
        quantiles: tokens of a document: p10, median, p90 and max.
        classes: number of documents with each label, if the source gives labels.
        sampled: number of documents whose repetition was counted; they are the first documents, as in scoring.
        ngram: tokens of an n-gram.
        used: number of vocabulary entries that occur in the sample.
        frequent: the most frequent tokens of the sample as text, with their shares.
        passage: consecutive tokens as text, from the middle of the document `passage_of`.
    """

    name: str
    folder: str
    split: str
    splitting: str
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
        """All fields, as JSON content."""
        return asdict(self)


def inspect_corpus(corpus: Corpus, *, split: str, ngram: int, sample: int) -> Inspection:
    """Compute the statistics of one split.

    Args:
        ngram: tokens of the n-grams whose repetition is counted.
        sample: number of tokens to count repetition in, rounded up to whole documents; 0 for all.

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
        splitting=splitting_of(corpus.manifest),
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
    """How many of the first documents are needed for `sample` tokens; the last of them is read in full."""
    return int(np.searchsorted(np.cumsum(length_D), sample)) + 1 if 0 < sample < length_D.sum() else len(length_D)


def _quantiles(length_D: np.ndarray) -> dict[str, int]:
    values = np.quantile(length_D, [0.1, 0.5, 0.9, 1.0], method="inverted_cdf")
    return dict(zip(("p10", "median", "p90", "max"), values.tolist(), strict=True))


def _classes(documents: Sequence[TokenDocument]) -> dict[str, int]:
    labels = [document.label for document in documents if document.label is not None]
    return {label: labels.count(label) for label in sorted(set(labels))}


def _lengths(length_D: np.ndarray) -> list[Length]:
    """A bin for every power of two from the shortest document to the longest, without empty documents."""
    exponent_D = np.frexp(length_D)[1] - 1
    present = exponent_D[length_D > 0]
    return [
        Length(1 << at, int((present == at).sum()), float(length_D[exponent_D == at].sum() / length_D.sum()))
        for at in (range(int(present.min()), int(present.max()) + 1) if len(present) else ())
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
