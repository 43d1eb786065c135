"""The text of scored tokens, from the tokenizer of the corpus; if the corpus is missing, the numbers of the tokens."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memexp.errors import UserError
from memexp.report.difference.token_kinds import UNKNOWN, kinds
from memexp.report.difference.tokens import Difference, Read
from memexp.report.escape import escape_lines
from memexp.store.folder import Run, Score

if TYPE_CHECKING:
    from memexp.data.corpus import Corpus

BEFORE, AFTER = 60, 20
"""Characters to show before and after a token, escapes included."""
_WINDOW = 4 * BEFORE
"""Tokens that hold at least as many characters: a character has at most four bytes, and a token at least one byte."""

Pieces = Callable[[Sequence[int]], list[bytes]]
"""Gives the raw bytes of each token; joined, they are the text in UTF-8."""


@dataclass(frozen=True)
class Passage:
    """A token and the text around it; characters that do not print are escaped."""

    before: str
    token: str
    after: str


class Found(NamedTuple):
    """What the corpus of a difference gives.

    Attributes:
        pieces: of its tokens.
        warning: what is missing; empty: nothing.
        diff: the difference; if only answers are scored, with all that was read.
    """

    pieces: Pieces
    warning: str
    diff: Difference


def find_text(diff: Difference, root: Path) -> Found:
    """The pieces of a difference's tokens, and what was read besides the scored tokens.

    If the corpus is missing or has changed since, tokens are shown as numbers.
    """
    from memexp.data.classes import ended_in_classes
    from memexp.data.corpus import open_corpus, recorded

    summary = diff.a.summary
    where = summary.get("corpus")
    if where is None:
        return Found(numbers, "the score does not say which corpus it read, so tokens are shown as numbers", diff)
    try:
        corpus = open_corpus(recorded(str(where), root))
    except UserError as error:
        return Found(numbers, f"tokens are shown as numbers, because the corpus cannot be opened: {error}", diff)
    if corpus.tokenizer_hash != summary["tokenizer_hash"]:
        again = f"tokens are shown as numbers, because the tokenizer of {where} has changed; {Score(diff.a.path).again}"
        return Found(numbers, again, diff)
    if classes := summary.get("classes"):
        corpus = ended_in_classes(
            corpus, list(classes), Run(diff.a.path.parents[1]).config["data"].get("max_document", 0)
        )
    if not diff.of_answers:
        return Found(corpus.tokenizer.pieces, "", diff)
    if (read := _read(diff, corpus)) is None:
        lacks = f"only the answers are shown, because the documents of {where} have changed; {Score(diff.a.path).again}"
        return Found(corpus.tokenizer.pieces, lacks, diff)
    return Found(corpus.tokenizer.pieces, "", replace(diff, read=read))


def _read(diff: Difference, corpus: "Corpus") -> Read | None:
    """All tokens of the documents; None if these are not the documents that were scored."""
    summary, here = diff.a.summary, {document.id: document for document in corpus.split(diff.a.summary["split"])}
    if any(name not in here for name, _ in diff.a.documents):
        return None
    documents = [here[name] for name, _ in diff.a.documents]
    scored = [document.scored(summary["max_document"]) for document in documents]
    told = [document.tokens[indices] for document, indices in zip(documents, scored, strict=True)]
    if not np.array_equal(np.concatenate(told), diff.a.tokens_N):
        return None
    return Read.of([np.asarray(document.tokens) for document in documents], scored)


def numbers(ids: Sequence[int]) -> list[bytes]:
    """Each token as its number: <812>."""
    return [f"<{int(token)}>".encode() for token in ids]


def passage(diff: Difference, index: int, pieces: Pieces) -> Passage:
    """The scored token `index` and the text around it in its document, as far as it is known."""
    known = diff.known
    start, end = np.searchsorted(known.document_R, diff.document_N[index] + np.arange(2)).tolist()
    index = int(known.place_N[index])

    def characters(first: int, last: int) -> list[str]:
        raw = b"".join(pieces(known.tokens_R[max(first, start) : min(last, end)].tolist()))
        # A byte that is not part of a whole character is shown as an escape.
        parts = raw.decode("utf-8", errors="surrogateescape")
        return [visible(part.encode("utf-8", errors="surrogateescape")) for part in parts]

    before = _fitting(characters(index - _WINDOW, index)[::-1], BEFORE)[::-1]
    after = _fitting(characters(index + 1, index + 1 + _WINDOW), AFTER)
    return Passage("".join(before), "".join(characters(index, index + 1)), "".join(after))


def _fitting(parts: list[str], width: int) -> list[str]:
    """The first of `parts` that fit into `width` together; none is cut, so escapes stay whole."""
    sizes = np.cumsum([len(part) for part in parts])
    return parts[: int(np.searchsorted(sizes, width, side="right"))]


def visible(raw: bytes) -> str:
    """Bytes as text, with escapes for incomplete characters and for characters that do not print.

    Backslashes are doubled, so that the bytes can be recovered.
    """
    text = raw.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


@dataclass(frozen=True)
class Wording:
    """Text and kind of every token.

    Attributes:
        texts: what each token adds to the text. A character belongs to the token with its last byte, so some tokens add
            nothing. Line ends and tabs are kept; other characters that do not print are escaped.
        kind_N: an index of `memexp.report.difference.token_kinds.KINDS`.
    """

    texts: list[str]
    kind_N: np.ndarray


def word(diff: Difference, pieces: Pieces) -> Wording:
    """The texts and kinds of a difference's tokens; tokens that are shown as numbers have no known kind."""
    texts: list[str] = []
    kinds_of = []
    for start, end in diff.spans:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        parts = [decoder.decode(piece) for piece in pieces(diff.a.tokens_N[start:end].tolist())]
        if rest := decoder.decode(b"", final=True):
            parts[-1] += rest
        kinds_of.append(np.full(len(parts), UNKNOWN) if pieces is numbers else kinds(parts))
        texts += map(escape_lines, parts)
    return Wording(texts, np.concatenate(kinds_of))


def token_texts(tokens_N: np.ndarray, pieces: Pieces) -> list[str]:
    """The text of each token, as `visible` writes it."""
    known, index = np.unique(tokens_N, return_inverse=True)
    texts = [visible(piece) for piece in pieces(known.tolist())]
    return [texts[at] for at in index.tolist()]
