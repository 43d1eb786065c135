"""What every source yields, and what it says about itself."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol


class Document(NamedTuple):
    """One text that a lane reads from start to end."""

    id: str
    """Unique and stable, such as networkx.algorithms."""
    group: str
    """Documents of one group are on the same side of every split, such as networkx."""
    text: str | bytes
    """Bytes only where they need not be UTF-8, for the byte tokenizer."""
    split: str = ""
    """train, valid or test where the source says it; else its group is assigned to one."""
    answers: Sequence[int] | None = None
    """Indices, from 1 on and ascending, of the tokens that are scored, for the tokenizer kind=words; None: all."""
    slices: dict[str, Any] | None = None
    """Kinds that accuracy is told apart by: a name, and its value or a list of one value an answer."""
    label: str | None = None
    """Its class, for task=classify."""


class Source(Protocol):
    """Documents that can be gone through more than once and are the same each time."""

    def __iter__(self) -> Iterator[Document]: ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: `what` (a line), `parts` (name, version, licence of each) and names of `absent` parts."""
        ...

    def identity(self) -> Any:
        """JSON content that tells these documents from others; it goes into the prepared folder's name."""
        ...
