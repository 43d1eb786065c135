"""The time to write a segment into the ring, as a share of a training step of kNN memory."""

import torch

from memexp.bench.measurement import Figure, Say, in_turn, timed
from memexp.bench.workload import Work, knn, our_step
from memexp.config.commands import BenchConfig
from memexp.model.knn_memory.ring import empty_ring, write

SHARE = 0.01
"""Largest wanted share."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time to write into the larger ring, beside a step with the smaller ring, so that a slow search does not hide it."""
    mem = config.smaller
    ring = empty_ring(
        lanes=work.lanes, heads=work.heads, head_size=work.head_size, slots=config.slots, slack=work.segment,
        like=torch.zeros(()),
    )  # fmt: skip
    pairs = torch.randn(2, work.lanes, work.heads, work.segment, work.head_size)
    valid_B = torch.full((work.lanes,), work.segment)

    def written() -> None:
        nonlocal ring
        ring = write(ring, *pairs, valid_B=valid_B)

    for _ in range(ring.keys_BHRK.shape[2] // work.segment):
        written()  # so that all its memory pages exist
    sides = {"write": timed(written), "step": timed(our_step(knn(work), mem=mem, work=work))}
    seconds = in_turn(sides, repeats=config.repeats, say=say)
    return [
        Figure(
            what=f"writing {work.segment} pairs a lane and head into a ring of {config.slots:,}",
            ours="write",
            other=f"knn step, {mem:,} slots",
            unit="s",
            ours_measured=seconds["write"],
            other_measured=seconds["step"],
            ratio_at_most=SHARE,
        )
    ]
