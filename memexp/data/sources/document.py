"""What every source yields, and how it describes itself."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol


class Document(NamedTuple):
    """A text that a lane (row of the batch) reads from start to end."""

    id: str
    """Unique and stable, such as networkx.algorithms."""
    group: str
    """Documents of the same group are always in the same split; such as networkx."""
    text: str | bytes
    """Bytes only if they need not be UTF-8, for the byte tokenizer."""
    split: str = ""
    """train, valid or test if the source says it; if empty, its group is assigned to a split."""
    answers: Sequence[int] | None = None
    """Indices of the words that are scored, ascending, at least 1, where single spaces separate words; None: all."""
    slices: dict[str, Any] | None = None
    """What accuracy is split by: names, each with a value or with a list of one value for each answer."""
    label: str | None = None
    """Its class, for task=classify."""


class Source(Protocol):
    """Documents that can be read more than once and are the same each time."""

    def __iter__(self) -> Iterator[Document]: ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: `what` (one line), `parts` (each with name, version, licence) and the names of `absent` parts."""
        ...

    def identity(self) -> Any:
        """JSON content that differs for different documents; its hash is part of the name of the prepared folder."""
        ...
