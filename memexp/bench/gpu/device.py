"""Times, peaks, kernels and waits of a device; on a CPU, on which the checks themselves are tested, as far as it has them."""

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from memexp.bench.gpu.ground import Ground
from memexp.machine import peak_bytes

LEAST = 0.02
"""Seconds of the calls between two looks at the clock, so that neither the clock nor the first launch counts."""
MOST_CALLS = 100
ATTENTION = ("scaled_dot_product", "flash", "fmha", "attention", "sdpa")
"""Parts of the names of attention kernels."""


def wait(device: str) -> None:
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], ground: Ground) -> list[float]:
    """Seconds of a call, measured several times; the work runs before, to warm up."""
    work()
    once = _seconds(work, ground.device, 1)
    calls = max(1, min(MOST_CALLS, round(LEAST / max(once, 1e-9))))
    return [_seconds(work, ground.device, calls) for _ in range(ground.repeats)]


def _seconds(work: Callable[[], object], device: str, calls: int) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        work()
    wait(device)
    return (time.perf_counter() - began) / calls


class Rates(NamedTuple):
    """What the device reaches, measured."""

    copied: float
    """Bytes that a copy reads and writes a second."""
    half: float
    """FLOP/s of a matrix product in bf16."""
    full: float
    """FLOP/s of a matrix product in fp32, without TF32."""

    def floor(self, *, bytes: float, operations: float) -> float:
        """The seconds below which nothing can be done that moves these bytes and multiplies this much in half precision."""
        return max(bytes / self.copied, operations / self.half)


def rates(ground: Ground) -> Rates:
    """Measure the device, each rate by its fastest call."""
    size = min(ground.copied, ground.memory // 8)
    source = torch.zeros(size, dtype=torch.uint8, device=ground.device)
    target = torch.empty_like(source)
    copied = 2 * size / min(seconds_of(partial(target.copy_, source), ground))
    del source, target
    products = []
    for kind in (torch.bfloat16, torch.float32):
        side = ground.square if kind == torch.bfloat16 else ground.square // 2
        left = torch.randn(side, side, device=ground.device).to(kind)
        out = torch.empty_like(left)
        products.append(2 * side**3 / min(seconds_of(partial(torch.mm, left, left, out=out), ground)))
    return Rates(copied, *products)


def restart_peak(device: str) -> int:
    """Begin to watch the peak; returns the bytes that are held now. A CPU's peak is that of the process since its start."""
    if device != "cuda":
        return peak_bytes()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak(device: str) -> int:
    """The most bytes held since `restart_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()


class Kernels(NamedTuple):
    """What a call starts on the device."""

    number: int
    attention: Counter[str]
    """How often each kernel of attention is started, by its name."""


def kernels_of(work: Callable[[], object], device: str) -> Kernels:
    """The kernels of one call; on a CPU its operations."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints lines of its own
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        wait(device)
    kind = torch.autograd.DeviceType.CUDA if device == "cuda" else torch.autograd.DeviceType.CPU
    names = [event.name for event in profiler.events() if event.device_type == kind]
    return Kernels(len(names), Counter(name for name in names if any(word in name.lower() for word in ATTENTION)))


def waits_of(work: Callable[[], object], device: str) -> Counter[str]:
    """How often the host waits for the device during one call, by the line of code that waits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in caught if "synchronizing CUDA operation" in str(each.message)]
    return Counter(f"{'/'.join(each.filename.split('/')[-2:])}:{each.lineno}" for each in waits)
