"""How many answers are right: by token, by document, by slice; and for classes, F1.

Shapes: N scored tokens, documents one after another; D documents, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memexp.data.corpus import TokenDocument
from memexp.data.sources.tasks.task import down

LENGTH = "length"
"""The slice that every document with slices has: its own, or its inputs in tokens."""

MOST_LENGTHS = 32
"""If there are more different lengths in tokens, each is rounded down to a power of two, so that a table has room for them."""


def accuracies(documents: Sequence[TokenDocument], lengths: Sequence[int], correct_N: np.ndarray) -> dict[str, Any]:
    """The shares of scored tokens and of whole documents that are right.

    Args:
        lengths: number of scored tokens of each document; 0 if all its answers are after the part that was read.
        correct_N: whether each scored token was the likeliest.

    Returns:
        `accuracy`, the share of tokens; `exact_match`, the share of documents in which all answers are right, among those
        with answers; `slices`, by name and value: both shares over the answers with that value, and `answers`, their number.
        A task that gives no `length` gets one here: the inputs of a document, in tokens; see `MOST_LENGTHS`.
    """
    documents = _with_lengths(documents)
    document_N = np.repeat(np.arange(len(documents)), lengths)
    slices: dict[str, dict[str, Any]] = {}
    for name in sorted({name for document in documents for name in document.slices or {}}):
        value_N = np.array([value for pair in zip(documents, lengths, strict=True) for value in _values(name, *pair)])
        # Sort numbers by size: a shorter number is smaller.
        values = sorted(set(value_N.tolist()) - {""}, key=lambda value: (len(value), value))
        slices[name] = {}
        for value in values:
            chosen_N = value_N == value
            shares = _shares(correct_N[chosen_N], document_N[chosen_N])
            slices[name][value] = {**shares, "answers": int(chosen_N.sum())}
    return {**_shares(correct_N, document_N), "slices": slices}


def _with_lengths(documents: Sequence[TokenDocument]) -> list[TokenDocument]:
    """The documents, those with slices but without a length with one.

    It is found here and not written to a corpus, so corpora that were prepared before have it too, and keep their checksums.
    """
    lacking = {len(each.tokens) - 1 for each in documents if each.slices is not None and LENGTH not in each.slices}
    exact = len(lacking) <= MOST_LENGTHS

    def of(document: TokenDocument) -> TokenDocument:
        if document.slices is None or LENGTH in document.slices:
            return document
        inputs = len(document.tokens) - 1
        return document._replace(slices={**document.slices, LENGTH: inputs if exact else down(max(1, inputs))})

    return [of(document) for document in documents]


def _values(name: str, document: TokenDocument, length: int) -> list[str]:
    """The slice value of each scored token; empty strings if the document has none."""
    value = (document.slices or {}).get(name, "")
    return [str(item) for item in (value[:length] if isinstance(value, list) else [value] * length)]


def _shares(correct_N: np.ndarray, document_N: np.ndarray) -> dict[str, float]:
    documents, wrong = np.unique(document_N), np.unique(document_N[~correct_N])
    return {"accuracy": float(correct_N.mean()), "exact_match": (len(documents) - len(wrong)) / len(documents)}


def classification(classes: Sequence[str], true_D: np.ndarray, said_D: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 (their harmonic mean) of every class, and the confusion matrix.

    Args:
        true_D, said_D: index of each document's class, and of the class that the model predicted.

    Returns:
        `classes`: by name, precision, recall, f1 and number of documents. `f1_macro`: the mean over the classes that occur
        or were predicted. `f1`: of two classes the F1 of the last by name (true, yes or 1), of more the same as `f1_macro`.
        `confusion`: numbers of documents by true class (rows) and predicted class (columns).
    """
    confusion_CC = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion_CC, (true_D, said_D), 1)
    right_C, said_C, true_C = confusion_CC.diagonal(), confusion_CC.sum(0), confusion_CC.sum(1)
    precision_C, recall_C = right_C / np.maximum(1, said_C), right_C / np.maximum(1, true_C)
    f1_C = 2 * right_C / np.maximum(1, said_C + true_C)
    macro = float(f1_C[said_C + true_C > 0].mean())
    columns = (precision_C.tolist(), recall_C.tolist(), f1_C.tolist(), true_C.tolist())
    named = [
        dict(zip(("precision", "recall", "f1", "documents"), row, strict=True)) for row in zip(*columns, strict=True)
    ]
    return {
        "f1": float(f1_C[-1]) if len(classes) == 2 else macro,
        "f1_macro": macro,
        "classes": dict(zip(classes, named, strict=True)),
        "confusion": confusion_CC.tolist(),
    }
