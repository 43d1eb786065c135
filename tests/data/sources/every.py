"""Every source that reads a user's files, for tests that walk all of them."""

from collections.abc import Callable
from typing import Any

from memexp.config.sources import (
    ArticlesOptions,
    FilesOptions,
    PiecesOptions,
    RepositoriesOptions,
    TextsOptions,
    TheoriesOptions,
)
from memexp.data.sources import Articles, Files, Pieces, Repositories, Texts, Theories

PUBLISHED: dict[str, Any] = {"sets": [], "fields": {"text": ["text"]}, "licence": "x", "instead": "code"}
GROUPED: dict[str, Any] = {**PUBLISHED, "fields": {"text": ["text"], "repository": ["repo"], "path": ["path"]}}

SOURCES: dict[str, Callable[..., Any]] = {
    "files": lambda path, **more: Files(FilesOptions(**more), str(path)),
    "texts": lambda path, **more: Texts(TextsOptions(**PUBLISHED, **more), str(path)),
    "articles": lambda path, **more: Articles(ArticlesOptions(**PUBLISHED, **more), str(path)),
    "pieces": lambda path, **more: Pieces(PiecesOptions(**{**PUBLISHED, "size": 4, "piece": 2, **more}), str(path)),
    "repositories": lambda path, **more: Repositories(
        RepositoriesOptions(**GROUPED, suffixes=[".py"], **more), str(path)
    ),
    "theories": lambda path, **more: Theories(TheoriesOptions(**GROUPED, **more), str(path)),
}
"""Each source by its name, from a path and options."""

TEXTS = {
    "files": ".txt",
    "texts": ".txt",
    "articles": ".raw",
    "pieces": ".txt",
    "repositories": ".py",
    "theories": ".thy",
}
"""How the files end that each of them reads as texts."""

FOLDERS = [name for name in SOURCES if name != "pieces"]
"""Those that read folders of many files."""


def all_text(source: Any) -> str:
    """The text of all documents, one after another."""
    texts = [each.text if isinstance(each.text, bytes) else each.text.encode() for each in source]
    return b"".join(texts).decode()


def row(text: Any, number: int = 0) -> dict[str, Any]:
    """A row that each of them reads."""
    return {"text": text, "repo": f"owner/{number}", "path": f"{number}.py"}
