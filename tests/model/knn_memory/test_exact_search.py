"""Search against brute force."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.model.knn_memory import accelerator_search, cpu_search, scores_fused, scores_plain
from memexp.model.knn_memory.accelerator_search import by_scores
from memexp.model.knn_memory.exact_search import exact
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.selection import STRIDE, Neighbours, best_rows, best_rows_of_runs

from .rings import KINDS, SHAPES, check, keys_of, ring_of

Search = Callable[[Tensor, Ring, int], Neighbours]
PATHS: dict[str, Search] = {"cpu": cpu_search.by_spans, "plain": partial(by_scores, scores_plain)}


@pytest.mark.parametrize(
    "path", ["cpu", "cpu in groups", "cpu in bf16", "plain", "plain in groups of 8", "plain in blocks"]
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "position", "count"), SHAPES)
def test_search_finds_the_scores_of_brute_force(
    path: str, kind: str, size: int, position: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, how = path.partition(" in ")
    monkeypatch.setattr(cpu_search, "_multiplies_bf16_fast", lambda: how == "bf16")
    monkeypatch.setattr(cpu_search, "HALF_FROM", 0)
    monkeypatch.setattr(cpu_search, "FEW", 0 if how else 10**9)
    if how == "groups of 8":
        monkeypatch.setattr(accelerator_search, "group_size", lambda *given: 8)
    if how == "blocks":
        monkeypatch.setattr(accelerator_search, "MAXIMA_BYTES", 1)
        monkeypatch.setattr(scores_plain, "BLOCK_BYTES", 1 << 15)
    ring = ring_of(keys_of(kind, 2, size), position=position, count=count)
    queries = torch.randn(1, 2, 70, 16)
    for k in (1, 8, 32):
        check(PATHS[path](queries, ring, k), queries, ring, k)


def test_a_shortlist_that_rounding_spoils_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that differ by less than bf16 can tell: without the proof the shortlist would be any of them."""
    monkeypatch.setattr(cpu_search, "_multiplies_bf16_fast", lambda: True)
    torch.manual_seed(5)
    keys = torch.ones(1, 4000, 16) + 1e-4 * torch.randn(1, 4000, 16)
    queries = torch.ones(1, 1, 3, 16)
    found = exact(queries, ring_of(keys), 8).slots_BHTk
    expected = (queries @ keys.transpose(-1, -2)).topk(8).values
    torch.testing.assert_close((queries @ keys.transpose(-1, -2)).gather(-1, found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("positive", [0, 3])
def test_scores_below_zero_are_told_apart(positive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortlist compares the bits of scores, whose order is another one where hardly any score is positive."""
    monkeypatch.setattr(cpu_search, "_multiplies_bf16_fast", lambda: True)
    torch.manual_seed(6)
    keys = -torch.rand(1, 4000, 16)
    keys[:, :positive] *= -1
    queries = torch.rand(1, 1, 40, 16)
    found = exact(queries, ring_of(keys), 8).slots_BHTk
    scores = queries @ keys.transpose(-1, -2)
    torch.testing.assert_close(scores.gather(-1, found), scores.topk(8).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shortlist", [False, True])
def test_half_precision_around_it_changes_nothing(shortlist: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_search, "_multiplies_bf16_fast", lambda: shortlist)
    ring, queries = ring_of(keys_of("random", 2, 4096)), 16 * torch.randn(1, 2, 64, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = exact(queries, ring, 32).slots_BHTk
    scores = queries @ ring.keys_BHRK.transpose(-1, -2)
    torch.testing.assert_close(scores.gather(-1, found), scores.topk(32).values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_each_lane_is_searched_by_its_own_count(path: str) -> None:
    torch.manual_seed(2)
    keys = torch.randn(3, 1, 20, 4)
    ring = Ring(keys, keys, torch.full((3,), 23), torch.tensor([0, 3, 20]), 20)
    found = PATHS[path](torch.randn(3, 1, 2, 4), ring, 5)
    assert found.found_BHTk.sum(-1).flatten().tolist() == [0, 0, 3, 3, 5, 5]
    assert set(found.slots_BHTk[1, 0, :, :3].flatten().tolist()) == {0, 1, 2}


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = ring_of(keys_of("random", 2, 300))
    queries = torch.randn(1, 2, 140, 16)
    expected = exact(queries, ring, 16).slots_BHTk
    for where, name, value in (
        (cpu_search, "FEW", 0), (cpu_search, "TILE_BYTES", 1), (cpu_search, "MAXIMA_BYTES", 1), (cpu_search, "QUERIES", 128),
        (cpu_search, "QUERIES", 512), (cpu_search, "TILE_BYTES", 1 << 16),
        (scores_plain, "BLOCK_BYTES", 1 << 15), (accelerator_search, "MAXIMA_BYTES", 1),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)
        for search in PATHS.values():
            assert torch.equal(search(queries, ring, 16).slots_BHTk, expected)


def test_best_rows_are_exact_at_every_number_of_rows() -> None:
    torch.manual_seed(3)
    for rows in (5, 256, 257, 300, 1027, 5000):
        for columns in (1, 6):
            scores = torch.randn(2, rows, columns)
            k = min(32, rows)
            found = scores.mT.gather(-1, best_rows(scores, k)).sort(-1, descending=True).values
            assert torch.equal(found, scores.mT.topk(k).values)


def test_best_rows_of_runs_are_exact() -> None:
    torch.manual_seed(3)
    for runs in (4, 40, 300):
        scores = torch.randn(2, runs * STRIDE, 6)
        for k in (1, 32):
            maxima = scores.unflatten(1, (runs, STRIDE)).amax(2)
            found = scores.mT.gather(-1, best_rows_of_runs(scores, maxima, k)).sort(-1, descending=True).values
            assert torch.equal(found, scores.mT.topk(k).values)


@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "size"), [(1, 300), (70, 2500), (3, 7)])
def test_lanes_and_types_are_searched_as_they_are_stored(keys: torch.dtype, length: int, size: int) -> None:
    """Several lanes with counts of their own, one of them empty; more neighbours than slots."""
    torch.manual_seed(7)
    stored = torch.randn(3, 2, size, 24).to(keys)
    ring = Ring(stored, stored, torch.full((3,), size + 11), torch.tensor([0, size // 3, size - 1]), size - 1)
    queries = torch.randn(3, 2, length, 24)
    for search in PATHS.values():
        check(search(queries, ring, 12), queries, ring, 12)


def test_what_stands_in_a_void_slot_is_never_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a number that is larger than all others nor one that is none."""
    torch.manual_seed(8)
    keys = torch.randn(1, 2, 203, 8)
    for position, count in ((203, 50), (300, 150), (203, 3)):
        ring = Ring(keys.clone(), keys, torch.tensor([position]), torch.tensor([count]), 203)
        slots = torch.arange(203)
        void = (position - 1 - slots) % 203 >= count
        ring.keys_BHRK[:, :, void] = 100.0
        ring.keys_BHRK[:, :, void & (slots % 2 == 0)] = float("nan")
        clean = replace(ring, keys_BHRK=ring.keys_BHRK.nan_to_num(0))
        queries = torch.randn(1, 2, 9, 8)
        for size in (1, 8):
            monkeypatch.setattr(accelerator_search, "group_size", lambda *given, size=size: size)
            check(by_scores(scores_plain, queries, ring, 5), queries, clean, 5)


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("head_size", "length"), [(64, 64), (128, 200), (40, 1), (160, 17)])
def test_search_on_cuda_is_that_of_brute_force(where: str, keys: torch.dtype, head_size: int, length: int) -> None:
    torch.manual_seed(4)
    stored = torch.randn(4, 2, 5000, head_size).to(keys)
    ring = Ring(stored, stored, torch.full((4,), 7000), torch.tensor([0, 20, 3000, 4900]), 4900)
    queries = torch.randn(4, 2, length, head_size)
    on_gpu: Ring = pytree.tree_map(lambda leaf: leaf.cuda(), ring)
    if where == "host":
        on_gpu = replace(on_gpu, keys_BHRK=ring.keys_BHRK, values_BHRK=ring.values_BHRK)
    found = exact(queries.cuda(), on_gpu, 32)
    check(Neighbours(*(each.cpu() for each in found)), queries, ring, 32)


@pytest.mark.gpu
@pytest.mark.parametrize("keys", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_kernel_is_used_on_cuda(keys: torch.dtype, size: int) -> None:
    pytest.importorskip("triton")
    assert (
        accelerator_search._scores(torch.device("cuda", 0), keys, 128, accelerator_search.Compiled(size, 32, 128))
        is scores_fused
    )


@pytest.mark.gpu
@pytest.mark.parametrize("scores", [scores_plain, scores_fused])
def test_a_ring_of_more_entries_than_32_bits_can_count(scores: accelerator_search.Scores) -> None:
    """The best keys stand near its end."""
    pytest.importorskip("triton")
    torch.manual_seed(9)
    keys = torch.randn(1, 2, 9 << 20, 128, dtype=torch.bfloat16, device="cuda")
    queries = torch.nn.functional.normalize(torch.randn(1, 2, 4, 128, device="cuda"), dim=-1)
    slots = (9 << 20) - torch.tensor([1, 100, 5000, 70_000], device="cuda")
    keys[:, :, slots] = (100 * queries).bfloat16()
    count = torch.tensor([9 << 20], device="cuda")
    found = by_scores(scores, queries, Ring(keys, keys, count, count, 9 << 20), 3)
    assert found.slots_BHTk[..., 0].equal(slots.expand(1, 2, 4))
