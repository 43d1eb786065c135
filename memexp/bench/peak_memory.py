"""Peak memory of a kNN training step at two sizes of its memory, each measured in a process of its own."""

import json
import subprocess
import sys
from dataclasses import asdict

from memexp.bench.measurement import Figure, Say, in_turn
from memexp.bench.workload import Work
from memexp.config.commands import BenchConfig

ROUNDS = 2
"""Largest number of rounds, because a peak hardly varies."""
TILE_BYTES = 128 << 20
"""Bytes that the search may use besides the ring, at any size of the memory."""
FLOAT_BYTES = 4


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The growth of the peak from the smaller to the larger memory, beside the growth of the ring."""
    more = config.largest - config.smaller
    ring = 2 * work.lanes * work.heads * work.head_size * more * FLOAT_BYTES
    scores = work.lanes * work.heads * work.segment * more * FLOAT_BYTES
    peaks = in_turn(
        {
            "small": lambda: peak_of(work, slots=config.smaller, threads=config.threads),
            "large": lambda: peak_of(work, slots=config.largest, threads=config.threads),
        },
        repeats=min(config.repeats, ROUNDS),
        say=say,
    )
    growth = [large - small for small, large in zip(peaks["small"], peaks["large"], strict=True)]
    return [
        Figure(
            what=f"peak of a knn step, {config.smaller:,} to {config.largest:,} slots",
            ours="growth of the peak",
            other="growth of the ring",
            unit="bytes",
            ours_measured=growth,
            other_measured=[float(ring)] * len(growth),
            ours_at_most=ring + TILE_BYTES,
            note=f"peaks {max(peaks['small']):.0f} and {max(peaks['large']):.0f} bytes; "
            f"queries x slots would grow by {scores} bytes",
        )
    ]


def peak_of(work: Work, *, slots: int, threads: int) -> float:
    """Peak memory in bytes of a fresh process over two steps."""
    command = [sys.executable, "-m", "memexp.bench.peak", json.dumps(asdict(work)), str(slots), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)
