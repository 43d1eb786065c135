"""Documents that end in their class: how task=classify reads a corpus whose documents have labels.

    document      d0 d1 d2 d3           of the class c, whose id follows the tokenizer's
    as it is read d0 d1 d2 d3 c         only c is scored; the last token is never an input, so no class is ever read

c is predicted from the segment that holds the end of the document's text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memexp.config.groups import Data
from memexp.data.corpus import Corpus, TokenDocument
from memexp.data.splits import HELD_OUT, SPLITS
from memexp.data.tokenizers import Tokenizer
from memexp.errors import UserError


class WithClasses:
    """A tokenizer with one more token for each class, after its vocabulary. No text is ever encoded as a class."""

    def __init__(self, text: Tokenizer, classes: Sequence[str]) -> None:
        self._text = text
        self._classes = [f" {name}".encode() for name in classes]
        self.vocabulary = text.vocabulary + len(classes)
        self.encode, self.save = text.encode, text.save
        self.lossless, self.by_line, self.slow = text.lossless, text.by_line, text.slow

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.pieces(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        first = self._text.vocabulary
        return [self._classes[id - first] if id >= first else self._text.pieces([id])[0] for id in map(int, ids)]


@dataclass(frozen=True)
class ClassifiedCorpus(Corpus):
    """A corpus whose documents are their first `max_document` tokens (0: all) and their class."""

    max_document: int = 0

    def split(self, name: str) -> list[TokenDocument]:
        """The documents of `train`, `valid` or `test`, each with its class, in the same order as without classes."""
        return [self._ended(document) for document in super().split(name)]

    def _ended(self, document: TokenDocument) -> TokenDocument:
        assert document.label is not None  # `for_task` has looked
        text = document.tokens[: self.max_document or None]
        tokens = np.append(text, np.uint32(self.answers_from + self.classes.index(document.label)))
        return document._replace(tokens=tokens, answers=np.arange(len(tokens)) == len(text))


def for_task(corpus: Corpus, data: Data) -> Corpus:
    """The corpus as a run of these settings reads it: as it stands, or with documents that end in their class.

    Raises:
        UserError: a document has no label, there is only one class, or training does not show all.
    """
    if data.task == "predict":
        return corpus
    labels = {split: [document.label for document in corpus.split(split)] for split in SPLITS}
    unlabelled = [document.id for split in SPLITS for document in corpus.split(split) if document.label is None]
    if unlabelled:
        raise UserError(
            f"{len(unlabelled)} of {sum(map(len, labels.values()))} documents of data={data.name} have no label, such as "
            f"{unlabelled[0]}; expected a label for each with task=classify, as data=text data.source.label=FIELD takes it from "
            "rows"
        )
    classes = sorted({label for label in labels["train"] if label is not None})
    for split in HELD_OUT:
        if unseen := sorted({label for label in labels[split] if label is not None and label not in classes}):
            raise UserError(
                f"the {split} split of data={data.name} has the class {unseen[0]!r}, which no training document has (they "
                f"have {', '.join(map(repr, classes))}); expected the same classes. Likely cause: it is spelled differently, or "
                "too rare"
            )
    if len(classes) < 2:
        raise UserError(
            f"all documents of data={data.name} are of the class {classes[0]!r}; expected at least two classes. Likely "
            "cause: data.source.label names another field"
        )
    return ended_in_classes(corpus, classes, data.max_document)


def ended_in_classes(corpus: Corpus, classes: Sequence[str], max_document: int) -> Corpus:
    """The corpus with documents that are their first `max_document` tokens (0: all) and their class."""
    return ClassifiedCorpus(
        corpus.path,
        corpus.manifest,
        WithClasses(corpus.tokenizer, classes),
        corpus.made,
        classes=tuple(classes),
        max_document=max_document,
    )
