"""Rings of given keys."""

import torch
from torch import Tensor

from memexp.model.knn_memory.ring import Ring


def ring_of(keys_HMK: Tensor, *, position: int | None = None, count: int | None = None) -> Ring:
    """A ring of one lane with these keys, full unless told."""
    size = keys_HMK.shape[1]
    return Ring(
        keys_HMK[None],
        keys_HMK[None].clone(),
        torch.tensor([size if position is None else position]),
        torch.tensor([size if count is None else count]),
        size,
    )
