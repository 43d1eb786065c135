"""The device that a model runs on."""

import os
import re
import warnings
from typing import Any, NamedTuple

import torch

from memexp.errors import UserError
from memexp.machine import cores, memory_bytes, peak_bytes, processor
from memexp.wording import plural


class Description(NamedTuple):
    """A device by its name.

    Attributes:
        memory: bytes of the GPU, or of the machine.
        reason: why it is not a GPU; empty if it is, or if the CPU was asked for.
    """

    name: str
    memory: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.memory / 1e9:,.0f} GB" + (f" ({self.reason})" if self.reason else "")

    @property
    def record(self) -> dict[str, Any]:
        """For a summary."""
        return {"name": self.name, "memory_bytes": self.memory} | ({"reason": self.reason} if self.reason else {})


def pick_device(name: str) -> torch.device:
    """The device that is called auto, cpu, cuda or cuda:N; auto is CUDA if there is a GPU.

    Raises:
        UserError: there is no device of this name, or torch sees no CUDA device.
    """
    named = re.fullmatch(r"auto|cpu|cuda(:(?P<number>[0-9]{1,9}))?", name)
    if named is None:
        raise UserError(
            f"device is {name!r}; expected auto, cpu, cuda or cuda:N, where N is the number of a GPU from 0"
        )
    if name == "cpu":
        return torch.device("cpu")
    reason = why_no_gpu()
    if name == "auto":
        return torch.device("cpu" if reason else "cuda")
    if reason:
        raise UserError(
            f"device is {name}, but torch sees no CUDA device: {reason}; expected a GPU, its driver and a CUDA build of torch "
            f"(this is torch {torch.__version__}), or device=cpu"
        )
    if named["number"] is None:
        return torch.device("cuda")
    number, count = int(named["number"]), torch.cuda.device_count()
    if number >= count:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            f"device is {name}, but torch sees {plural(count, 'CUDA device')}; expected a number below {count}, because the first is "
            "cuda:0" + ("" if hidden is None else f". Likely cause: CUDA_VISIBLE_DEVICES is {hidden!r}")
        )
    return torch.device("cuda", number)


def describe(device: torch.device, *, asked: str) -> Description:
    """The name and memory of a device.

    Args:
        asked: the setting `device`; with auto, the description of a CPU says why it is not a GPU.
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Description(properties.name, properties.total_memory)
    count = cores()
    name = f"{processor()}, {count} core{'' if count == 1 else 's'}"
    return Description(name, memory_bytes(), f"no GPU: {why_no_gpu()}" if asked == "auto" else "")


def why_no_gpu() -> str:
    """Why torch cannot use a GPU, in a few words; empty if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own warning has several lines, and is said here in one
        if torch.cuda.is_available():
            return ""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {torch.__version__} is a CPU build"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # the kind of error depends on torch's version and on what is wrong
        seen = str(error).split(". ")[0].split("\n")[0]
        if "too old" in seen:
            version = torch.version.cuda
            return f"the NVIDIA driver is too old for CUDA {version}, which torch {torch.__version__} is built for ({seen})"
        if "no CUDA GPUs" not in seen.replace("No", "no"):
            return seen
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "no device is visible" + ("" if hidden is None else f", and CUDA_VISIBLE_DEVICES is {hidden!r}")


def visible_cards() -> list[str]:
    """The GPUs that this process may use, each as `CUDA_VISIBLE_DEVICES` names it; the process does not begin to use them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the GPU if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()
