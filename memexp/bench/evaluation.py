"""The time of evaluation beside training."""

from memexp.bench.measurement import Figure, Say, in_turn, timed
from memexp.bench.workload import Work, our_reading, our_step, vanilla, xl
from memexp.config.commands import BenchConfig

OVER_TRAINING = 1 / 2.5
"""Largest wanted time of evaluation, relative to training."""


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time to score one segment per lane, beside the time of a training step on as many tokens."""
    say("warming up")
    archs = {"vanilla": (vanilla("t5"), 0), "xl": (xl("t5"), work.segment)}
    sides = {}
    for name, (arch, mem) in archs.items():
        sides[f"{name}, scored"] = timed(our_reading(arch, mem=mem, work=work))
        sides[f"{name}, trained"] = timed(our_step(arch, mem=mem, work=work))
    seconds = in_turn(sides, repeats=config.repeats, say=say)
    return [
        Figure(
            f"evaluation of {name}",
            f"{name}, scored",
            f"{name}, trained",
            "s",
            seconds[f"{name}, scored"],
            seconds[f"{name}, trained"],
            ratio_at_most=OVER_TRAINING,
        )
        for name in archs
    ]
