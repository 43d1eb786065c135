"""Batches go from NumPy, which `memexp.data` is content with, to tensors on the device of the model."""

import numpy as np
import torch
from torch import Tensor

from memexp.data.lanes import Batch


def to_device(batch: Batch[np.ndarray], device: torch.device) -> Batch[Tensor]:
    """A batch as the model reads it."""
    return batch.map(lambda array: torch.from_numpy(array).to(device, non_blocking=True))
