"""At the size of the papers' models: what a step, a checkpoint and a resume hold on a GPU, and what a step does there."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from .work import Interruption, interruption

SIZE = ("arch=knn", "size=200m", "lanes=32", "precision=bf16")
HEAD_SIZE, TOKENS = 128, 512

SEARCH = "knn_memory/exact_search.py"
KERNELS = 3_700
"""Most kernels of a step without its search. Each takes the host a few microseconds."""
LITTLE = 1e8
"""Bytes of what is small beside a ring."""

pytestmark = pytest.mark.hard


@pytest.fixture(scope="module", params=[65_536, 262_144], ids="{} slots".format)
def seen(request: pytest.FixtureRequest, pool: ProcessPoolExecutor) -> Interruption:
    return pool.submit(interruption, *SIZE, f"mem={request.param}", vocabulary=32_000).result()


def test_a_step_holds_what_the_plan_says(seen: Interruption) -> None:
    assert seen.step.peak == pytest.approx(seen.planned, rel=0.05)


def test_a_checkpoint_takes_no_memory_of_the_gpu(seen: Interruption) -> None:
    assert seen.save.peak <= seen.step.held + LITTLE


def test_a_resume_holds_the_state_once(seen: Interruption) -> None:
    assert seen.resume.peak <= seen.step.held + LITTLE


def test_a_step_adds_no_equal_indices_one_after_another(seen: Interruption) -> None:
    assert not seen.step.serial


@pytest.mark.xfail(strict=True, reason="the ring is read again for each block of queries")
def test_a_search_reads_the_ring_about_once(seen: Interruption) -> None:
    assert seen.step.moved_by(SEARCH) <= most_moved(seen.rings)


def test_a_step_has_few_kernels(seen: Interruption) -> None:
    in_search = sum(count for line, count in seen.step.kernels.items() if SEARCH in line)
    assert seen.step.count - in_search <= KERNELS


def most_moved(keys: int) -> float:
    """The bytes that a search may move: the keys one and a half times, and one pass over the scores, which it selects from.

    Args:
        keys: the bytes of the keys of the ring, in fp32.
    """
    return 1.5 * keys + keys / HEAD_SIZE * TOKENS
