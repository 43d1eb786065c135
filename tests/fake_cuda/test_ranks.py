"""What one of many devices holds and sends in a training step, where the others are not there."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from .cases import HALF
from .work import planned_and_done

SHARED = "shard_weights=true"
FEW_LAYERS = ("size=1b", "size.layers=3", "segment=512", HALF, "lanes=8", "devices=8")

CASES: tuple[tuple[str, ...], ...] = (
    ("size=8b", "arch=knn", "mem=65536", "devices=64", HALF, SHARED),
    (*FEW_LAYERS, "arch=rmt", SHARED), (*FEW_LAYERS, "arch=vanilla", "recompute=true", SHARED), (*FEW_LAYERS, "arch=vanilla"),
)  # fmt: skip

pytestmark = pytest.mark.hard


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_device_holds_and_sends_what_the_plan_says(case: tuple[str, ...], pool: ProcessPoolExecutor) -> None:
    seen = pool.submit(planned_and_done, *case, vocabulary=32_000).result()
    assert seen.held == pytest.approx(seen.planned, rel=0.05)
    assert seen.sent == pytest.approx(seen.planned_to_send, rel=0.01)
