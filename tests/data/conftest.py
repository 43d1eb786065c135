"""Text to prepare, small enough that a corpus takes a fraction of a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memexp.config.groups import Data, Tokenizer
from memexp.config.sources import FilesOptions
from memexp.data.tokenizers import Tokenizer as AnyTokenizer
from memexp.data.tokenizers import train

SENTENCES = "".join(
    f"def name_{number}(left, right):\n    return left + {number} * right  # the {word} of it\n\n"
    for number, word in enumerate(["sum", "product", "first", "last", "average", "length", "value", "index"] * 40)
)
"""About 25 KB of text that looks like code."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six text files of different lengths."""
    path = tmp_path / "texts"
    path.mkdir()
    for number in range(6):
        (path / f"file{number}.txt").write_bytes(SENTENCES[: 1500 + 977 * number].encode())
    return path


@pytest.fixture
def text_data() -> Callable[..., Data]:
    """Settings for a folder of files; one document each for test and validation, bytes as tokens."""

    def settings(path: Path, **changes: Any) -> Data:
        values: dict[str, Any] = {
            "name": "text",
            "source": FilesOptions(),
            "tokenizer": Tokenizer(kind="bytes"),
            "valid_documents": 1,
            "test_documents": 1,
            "path": str(path),
        }
        return Data(**{**values, **changes})

    return settings


@pytest.fixture(scope="session", params=["bpe", "unigram"])
def sentencepiece(request: pytest.FixtureRequest) -> AnyTokenizer:
    """A small model trained on code-like text with umlauts and Chinese in it."""
    text = SENTENCES + "# Übergröße: naïve façade\n# 中文注释 中文\n" * 20
    return train(Tokenizer(kind=request.param, vocabulary=400), [text])
