"""In place of the kernels of Triton: they compute nothing, but what they read and write is counted."""

from typing import Any

from torch import Tensor

from ..counting import Watch, size_of


class Kernel:
    """Reads and writes each of its tensors once, but `best` reads only some keys, and of its groups only the chosen ones.

    As if chance had spread the best pairs over the groups: of some groups all keys are read, of the others one.

    Args:
        name: `maxima` or `best`.
    """

    def __init__(self, name: str, watch: Watch) -> None:
        self._name, self._watch = name, watch

    def __getitem__(self, grid: tuple[int, ...]) -> "Kernel":
        return self

    def __call__(self, *given: Any, HEAD_SIZE: int, **named: Any) -> None:
        tensors = [each for each in given if isinstance(each, Tensor)]
        assert len({tensor.device for tensor in tensors}) == 1, tensors
        sizes = [size_of(tensor) for tensor in tensors]
        if self._name == "best":
            keys, (maxima, *_, groups, _, slots) = tensors[1], tensors[4:]
            k = slots.shape[-1]
            together = k * (k - 1) / 2 / maxima.shape[1]
            sizes[1] = round(
                (k + together * (named["SIZE"] - 1)) * slots[..., 0].numel() * HEAD_SIZE * keys.element_size()
            )
            sizes[4:7] = [groups.numel() * each.element_size() for each in tensors[4:7]]
        self._watch.kernel(self._name, sum(sizes))
