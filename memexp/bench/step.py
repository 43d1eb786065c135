"""Training steps: each architecture beside a plain PyTorch decoder, and the cost of positions, cache and memory."""

from collections.abc import Mapping
from dataclasses import replace

from memexp.bench.measurement import Figure, Say, about, in_turn, timed
from memexp.bench.workload import Work, knn, our_step, plain_step, vanilla, xl
from memexp.config.arch.base import AttentionArch
from memexp.config.commands import BenchConfig
from memexp.config.train import TrainConfig

OVER_PLAIN = {"vanilla": 1.02, "xl": 1.2, "block": 1.3, "rmt": 1.3}
"""Largest wanted time of each architecture, relative to the plain decoder."""
OVER_NO_BIAS = 1.15
"""Largest wanted time with T5's bias, relative to none."""
OVER_NO_MEMORY = (1.1, 1.5, 3.0)
"""Largest wanted time with the smaller, the larger and the largest memory, relative to none."""
LONG = 3
"""Largest number of rounds if a step takes seconds."""


def measure(config: BenchConfig, work: Work, say: Say, archs: Mapping[str, TrainConfig]) -> list[Figure]:
    """The time of one step: forward, backward, AdamW.

    Args:
        archs: the settings of each architecture; only its options and `mem` are used, with rotary positions.
    """
    say("warming up")
    cache = work.segment

    def rotary(name: str) -> TrainConfig:
        arch = archs[name].arch
        assert isinstance(arch, AttentionArch)
        return replace(archs[name], arch=replace(arch, position="rotary"))

    # sides that are compared are next to each other
    sides = {
        "plain none": timed(plain_step("none", work=work)),
        "vanilla none": timed(our_step(vanilla("none"), mem=0, work=work)),
        "vanilla t5": timed(our_step(vanilla("t5"), mem=0, work=work)),
        "vanilla rotary": timed(our_step(vanilla("rotary"), mem=0, work=work)),
        "plain rotary": timed(plain_step("rotary", work=work)),
        "xl rotary": timed(our_step(xl("rotary"), mem=cache, work=work)),
        **{
            f"{name} rotary": timed(our_step(rotary(name).arch, mem=rotary(name).mem, work=work))
            for name in ("block", "rmt")
            if name in archs
        },
        "xl none": timed(our_step(xl("none"), mem=cache, work=work)),
        "xl t5": timed(our_step(xl("t5"), mem=cache, work=work)),
    }
    seconds = in_turn(sides, repeats=config.repeats, say=say)

    def figure(what: str, ours: str, other: str, at_most: float | None = None) -> Figure:
        return Figure(what, ours, other, "s", seconds[ours], seconds[other], ratio_at_most=at_most)

    return [
        figure("step of vanilla, no positions", "vanilla none", "plain none", OVER_PLAIN["vanilla"]),
        *(
            figure(f"step of {name}, rotary", f"{name} rotary", "plain rotary", at_most)
            for name, at_most in OVER_PLAIN.items()
            if f"{name} rotary" in seconds
        ),
        figure("cost of T5's bias, vanilla", "vanilla t5", "vanilla none", OVER_NO_BIAS),
        figure(f"cost of T5's bias, xl with cache {cache:,}", "xl t5", "xl none", OVER_NO_BIAS),
        *_memories(config, work, say),
    ]


def _memories(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """kNN memory of each size, beside a model without memory and with an equal cache and positions."""
    sizes = {f"knn {slots:,}": slots for slots in (config.smaller, config.slots, config.largest)}
    sides = {"no memory": timed(our_step(xl("t5"), mem=work.segment, work=work))}
    sides |= {name: timed(our_step(knn(work), mem=slots, work=work)) for name, slots in sizes.items()}
    seconds = in_turn(sides, repeats=min(LONG, config.repeats), say=about("memories", say))
    return [
        Figure(
            f"cost of {slots:,} slots, cache {work.segment:,}, T5's bias",
            name,
            "no memory",
            "s",
            seconds[name],
            seconds["no memory"],
            ratio_at_most=at_most,
        )
        for (name, slots), at_most in zip(sizes.items(), OVER_NO_MEMORY, strict=True)
    ]
