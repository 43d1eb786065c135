"""Moving batches from NumPy arrays, as `memexp.data` makes them, to tensors on the model's device."""

import numpy as np
import torch
from torch import Tensor

from memexp.data.lanes import Batch
from memexp.model.on_host import remember


def to_device(batch: Batch[np.ndarray], device: torch.device) -> Batch[Tensor]:
    """The batch as tensors on `device`; the host does not wait until they have arrived."""
    if device.type != "cuda":
        return batch.map(lambda array: onto(array, device))
    return batch.map(lambda array: remember(onto(array, device), array))


def onto(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on `device`; the host does not wait until it has arrived."""
    tensor = torch.from_numpy(array)
    # a copy is asynchronous only from pinned memory
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
