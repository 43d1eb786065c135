"""The text of scored tokens: from the tokenizer of the corpus, or their numbers where that is gone."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memexp.errors import UserError
from memexp.report.difference.token_kinds import UNKNOWN, kinds
from memexp.report.difference.tokens import Difference
from memexp.report.escape import escape

BEFORE, AFTER = 60, 20
"""Characters of surroundings that are shown, escapes included."""
_WINDOW = 4 * BEFORE
"""Tokens that surely hold them, for a character is four bytes at most and a token at least one."""

Pieces = Callable[[Sequence[int]], list[bytes]]
"""The raw bytes of each token; joined they are the text's UTF-8."""


@dataclass(frozen=True)
class Passage:
    """A token in its surroundings, with everything that does not print as an escape."""

    before: str
    token: str
    after: str


def find_pieces(found: Difference, root: Path) -> tuple[Pieces, str]:
    """The pieces of a difference's tokens, and a warning or nothing.

    Where the corpus is gone or is another one by now, tokens stand as their numbers.
    """
    summary = found.a.summary
    where = summary.get("corpus")
    if where is None:
        return numbers, "the score does not say which corpus it read, so tokens are shown as numbers"
    try:
        from memexp.data.classes import WithClasses
        from memexp.data.corpus import open_corpus

        corpus = open_corpus(root / where)
        tokenizer, tokenizer_hash = corpus.tokenizer, corpus.tokenizer_hash
    except UserError as error:
        return numbers, f"tokens are shown as numbers, for the corpus cannot be opened: {error}"
    if tokenizer_hash != summary["tokenizer_hash"]:
        return (
            numbers,
            f"tokens are shown as numbers, for {where} has another tokenizer by now; score again with force=true",
        )
    if classes := summary.get("classes"):
        tokenizer = WithClasses(tokenizer, list(classes))
    return tokenizer.pieces, ""


def numbers(ids: Sequence[int]) -> list[bytes]:
    """Each token as its number: <812>."""
    return [f"<{int(one)}>".encode() for one in ids]


def passage(found: Difference, index: int, pieces: Pieces) -> Passage:
    """The scored token number `index` and what stands around it in its document."""
    document = int(found.document_N[index])
    start = int(found.a.lengths[:document].sum())
    end = start + int(found.a.lengths[document])

    def characters(first: int, last: int) -> list[str]:
        raw = b"".join(pieces(found.a.tokens_N[max(first, start) : min(last, end)].tolist()))
        # A byte that is part of no whole character stands by itself, as an escape.
        parts = raw.decode("utf-8", errors="surrogateescape")
        return [visible(part.encode("utf-8", errors="surrogateescape")) for part in parts]

    before = _fitting(characters(index - _WINDOW, index)[::-1], BEFORE)[::-1]
    after = _fitting(characters(index + 1, index + 1 + _WINDOW), AFTER)
    return Passage("".join(before), "".join(characters(index, index + 1)), "".join(after))


def _fitting(parts: list[str], width: int) -> list[str]:
    """The first of `parts` that fit into `width` together, so that no escape is cut in two."""
    sizes = np.cumsum([len(part) for part in parts])
    return parts[: int(np.searchsorted(sizes, width, side="right"))]


def visible(raw: bytes) -> str:
    """Bytes as text; those that are no whole character, and characters that do not print, as escapes.

    A backslash stands doubled, so that the text can be had back.
    """
    return escape(raw.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace"))


@dataclass(frozen=True)
class Wording:
    """Every token as it stands in its document.

    Attributes:
        texts: what each adds to the text; a character comes with its last byte, so some add nothing. Line ends and tabs are
            kept, everything else that does not print is an escape.
        kind_N: an index of `memexp.report.difference.token_kinds.KINDS`.
    """

    texts: list[str]
    kind_N: np.ndarray


def word(found: Difference, pieces: Pieces) -> Wording:
    """The texts and kinds of a difference's tokens; of numbers nobody knows the kind."""
    texts: list[str] = []
    kinds_of = []
    for start, end in found.spans:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        parts = [decoder.decode(piece) for piece in pieces(found.a.tokens_N[start:end].tolist())]
        if rest := decoder.decode(b"", final=True):
            parts[-1] += rest
        kinds_of.append(np.full(len(parts), UNKNOWN) if pieces is numbers else kinds(parts))
        texts += map(_printing, parts)
    return Wording(texts, np.concatenate(kinds_of))


def _printing(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" else escape(char) for char in text)


def token_texts(tokens_N: np.ndarray, pieces: Pieces) -> list[str]:
    """The text of each token, as `visible` writes it."""
    known, index = np.unique(tokens_N, return_inverse=True)
    texts = [visible(piece) for piece in pieces(known.tolist())]
    return [texts[at] for at in index.tolist()]
