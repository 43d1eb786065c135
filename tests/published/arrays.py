"""The arrays of a file in this folder: weights, inputs and outputs of published code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Published:
    """The arrays of a file, as double precision tensors where they are numbers."""

    def __init__(self, name: str) -> None:
        with np.load(Path(__file__).with_name(f"{name}.npz"), allow_pickle=False) as arrays:
            self.arrays = dict(arrays)

    def __getitem__(self, name: str) -> Tensor:
        array = torch.from_numpy(self.arrays[name])
        return array.double() if array.is_floating_point() else array

    def const(self, name: str) -> Any:
        """A size, setting or flag of the published code."""
        return self.arrays[f"const.{name}"].item()

    def below(self, prefix: str) -> "Weights":
        """The weights whose names begin with `prefix`, under the rest of their names."""
        start = f"weight.{prefix}"
        return Weights({key.removeprefix(start): self[key] for key in self.arrays if key.startswith(start)})


class Weights(dict[str, Tensor]):
    """Weights by name; each must be taken exactly once."""

    def kernel(self, name: str) -> Tensor:
        """A matrix as `nn.Linear` has it, outputs times inputs; published kernels are inputs times outputs."""
        return self.pop(f"{name}.kernel").T

    def below(self, prefix: str) -> "Weights":
        """Take all weights below `prefix`, under the rest of their names."""
        return Weights({key.removeprefix(prefix): self.pop(key) for key in list(self) if key.startswith(prefix)})


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max())
