"""Memory of the host to which a GPU copies by itself (pinned), of just the size that is asked for.

torch's own pinned memory comes in powers of two, and so takes up to twice as much.
"""

import mmap
import weakref
from contextlib import suppress

import torch
from torch import Tensor

PORTABLE = 1
"""cudaHostRegisterPortable: pinned for all GPUs of this process."""
ALIGNED = 256
"""Bytes to a multiple of which each tensor begins."""


def pinned_like(tensors: list[Tensor]) -> list[Tensor] | None:
    """Tensors of these shapes and types, each with a storage of its own, whose values are arbitrary; None if the system refuses.

    They are in one piece of memory, which is given back when the last of them is gone.
    """
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + -(-tensor.nbytes // ALIGNED) * ALIGNED)
    if not starts[-1]:
        return [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in tensors]
    try:
        area = mmap.mmap(-1, starts[-1], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    address = torch.frombuffer(area, dtype=torch.uint8).data_ptr()
    if int(torch.cuda.cudart().cudaHostRegister(address, starts[-1], PORTABLE)) != 0:
        with suppress(RuntimeError):  # else the next kernel would raise this error
            torch.zeros(1, device=tensors[0].device)
        return None
    weakref.finalize(area, _release, address).atexit = False
    return [_at(area, start, tensor) for start, tensor in zip(starts, tensors, strict=False)]


def _at(area: mmap.mmap, start: int, like: Tensor) -> Tensor:
    if not like.numel():
        return torch.empty(like.shape, dtype=like.dtype)
    return torch.frombuffer(area, dtype=like.dtype, count=like.numel(), offset=start).view(like.shape)


def _release(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)
