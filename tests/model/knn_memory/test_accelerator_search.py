"""What a search on an accelerator costs, counted without one, and which way it takes."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from memexp.model.knn_memory import accelerator_search, scores_fused, scores_plain
from memexp.model.knn_memory.accelerator_search import MAXIMA_BYTES, by_scores, fault_of
from memexp.model.knn_memory.ring import empty_ring
from memexp.model.knn_memory.scores_plain import BLOCK_BYTES, Groups, Rows

from .fake_device import META, Counts

HEADS, LENGTH, HEAD_SIZE, NEIGHBOURS = 8, 512, 128, 32
CPU = torch.device("cpu")


class Kernel:
    """In place of a kernel: counts what it reads and writes, each once; of the keys only what `of_keys` says."""

    def __init__(self, name: str, counts: Counts, *, keys: int) -> None:
        self.name, self.counts, self.keys = name, counts, keys

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self

    def __call__(self, *given: Any, HEAD_SIZE: int, **named: Any) -> None:
        tensors = [each for each in given if isinstance(each, Tensor)]
        sizes = [each.numel() * each.element_size() for each in tensors]
        if self.name == "members":
            sizes[self.keys] = tensors[-1].numel() * HEAD_SIZE * tensors[self.keys].element_size()
        self.counts.count(self.name, sum(sizes))


def searched(scores: Any, slots: int, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> tuple[Counts, int, int]:
    """The counts of a search of 32 lanes, and the bytes of all keys and of all scores."""
    with torch.no_grad(), Counts() as made:
        like = torch.empty((), device=META, dtype=keys)
        ring = empty_ring(lanes=32, heads=HEADS, head_size=HEAD_SIZE, slots=slots, slack=LENGTH, like=like)
        queries = torch.empty(32, HEADS, LENGTH, HEAD_SIZE, device=META)
    key_bytes = ring.keys_BHRK.numel() * keys.itemsize
    with torch.no_grad(), Counts() as counts:
        monkeypatch.setattr(scores_fused, "maxima_kernel", Kernel("maxima", counts, keys=2))
        monkeypatch.setattr(scores_fused, "members_kernel", Kernel("members", counts, keys=1))
        by_scores(scores, queries, ring, NEIGHBOURS)
    assert made.peak >= 2 * key_bytes
    return counts, key_bytes, 4 * LENGTH * ring.keys_BHRK.shape[2] * 32 * HEADS


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [65_536, 262_144])
def test_kernels_read_the_keys_once_and_what_is_selected(
    slots: int, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, key_bytes, _ = searched(scores_fused, slots, keys, monkeypatch)
    queries_bytes = 2 * 2 * 32 * HEADS * LENGTH * HEAD_SIZE
    maxima_bytes = counts.bytes["maxima"] - key_bytes - queries_bytes
    assert 0 < maxima_bytes < key_bytes * (0.51 if slots == 262_144 else 1.01)
    assert not counts.kernels["bmm"]
    others = counts.moved - counts.bytes["maxima"] - counts.bytes["members"]
    assert others < 2 * maxima_bytes + 10e9
    # the selection needs about as many bytes for members as for maxima
    assert counts.bytes["members"] < 1.05 * key_bytes * (1 if slots == 262_144 else 2.05)
    assert sum(counts.kernels.values()) < 500
    assert counts.peak - key_bytes < MAXIMA_BYTES + BLOCK_BYTES
    assert not counts.waits


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [65_536, 262_144])
def test_without_kernels_scores_are_written_and_read_once(
    slots: int, keys: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, key_bytes, score_bytes = searched(scores_plain, slots, keys, monkeypatch)
    in_fp32 = key_bytes * 4 // keys.itemsize
    assert counts.bytes["bmm"] < score_bytes + 2.1 * in_fp32  # the scores, the keys, and the keys of members
    assert counts.moved < 5 * score_bytes
    assert sum(counts.kernels.values()) < 3000
    assert counts.peak - key_bytes < MAXIMA_BYTES + BLOCK_BYTES
    assert not counts.waits


def test_a_wait_of_the_host_would_be_counted() -> None:
    with Counts() as counts:
        torch.empty(3, device=META).repeat_interleave(torch.empty(3, dtype=torch.long, device=META), output_size=5)
    assert counts.waits["repeat_interleave"] == 1


class Wrong:
    """Ways to break a kernel."""

    @staticmethod
    def raises(*given: Any) -> Tensor:
        raise RuntimeError("out of resource: shared memory,\nRequired: 1")

    @staticmethod
    def negative(queries: Tensor, rows: Rows, groups: Groups) -> Tensor:
        return -scores_plain.maxima(queries, rows, groups)

    @staticmethod
    def rounded(queries: Tensor, rows: Rows, groups: Groups, chosen: Tensor) -> Tensor:
        return scores_plain.members(queries.bfloat16().float(), rows, groups, chosen).round()

    @staticmethod
    def shifted(queries: Tensor, rows: Rows, groups: Groups, chosen: Tensor) -> Tensor:
        return scores_plain.members(queries, rows, groups, chosen).roll(1, -1)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that are right, in place of those of Triton, on a device that calls itself CUDA."""
    monkeypatch.setattr(scores_fused, "INSTALLED", True)
    monkeypatch.setattr(scores_fused, "APART", 1)
    for name in ("maxima", "members"):
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
    assert chosen(torch.float32, keys, 24) is scores_fused
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "how", "seen"), [
    ("maxima", "raises", "RuntimeError: out of resource: shared memory, Required: 1"),
    ("members", "raises", "RuntimeError: out of resource: shared memory, Required: 1"),
    ("maxima", "negative", "it finds other pairs"),
    ("members", "rounded", "it finds other pairs"),
    ("members", "shifted", "it finds other pairs"),
])  # fmt: skip
def test_a_broken_kernel_is_not_used_and_said_once(
    name: str, how: str, seen: str, kernels: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scores_fused, name, getattr(Wrong, how))
    for _ in range(2):
        assert chosen(torch.float32, torch.float32, 24) is scores_plain
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("warning: exact search on cuda:0")
    assert seen in err


def test_without_triton_torch_s_own_operations_are_used(
    kernels: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scores_fused, "INSTALLED", False)
    assert chosen(torch.float32, torch.float32, 24) is scores_plain
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
    assert accelerator_search._scores(device, queries, keys, 24) is scores_plain
