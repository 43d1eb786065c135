"""What a search on an accelerator costs, counted without one, and which way it takes."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from memexp.errors import UserError
from memexp.model.knn_memory import accelerator_search, scores_fused, scores_plain
from memexp.model.knn_memory.accelerator_search import MAXIMA_BYTES, Compiled, by_scores, fault_of
from memexp.model.knn_memory.ring import Ring, empty_ring
from memexp.model.knn_memory.scores_plain import BLOCK_BYTES, Groups, Maxima, Rows

from ...counting import Seen, Watch
from ...fake_cuda.kernels import Kernel
from ...messages import says

META = torch.device("meta")
HEADS, LENGTH, HEAD_SIZE, NEIGHBOURS = 8, 512, 128, 32
MOVED = {
    (scores_fused, 65_536, torch.float32): 17.6e9, (scores_fused, 65_536, torch.bfloat16): 10.2e9,
    (scores_fused, 262_144, torch.float32): 46.2e9, (scores_fused, 262_144, torch.bfloat16): 27.6e9,
    (scores_plain, 65_536, torch.float32): 123.3e9, (scores_plain, 65_536, torch.bfloat16): 166.4e9,
    (scores_plain, 262_144, torch.float32): 398.8e9, (scores_plain, 262_144, torch.bfloat16): 508.1e9,
}  # fmt: skip
"""Most bytes that a search of 32 lanes reads and writes, by the way of scoring, slots and type of keys. Each is a little more than
what it now moves: a smaller number may take its place, a larger one is a fault."""
CPU = torch.device("cpu")


def searched(scores: Any, slots: int, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> tuple[Seen, int, int]:
    """The counts of a search of 32 lanes, and the bytes of all keys and of all scores."""
    watch = Watch("meta")
    monkeypatch.setattr(scores_fused, "maxima_kernel", Kernel("maxima", watch))
    monkeypatch.setattr(scores_fused, "best_kernel", Kernel("best", watch))
    with torch.no_grad(), watch:
        like = torch.empty((), device=META, dtype=keys)
        ring = empty_ring(lanes=32, heads=HEADS, head_size=HEAD_SIZE, slots=slots, slack=LENGTH, like=like)
        queries = torch.empty(32, HEADS, LENGTH, HEAD_SIZE, device=META)
        key_bytes = ring.keys_BHRK.numel() * keys.itemsize
        assert watch.end().peak >= 2 * key_bytes
        watch.begin()
        by_scores(scores, queries, ring, NEIGHBOURS)
        seen = watch.end()
    assert key_bytes < seen.bytes() <= MOVED[scores, slots, keys]
    return seen, key_bytes, 4 * LENGTH * ring.keys_BHRK.shape[2] * 32 * HEADS


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [65_536, 262_144])
def test_kernels_read_the_keys_once_and_what_is_selected(
    slots: int, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, key_bytes, _ = searched(scores_fused, slots, keys, monkeypatch)
    queries_bytes = 2 * 2 * 32 * HEADS * LENGTH * HEAD_SIZE
    maxima_bytes = seen.bytes(": maxima") - key_bytes - queries_bytes
    assert 0 < maxima_bytes < key_bytes * (0.31 if slots == 262_144 else 0.33)  # with those of runs
    assert not seen.count(": bmm")
    selected_bytes = 32 * HEADS * LENGTH * NEIGHBOURS * HEAD_SIZE * keys.itemsize
    assert selected_bytes < seen.bytes(": best") < 2.1 * selected_bytes
    assert seen.count() < 90
    assert seen.peak - 2 * key_bytes < MAXIMA_BYTES + BLOCK_BYTES
    assert not seen.waits


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [65_536, 262_144])
def test_without_kernels_scores_are_written_and_read_once(
    slots: int, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, key_bytes, score_bytes = searched(scores_plain, slots, keys, monkeypatch)
    in_fp32 = key_bytes * 4 // keys.itemsize
    assert seen.bytes(": bmm") < score_bytes + 2.1 * in_fp32  # the scores, the keys, and the keys of members
    assert seen.count() < 2000
    assert seen.peak - 2 * key_bytes < MAXIMA_BYTES + BLOCK_BYTES
    assert not seen.waits


def test_a_wait_of_the_host_would_be_counted() -> None:
    with Watch("meta") as watch:
        torch.empty(3, device=META).nonzero()
    assert watch.end().total_waits == 1


class Wrong:
    """Ways to break a kernel."""

    @staticmethod
    def raises(*given: Any) -> Tensor:
        raise RuntimeError("out of resource: shared memory,\nRequired: 1")

    @staticmethod
    def negative(factors: tuple[Tensor, ...], rows: Rows, groups: Groups) -> Maxima:
        return Maxima(-scores_plain.maxima(factors, rows, groups).groups_NGT)

    @staticmethod
    def rounded(queries: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        return scores_plain.best(queries.bfloat16().float().round(), *given)

    @staticmethod
    def shifted(*given: Any) -> tuple[Tensor, Tensor]:
        scores, slots = scores_plain.best(*given)
        return scores, slots - slots.clamp_max(1)

    @staticmethod
    def nowhere(*given: Any) -> tuple[Tensor, Tensor]:
        scores, slots = scores_plain.best(*given)
        return scores, slots - 1_000_000


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that are right, in place of those of Triton, on a device that calls itself CUDA."""
    monkeypatch.setattr(scores_fused, "INSTALLED", True)
    monkeypatch.setattr(scores_fused, "APART", 1)
    for name in ("factors", "maxima", "best", "moved", "held"):
        monkeypatch.setattr(scores_fused, name, getattr(scores_plain, name))
    monkeypatch.setattr(accelerator_search, "fault_of", lambda scores, device, *given: fault_of(scores, CPU, *given))
    accelerator_search._scores.cache_clear()
    yield
    accelerator_search._scores.cache_clear()


