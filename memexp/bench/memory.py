"""Peak memory of a kNN training step as its memory grows, each measured in a process of its own."""

import json
import subprocess
import sys
from dataclasses import asdict

from memexp.bench.measurement import Figure, Say, in_turn
from memexp.bench.workload import Work
from memexp.config.commands import BenchConfig

ROUNDS = 2
"""At most; a peak hardly varies."""
TILE_BYTES = 128 << 20
"""What the search may take besides the ring, whatever the size of the memory."""
FLOAT_BYTES = 4


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """How much the peak grows from the smaller to the larger memory, beside how much the ring does."""
    more = config.largest - config.smaller
    ring = 2 * work.lanes * work.heads * work.head_size * more * FLOAT_BYTES
    scores = work.lanes * work.heads * work.segment * more * FLOAT_BYTES
    found = in_turn(
        {
            "small": lambda: peak_of(work, slots=config.smaller, threads=config.threads),
            "large": lambda: peak_of(work, slots=config.largest, threads=config.threads),
        },
        repeats=min(config.repeats, ROUNDS),
        say=say,
    )
    growth = [large - small for small, large in zip(found["small"], found["large"], strict=True)]
    return [
        Figure(
            what=f"peak of a knn step, {config.smaller:,} to {config.largest:,} slots",
            ours="growth of the peak",
            other="growth of the ring",
            unit="bytes",
            ours_measured=growth,
            other_measured=[float(ring)] * len(growth),
            ours_at_most=ring + TILE_BYTES,
            note=f"peaks {max(found['small']):.0f} and {max(found['large']):.0f} bytes; "
            f"queries x slots would grow by {scores} bytes",
        )
    ]


def peak_of(work: Work, *, slots: int, threads: int) -> float:
    """Bytes that a fresh process held at most over two steps."""
    command = [sys.executable, "-m", "memexp.bench.peak", json.dumps(asdict(work)), str(slots), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)
