"""The time that the program takes to print its help, beside the Python interpreter alone."""

import subprocess
import sys
import time
from functools import partial

from memexp.bench.measurement import Figure, Say, in_turn, timed
from memexp.bench.workload import Work
from memexp.config.commands import BenchConfig

LIMITS = {"memexp --help": 0.5, "memexp train --help": 1.5}
"""Largest wanted time of each command, in seconds."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time from start to end of a process; `work` is not used."""
    floor = "python -c pass"
    programs = {floor: ["-c", "pass"]} | {name: ["-m", *name.split()] for name in LIMITS}
    sides = {name: timed(partial(start, words), seconds=time.perf_counter) for name, words in programs.items()}
    seconds = in_turn(sides, repeats=config.repeats, say=say)
    return [
        Figure(f"start-up of {name}", name, floor, "s", seconds[name], seconds[floor], ours_at_most=limit)
        for name, limit in LIMITS.items()
    ]


def start(words: list[str]) -> None:
    """Run Python with these arguments."""
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