chosen = partial(accelerator_search._scores, torch.device("cuda", 0))


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
def test_right_kernels_are_used_and_nothing_is_said(
    keys: torch.dtype, kernels: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen(keys, 24, Compiled()) is scores_fused
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "how", "seen"), [
    ("maxima", "raises", "RuntimeError: out of resource: shared memory, Required: 1"),
    ("best", "raises", "RuntimeError: out of resource: shared memory, Required: 1"),
    ("maxima", "negative", "it finds other pairs"),
    ("best", "rounded", "it finds other pairs"),
    ("best", "shifted", "it finds other pairs"),
    ("best", "nowhere", "it finds other pairs"),
])  # fmt: skip
def test_a_broken_kernel_is_not_used_and_said_once(
    name: str, how: str, seen: str, kernels: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scores_fused, name, getattr(Wrong, how))
    for _ in range(2):
        assert chosen(torch.float32, 24, Compiled()) is scores_plain
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("warning: exact search on cuda:0")
    assert seen in err


class Later:
    """A kernel that runs once and then fails; it computes nothing."""

    def __init__(self, error: Exception) -> None:
        self.calls, self._error = 0, error

    def __getitem__(self, grid: tuple[int, ...]) -> "Later":
        return self

    def __call__(self, *given: Any, **named: Any) -> None:
        self.calls += 1
        if self.calls > 1:
            raise self._error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a kernel fail in this way after a first search, in place of those on a device that calls itself CUDA; gives the kernel."""

    def fail(error: Exception) -> Later:
        kernel = Later(error)
        monkeypatch.setattr(accelerator_search, "_failed", set())
        monkeypatch.setattr(accelerator_search, "_scores", lambda *_: scores_fused)
        monkeypatch.setattr(accelerator_search, "_specialisation", lambda queries, *_: queries.shape[2])
        monkeypatch.setattr(accelerator_search, "_fastest", partial(fastest, accelerator_search._failed))
        monkeypatch.setattr(scores_fused, "maxima_kernel", kernel)
        monkeypatch.setattr(scores_fused, "best_kernel", Later(RuntimeError("not asked")))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        return kernel

    def fastest(failed: set[Any], queries: Tensor, *_: Any) -> Any:
        return scores_plain if queries.shape[2] in failed else scores_fused

    return fail


def a_search(length: int) -> tuple[Tensor, Ring]:
    queries, keys = torch.randn(1, 2, length, 24), torch.randn(1, 2, 300, 24)
    full = torch.full((1,), 300)
    return queries, Ring(keys, keys, full, full, 300)


@pytest.mark.parametrize("error", [
    RuntimeError("Triton Error [CUDA]: invalid\nargument"), ValueError("out of resource: shared memory"),
    torch.AcceleratorError("CUDA error: too many resources requested for launch"),
])  # fmt: skip
def test_a_kernel_that_fails_later_is_replaced_and_said_once(
    error: Exception, failing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = failing(error)
    accelerator_search.by_groups(*a_search(5), 3)
    queries, ring = a_search(7)
    for _ in range(2):
        found = accelerator_search.by_groups(queries, ring, 3)
        expected = by_scores(scores_plain, queries, ring, 3)
        assert torch.equal(found.slots_BHTk, expected.slots_BHTk)
        assert torch.equal(found.scores_BHTk, expected.scores_BHTk)
    assert kernel.calls == 2  # not tried again
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "failed in a search of 7 queries" in err
    assert " ".join(str(error).split()) in err


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("Triton Error [CUDA]: out of memory"),
])  # fmt: skip
def test_a_device_without_free_memory_remains_an_error(
    error: Exception, failing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    accelerator_search.by_groups(*a_search(5), 3)
    with pytest.raises(type(error), match="out of memory"):
        accelerator_search.by_groups(*a_search(7), 3)
    assert capsys.readouterr() == ("", "")


def test_what_fails_beside_a_kernel_remains_an_error(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def best_rows(*given: Any) -> Tensor:
        raise RuntimeError("a fault of ours")

    failing(RuntimeError())
    for name in ("best_rows", "best_rows_of_runs"):
        monkeypatch.setattr(accelerator_search, name, best_rows)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        accelerator_search.by_groups(*a_search(5), 3)


def test_a_device_that_is_lost_is_one_line(failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    failing(lost)
    accelerator_search.by_groups(*a_search(5), 3)

    def synchronize(device: Any) -> None:
        raise lost

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(
        UserError, check=says("computes nothing more", "illegal memory access", "expected", "started again")
    ):
        accelerator_search.by_groups(*a_search(7), 3)


def test_without_triton_torch_s_own_operations_are_used(
    kernels: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scores_fused, "INSTALLED", False)
    assert chosen(torch.float32, 24, Compiled()) is scores_plain
    assert "the package triton is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "queries", "keys"), [
    (META, torch.float32, torch.float32), (torch.device("cuda"), torch.float64, torch.float64),
    (torch.device("cuda"), torch.float32, torch.float16),
])  # fmt: skip
def test_what_kernels_do_not_compute_is_not_tried(
    device: torch.device, queries: torch.dtype, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator_search._scores.cache_clear()
    monkeypatch.setattr(accelerator_search, "fault_of", lambda *given: pytest.fail("tried"))
    of_queries = SimpleNamespace(device=device, dtype=queries, shape=(1, 1, 3, 24))
    assert (
        accelerator_search._fastest(of_queries, SimpleNamespace(keys_BHRK=SimpleNamespace(dtype=keys)), 2)
        is scores_plain
    )


@pytest.mark.parametrize(("slots", "k", "length"), [(2_000, 32, 512), (9_000, 32, 40), (9_000, 5, 512), (20, 32, 3)])
def test_kernels_are_tried_as_the_search_compiles_them(
    slots: int, k: int, length: int, kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In groups of the same size, with as many neighbours and queries of a tile."""
    compiled: list[tuple[int, int, int]] = []

    def best(queries: Tensor, rows: Rows, groups: Groups, maxima: Maxima, groups_NTL: Tensor, k: int) -> Any:
        compiled.append((groups.size, k, scores_fused.queries_of_a_tile(queries.shape[1])))
        return scores_plain.best(queries, rows, groups, maxima, groups_NTL, k)

    monkeypatch.setattr(scores_fused, "best", best)

    def of(device: str) -> tuple[Tensor, Ring]:
        keys, full = torch.empty(1, 2, slots, 24, device=device), torch.full((1,), slots, device=device)
        return torch.empty(1, 2, length, 24, device=device), Ring(keys, keys, full, full, slots)

    accelerator_search.by_scores(scores_fused, *of("meta"), k)
    with FakeTensorMode():
        on_gpu = of("cuda")
    assert accelerator_search._fastest(*on_gpu, k) is scores_fused
    [in_the_run, tried] = compiled
    assert tried == in_the_run
    accelerator_search._fastest(*on_gpu, k)
    assert len(compiled) == 2
