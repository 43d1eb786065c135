"""The machine that figures are measured on: its description and its limits."""

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from memexp.bench.measurement import clock
from memexp.device import describe, why_no_gpu
from memexp.machine import processor


def describe_machine() -> dict[str, Any]:
    """The processor, its load, versions of software, and the GPU if there is one."""
    gpu = torch.device("cuda")
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "clock": "CPU" if clock() is time.process_time else "wall",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    } | (
        {}
        if why_no_gpu()
        else {"gpu": describe(gpu, asked="cuda").record | {"cuda": torch.version.cuda or torch.version.hip}}
    )


def floors() -> dict[str, float]:
    """Upper limits of speed on this machine, with torch's threads: matrix products in GF/s, memory reads in GB/s.

    The products are those of a search (512 queries, keys of size 64) and a projection (2,048 tokens, width 256 to 1,024).
    """
    rates = {}
    for name, (rows, inner, columns) in {"search": (512, 64, 4096), "projection": (2048, 256, 1024)}.items():
        for kind in (torch.float32, torch.bfloat16):
            left, right = torch.randn(rows, inner).to(kind), torch.randn(columns, inner).to(kind).T
            seconds = _fastest(partial(torch.mm, left, right))
            rates[f"{name} {str(kind).removeprefix('torch.')}, GF/s"] = 2 * rows * inner * columns / seconds / 1e9
    numbers = torch.zeros(1 << 25)  # 128 MiB, more than any cache
    rates["memory read, GB/s"] = numbers.nbytes / _fastest(numbers.sum) / 1e9
    return rates


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest call, among calls that take about a second together."""
    times, now = list[float](), clock()
    while len(times) < 2 or (len(times) < 20 and sum(times) < 1):
        began = now()
        work()
        times.append(now() - began)
    return min(times)
