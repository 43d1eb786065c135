"""What one of many devices holds and sends in a training step, where the others are not there."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from .cases import ARCHS, HALF
from .work import opened_with_shared_weights, planned_and_done

SHARED = "shard_weights=true"
FEW_LAYERS = ("size=1b", "size.layers=3", "segment=512", HALF, "lanes=8", "devices=8")

CASES: tuple[tuple[str, ...], ...] = (
    ("size=8b", "arch=knn", "mem=65536", "devices=64", HALF, SHARED),
    (*FEW_LAYERS, "arch=rmt", "optim=adafactor", "accumulate=2", "bptt_segments=1", "recompute=true", SHARED), (*FEW_LAYERS, "arch=vanilla", SHARED), (*FEW_LAYERS, "arch=vanilla"),
)  # fmt: skip

pytestmark = pytest.mark.hard


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_device_holds_and_sends_what_the_plan_says(case: tuple[str, ...], pool: ProcessPoolExecutor) -> None:
    seen = pool.submit(planned_and_done, *case, vocabulary=32_000).result()
    assert seen.held == pytest.approx(seen.planned, rel=0.05)
    assert seen.sent == pytest.approx(seen.planned_to_send, rel=0.01)


def test_a_device_never_holds_all_matrices(pool: ProcessPoolExecutor) -> None:
    """Nor does a state stay where the matrices are before they are shared out."""
    for arch in ARCHS:
        where, *_ = pool.submit(opened_with_shared_weights, f"arch={arch}", "lanes=8", "devices=8").result()
        assert where == {"cuda:0"}, arch
    words = ("arch=vanilla", "size=200m", "lanes=8", "devices=8")
    _, most, weights = pool.submit(opened_with_shared_weights, *words).result()
    assert most < weights / 4
