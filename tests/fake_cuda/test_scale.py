"""At the size of the papers' models: what a step, a checkpoint and a resume hold on a GPU, and what a step does there."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from .work import Interruption, interruption

SIZE = ("arch=knn", "size=200m", "lanes=32", "precision=bf16")

SEARCH = tuple(f"knn_memory/{name}.py" for name in ("accelerator_search", "scores_fused", "scores_plain", "selection"))
GATHER = ("knn_memory/gather_matmul.py", "knn_memory/retrieved.py")
KERNELS = {65_536: 1_460, 262_144: 1_498}
"""Most kernels of a step that is not logged, by slots. Each takes the host a few microseconds."""
KERNELS_WITH_ADAFACTOR = 1_670
"""With 65,536 slots: parameters of the same shape are moved together."""
KERNELS_OF_SEARCH = {65_536: 54, 262_144: 92}
"""Most kernels of the search of a step, by slots."""
MOVED = {65_536: 17.7e9, 262_144: 46.2e9}
"""Most bytes that this search reads and writes: about the keys once, what is known of each group, and the keys of the best pairs."""
MOVED_IN_HALF = 10.4e9
"""Most bytes with 65,536 slots whose keys are in bf16: half of the keys, and about as much of groups."""
GATHERED = {"fp32": 7.4e9, "bf16": 23.4e9}
"""Most bytes that reading the found pairs moves, by how they are stored: the values, and the keys in the backward pass alone."""
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


def test_a_checkpoint_copies_what_shares_memory_to_the_host_alone(pool: ProcessPoolExecutor) -> None:
    """In full precision a cache is a part of the keys in sight."""
    words = ("arch=xl", "size=200m", "size.layers=3", "lanes=32", "precision=fp32")
    seen = pool.submit(interruption, *words, vocabulary=32_000).result()
    assert seen.save.peak <= seen.step.held + LITTLE


def test_a_checkpoint_stops_no_step(seen: Interruption) -> None:
    """Only the thread that writes it waits, until the copies have arrived."""
    [(line, count)] = seen.save.waits.items()
    assert (line.split(":")[0], count) == ("memexp/train/saving.py", 1)


def test_a_resume_holds_the_state_once(seen: Interruption) -> None:
    assert seen.resume.peak <= seen.step.held + LITTLE


def test_a_step_adds_no_equal_indices_one_after_another(seen: Interruption) -> None:
    assert not seen.step.serial


def test_a_search_is_by_two_kernels_and_reads_the_keys_once(seen: Interruption) -> None:
    search = seen.step
    assert search.count(": maxima")
    assert search.count(": maxima") == search.count("best: best")
    assert seen.rings < search.bytes(*SEARCH) <= MOVED[seen.slots]
    assert search.count(*SEARCH) <= KERNELS_OF_SEARCH[seen.slots]


def test_found_pairs_are_not_scored_again(seen: Interruption) -> None:
    assert seen.step.bytes(*GATHER) <= GATHERED["fp32"]


def test_pairs_in_half_precision_move_less_in_a_search(pool: ProcessPoolExecutor) -> None:
    words = (*SIZE, "size.layers=3", "mem=65536", "arch.stored=bf16")
    step = pool.submit(interruption, *words, vocabulary=32_000).result().step
    assert step.bytes(*SEARCH) <= MOVED_IN_HALF
    assert step.bytes(*GATHER) <= GATHERED["bf16"]


def test_a_step_has_few_kernels(seen: Interruption) -> None:
    assert seen.step.count() <= KERNELS[seen.slots]


def test_adafactor_has_few_kernels(pool: ProcessPoolExecutor) -> None:
    step = pool.submit(interruption, *SIZE, "mem=65536", "optim=adafactor", vocabulary=32_000).result().step
    assert step.count() <= KERNELS_WITH_ADAFACTOR


def test_without_triton_a_search_moves_several_times_as_much(pool: ProcessPoolExecutor) -> None:
    seen = pool.submit(interruption, *SIZE, "mem=65536", vocabulary=32_000, triton=False).result()
    assert not seen.step.count(": maxima")
    assert 2 * MOVED[65_536] < seen.step.bytes(*SEARCH, "gather_matmul.py") <= 135e9
