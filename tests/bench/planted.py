"""Checks with a fault, for `test_gpu`; their processes load no torch, which takes it seconds."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from memexp.bench.gpu.ground import Ground
from memexp.bench.measurement import Figure

GOOD = Figure("good", "ours", "other", "s", [1.0], [1.0], ratio_at_most=1.0)


def good(ground: Ground) -> Iterator[Figure]:
    yield GOOD


def raises(ground: Ground) -> Iterator[Figure]:
    yield GOOD
    raise RuntimeError("no kernel\nis there")


def wrong(ground: Ground) -> Iterator[Figure]:
    yield Figure("values", "difference", "tolerated", "", [float("nan")], [1e-5], ratio_at_most=1.0)


def dies(ground: Ground) -> Iterator[Figure]:
    yield GOOD
    os._exit(7)


def hangs(ground: Ground) -> Iterator[Figure]:
    """With a process of its own that hangs too; the figure has its number."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Figure("child", "", "", "", [float(child.pid)], [1.0])
    time.sleep(600)
