"""A program: trains kNN memory for two steps and prints the most bytes that this process ever held."""

import json
import resource
import sys
from pathlib import Path

import torch

from memexp.bench.work import Work, knn, our_step


def main() -> None:
    """Takes the work as JSON, the slots and the threads."""
    work, slots, threads = Work(**json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    if threads:
        torch.set_num_threads(threads)
    step = our_step(knn(work), mem=slots, work=work)
    for _ in range(2):
        step()
    print(peak_bytes())


def peak_bytes() -> int:
    """The largest resident set since this program began."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the process that started this one held
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
