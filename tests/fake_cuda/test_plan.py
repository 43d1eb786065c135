"""What `memexp plan` says a training step needs, against what a step holds on a GPU that is not there."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from .cases import ARCHS, HALF
from .work import planned_and_held

SIZE = ("size=200m", "size.layers=3", "lanes=32")
"""A paper's size, with fewer layers, so that a layer which is not like the others counts."""

SHORT = {"titans": ("segment=128", "accumulate=2")}
"""Architectures that loop over pieces of a segment, whose simulation would take minutes."""

SHORTER = ("size.layers=2", "segment=64", "accumulate=2")
"""For other settings of such architectures."""

PLAIN: tuple[tuple[str, ...], ...] = tuple((f"arch={arch}", HALF, *SHORT.get(arch, ())) for arch in ARCHS)
"""As the papers train: in half precision."""

CASES: tuple[tuple[str, ...], ...] = (
    *PLAIN,
    *((f"arch={arch}", *SHORT.get(arch, ())) for arch in ARCHS if arch != "titans"), ("arch=titans", *SHORTER),
    ("arch=vanilla", HALF, "arch.position=rotary"), ("arch=vanilla", HALF, "arch.dropout=0.1"),
    ("arch=xl", HALF, "arch.position=rotary"), ("arch=xl", HALF, "arch.position=xl", "arch.normalise=false", "arch.scale=1"),
    ("arch=xl", HALF, "accumulate=2"), ("arch=xl", HALF, "mem=200", "arch.reach=window"), ("arch=xl", "lanes=1", HALF),
    ("arch=xl", HALF, "segment=2048", "mem=2048"), ("arch=xl", HALF, "segment=2048", "mem=2048", "arch.position=xl"),
    ("arch=vanilla", "arch.position=alibi", "segment=4096", "lanes=8"),
    ("arch=rmt", HALF, "segment=2048", "accumulate=2"), ("arch=block", HALF, "segment=2048", "arch.window=2048"),
    ("arch=knn", HALF, "mem=65536", "arch.stored=bf16"), ("arch=knn", HALF, "arch.combine=joint"), ("arch=knn", HALF, "recompute=true"),
    ("arch=block", HALF, "arch.gates=dual", "arch.gate_kind=lstm", "arch.feedback=true"),
    ("arch=block", HALF, "arch.shared_values=true", "arch.gates=single"), ("arch=block", HALF, "recompute=true"),
    ("arch=compressive", HALF, "arch.compress=mean"), ("arch=compressive", HALF, "arch.position=rotary"),
    ("arch=thought", HALF, "arch.recall=0"), ("arch=thought", HALF, "mem=256"),
    ("arch=thought", HALF, "arch.faithful=true", "arch.recall_target=embeddings"),
    ("arch=rmt", HALF, "mem=64", "arch.position=none"), ("arch=rmt", HALF, "arch.past_memories=64"),
    ("arch=rmt", HALF, "arch.adapters=true"),
    ("arch=armt", HALF, "arch.memory=parallel"), ("arch=infini", HALF, "arch.write=linear"),
    ("arch=titans", HALF, *SHORTER, "arch.role=layer", "arch.window=0", "arch.memory=linear", "arch.clip=1"),
    ("arch=titans", HALF, "size.layers=1", "segment=64", "accumulate=2", "arch.role=context", "arch.window=0", "arch.persistent=16"),
    ("arch=delta", HALF, *SHORTER, "arch.decay=channel"), ("arch=delta", HALF, *SHORTER, "arch.decay=none"),
    ("arch=delta", HALF, *SHORTER, "arch.write=add", "arch.unit_keys=false", "arch.window=0"),
    ("arch=vanilla", HALF, "optim=adafactor", "lanes=1"),
)  # fmt: skip


WIDER: frozenset[tuple[str, ...]] = frozenset({
    ("arch=xl_enhanced",), ("arch=xl", HALF, "arch.position=xl", "arch.normalise=false", "arch.scale=1"), ("arch=xl", "lanes=1", HALF),
    ("arch=vanilla", "arch.position=alibi", "segment=4096", "lanes=8"), ("arch=vanilla", HALF, "optim=adafactor", "lanes=1"),
    ("arch=knn", HALF, "recompute=true"), ("arch=block", HALF, "recompute=true"),
    ("arch=compressive", HALF, "arch.compress=mean"), ("arch=rmt", HALF, "arch.past_memories=64"),
})  # fmt: skip
"""What is planned for these is between 5 and 10 % from what is held."""


@pytest.mark.hard
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_step_holds_what_the_plan_says(case: tuple[str, ...], pool: ProcessPoolExecutor) -> None:
    planned, held, left = pool.submit(planned_and_held, *SIZE, *case, vocabulary=32_000).result()
    assert left < held / 1000  # so all steps that follow hold the same
    assert held == pytest.approx(planned, rel=0.1 if case in WIDER else 0.05)
