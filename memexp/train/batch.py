"""Moving batches from NumPy arrays, as `memexp.data` makes them, to tensors on the model's device, and results back."""

import numpy as np
import torch
from torch import Tensor

from memexp.data.lanes import Batch
from memexp.model.on_host import remember


def to_device(batch: Batch[np.ndarray], device: torch.device) -> Batch[Tensor]:
    """The batch as tensors on `device`; the host does not wait until they have arrived."""
    return batch.map(lambda array: onto(array, device))


def onto(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on `device`; the host does not wait until it has arrived."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # a copy is asynchronous only from pinned memory
    return remember(tensor.pin_memory().to(device, non_blocking=True), array)


def to_host(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors of one device as arrays; the host waits once for all of them."""
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.numpy() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).record_event().synchronize()
    return [copy.numpy() for copy in copies]
