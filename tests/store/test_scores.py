"""What a score is called in words."""

import pytest

from memexp.config.groups import Scoring
from memexp.store.scores import describe


@pytest.mark.parametrize(
    ("documents", "max_document", "words"),
    [
        (8, 8192, "test, first 8 documents, first 8,192 tokens of each"),
        (1, 32768, "test, first document, first 32,768 tokens"),
        (0, 0, "test, all documents, whole"),
    ],
)
def test_the_documents_of_a_score(documents: int, max_document: int, words: str) -> None:
    assert describe(Scoring("test", documents, max_document)) == words
