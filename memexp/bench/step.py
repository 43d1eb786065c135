"""Training steps: `vanilla` beside a plain PyTorch decoder, and what positions, cache and memory add to it."""

from memexp.bench.figures import Figure, Say, in_turn, timed
from memexp.bench.work import Work, knn, our_step, plain_step, vanilla, xl
from memexp.config import BenchConfig

RATIO = 1.05


def measure(config: BenchConfig, work: Work, say: Say) -> list[Figure]:
    """The time of one step: forward, backward, AdamW."""
    mem, cache = config.smaller, work.segment
    say("warming up")
    # what is compared stands side by side
    found = in_turn(
        {
            "plain none": timed(plain_step("none", work=work)),
            "vanilla none": timed(our_step(vanilla("none"), mem=0, work=work)),
            "plain rotary": timed(plain_step("rotary", work=work)),
            "vanilla rotary": timed(our_step(vanilla("rotary"), mem=0, work=work)),
            "vanilla t5": timed(our_step(vanilla("t5"), mem=0, work=work)),
            "knn t5": timed(our_step(knn(work), mem=mem, work=work)),
            "xl t5": timed(our_step(xl("t5"), mem=cache, work=work)),
            "xl rotary": timed(our_step(xl("rotary"), mem=cache, work=work)),
        },
        repeats=config.repeats,
        say=say,
    )

    def figure(what: str, ours: str, other: str, at_most: float | None = None) -> Figure:
        return Figure(what, ours, other, "s", found[ours], found[other], ratio_at_most=at_most)

    return [
        figure("step of vanilla, no positions", "vanilla none", "plain none", RATIO),
        figure("step of vanilla, rotary", "vanilla rotary", "plain rotary", RATIO),
        figure("cost of T5's bias, vanilla", "vanilla t5", "vanilla rotary"),
        figure(f"cost of T5's bias, xl with cache {cache:,}", "xl t5", "xl rotary"),
        figure(f"cost of a cache of {cache:,}, rotary", "xl rotary", "vanilla rotary"),
        figure(f"cost of a cache of {cache:,}, T5's bias", "xl t5", "vanilla t5"),
        figure(f"cost of cache {cache:,} and {mem:,} slots", "knn t5", "vanilla t5"),
    ]
