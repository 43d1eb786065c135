"""What scoring holds on a GPU that is not there when documents end one after another."""

from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from .cases import ARCHS
from .test_walk import tried_once, waits_of
from .work import planned_and_held_in_validation, scoring

pytestmark = pytest.mark.hard

SIZE = ("size=200m", "size.layers=3", "precision=bf16")
LANES = 32
SHORT = {"titans": ("segment=64",)}
"""Architectures that loop over pieces of a segment."""


@pytest.mark.parametrize("memory", ["on", "foreign"])
def test_a_lane_that_ends_takes_half_of_the_state_again(memory: str, pool: ProcessPoolExecutor) -> None:
    """The keys, or the values. The memory of others takes the place of the own one."""
    found = pool.submit(
        scoring, "arch=knn", "mem=65536", *SIZE, segments=[1] + [2] * (LANES - 1), memory=memory, vocabulary=32_000
    ).result()
    assert found.seen.peak == pytest.approx(found.planned, rel=0.05)
    assert found.seen.peak < 1.6 * found.state


@pytest.mark.parametrize("arch", ARCHS)
def test_scoring_holds_what_it_is_said_to_need(arch: str, pool: ProcessPoolExecutor) -> None:
    """Nothing is counted for each layer but weights and states, so that nothing else of a layer may wait for the end of a segment."""
    words = (f"arch={arch}", *SIZE, *SHORT.get(arch, ()))
    found = pool.submit(scoring, *words, segments=[2] * LANES, memory="on", vocabulary=32_000).result()
    assert found.seen.peak == pytest.approx(found.planned, rel=0.05)


def test_validation_holds_what_the_plan_says_beside_what_lasts(pool: ProcessPoolExecutor) -> None:
    words = ("arch=knn", "mem=65536", *SIZE, f"lanes={LANES}", "eval.lanes=16", "eval.documents=16")
    planned, held = pool.submit(planned_and_held_in_validation, *words, vocabulary=32_000).result()
    assert held == pytest.approx(planned, rel=0.05)


@pytest.mark.parametrize("asked", [{"memory": "foreign"}, {"memory": "on", "retrieved": 3}], ids=str)
def test_the_host_waits_once_a_stride(asked: dict[str, Any], pool: ProcessPoolExecutor) -> None:
    """And once at the end. A lane that ends makes no copy from pageable memory, and no plan of attention."""
    seen = pool.submit(scoring, "arch=knn", "precision=bf16", segments=[1, 2, 3, 4], **asked).result().seen
    assert waits_of(seen) == {"memexp/train/batch.py": 4, "memexp/model/watching.py": 1}
    assert not {line for line in seen.pageable if not tried_once(line)}
    assert not seen.plans
