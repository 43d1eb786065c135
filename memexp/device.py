"""The device that a model runs on."""

import torch

from memexp.errors import UserError
from memexp.machine import peak_bytes


def pick_device(name: str) -> torch.device:
    """The device that the setting `device` names; auto is CUDA if there is a GPU.

    Raises:
        UserError: the setting is cuda, but torch sees no CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device is cuda, but torch sees no CUDA device; expected a GPU and a CUDA build of torch "
            f"(this is torch {torch.__version__}), or device=cpu"
        )
    return torch.device(name)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the GPU if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()
