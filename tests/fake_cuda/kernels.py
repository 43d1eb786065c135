"""In place of the kernels of Triton: they compute nothing, but what they read and write is counted."""

from typing import Any

from torch import Tensor

from ..counting import Watch, size_of


class Kernel:
    """Reads and writes each of its tensors once; of the keys, `members` reads those of the members.

    Args:
        name: `maxima` or `members`.
    """

    def __init__(self, name: str, watch: Watch) -> None:
        self._name, self._watch = name, watch

    def __getitem__(self, grid: tuple[int, ...]) -> "Kernel":
        return self

    def __call__(self, *given: Any, HEAD_SIZE: int, **named: Any) -> None:
        tensors = [each for each in given if isinstance(each, Tensor)]
        assert len({tensor.device for tensor in tensors}) == 1, tensors
        sizes = [size_of(tensor) for tensor in tensors]
        if self._name == "members":
            sizes[1] = tensors[-1].numel() * HEAD_SIZE * tensors[1].element_size()
        self._watch.kernel(self._name, sum(sizes))
