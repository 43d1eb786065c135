"""One batch as tensors on the device of the model."""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.data.lanes import Batch


class Fed(NamedTuple):
    """One batch as the model reads it; the fields are those of `memexp.data.lanes.Batch`."""

    tokens_BT: Tensor
    targets_BT: Tensor
    valid_BT: Tensor
    weight_BT: Tensor
    reset_B: Tensor


def feed(batch: Batch, device: torch.device) -> Fed:
    """A batch on the device."""
    return Fed(*(torch.from_numpy(array).to(device, non_blocking=True) for array in batch[: len(Fed._fields)]))
