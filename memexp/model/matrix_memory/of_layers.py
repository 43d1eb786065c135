"""One module for each layer."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from torch import nn

Part = TypeVar("Part", bound=nn.Module)


class OfLayers(nn.ModuleList, Generic[Part]):
    """The module of each layer, counted from 0; a list of modules of which type checkers know the type."""

    def __getitem__(self, index: int) -> Part:  # type: ignore[override]  # only to declare the type
        return super().__getitem__(index)  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Part]:  # only to declare the type
        return super().__iter__()  # type: ignore[return-value]
