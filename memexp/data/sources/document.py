"""What every source yields, and what it says about itself."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Document(NamedTuple):
    """One text that a lane reads from start to end."""

    id: str
    """Unique and stable, such as networkx.algorithms."""
    group: str
    """Documents of one group are on the same side of every split, such as networkx."""
    text: str | bytes
    """Bytes only where they need not be UTF-8, for the byte tokenizer."""


class Source(Protocol):
    """Documents that can be gone through more than once and are the same each time."""

    def __iter__(self) -> Iterator[Document]: ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: `what` (a line), `parts` (name, version, licence of each) and names of `absent` parts."""
        ...

    def identity(self) -> Any:
        """JSON content that tells these documents from others; it goes into the prepared folder's name."""
        ...
