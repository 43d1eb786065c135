"""How many answers are right: single tokens, whole documents, and both by slice.

Shapes: N scored tokens, documents one after another.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memexp.data.corpus import TokenDocument


def accuracies(documents: Sequence[TokenDocument], lengths: Sequence[int], correct_N: np.ndarray) -> dict[str, Any]:
    """The shares of scored tokens and of documents that are right.

    Args:
        lengths: scored tokens of each document; none at all where its answers lie beyond what was read.
        correct_N: whether each scored token was the likeliest.

    Returns:
        `accuracy` of tokens; `exact_match`, the share of documents with answers all of whose answers are right; `slices`,
        by name and value both of the answers of that value alone, and `answers`, the number of these.
    """
    document_N = np.repeat(np.arange(len(documents)), lengths)
    slices: dict[str, dict[str, Any]] = {}
    for name in sorted({name for document in documents for name in document.slices or {}}):
        value_N = np.array([value for pair in zip(documents, lengths, strict=True) for value in _values(name, *pair)])
        # A shorter number is a smaller one.
        values = sorted(set(value_N.tolist()) - {""}, key=lambda value: (len(value), value))
        slices[name] = {}
        for value in values:
            chosen_N = value_N == value
            shares = _shares(correct_N[chosen_N], document_N[chosen_N])
            slices[name][value] = {**shares, "answers": int(chosen_N.sum())}
    return {**_shares(correct_N, document_N), "slices": slices}


def _values(name: str, document: TokenDocument, length: int) -> list[str]:
    """The value of each scored token; empty where the document has none."""
    value = (document.slices or {}).get(name, "")
    return [str(one) for one in (value[:length] if isinstance(value, list) else [value] * length)]


def _shares(correct_N: np.ndarray, document_N: np.ndarray) -> dict[str, float]:
    documents, wrong = np.unique(document_N), np.unique(document_N[~correct_N])
    return {"accuracy": float(correct_N.mean()), "exact_match": (len(documents) - len(wrong)) / len(documents)}
