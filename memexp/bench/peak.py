"""A program that trains kNN memory for two steps and prints the peak memory of its process, in bytes."""

import json
import sys

import torch

from memexp.bench.workload import Work, knn, our_step
from memexp.machine import peak_bytes


def main() -> None:
    """Read the work as JSON, the slots and the threads from the command line."""
    work, slots, threads = Work(**json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    if threads:
        torch.set_num_threads(threads)
    step = our_step(knn(work), mem=slots, work=work)
    for _ in range(2):
        step()
    print(peak_bytes())


if __name__ == "__main__":
    main()
