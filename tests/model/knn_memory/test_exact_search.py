"""Search against brute force."""

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.model.knn_memory import exact_search as search
from memexp.model.knn_memory.ring import Ring, ages

from .rings import ring_of


def keys_of(kind: str, heads: int, size: int) -> Tensor:
    torch.manual_seed(1)
    match kind:
        case "random":
            keys = torch.randn(heads, size, 16)
        case "clustered":
            keys = torch.randn(heads, 5, 16)[:, torch.arange(size) % 5] + 0.01 * torch.randn(heads, size, 16)
        case "tied":
            keys = torch.randint(-1, 2, (heads, size, 16)).float()
        case "duplicate":
            keys = torch.randn(heads, 3, 16)[:, torch.arange(size) % 3]
        case _:
            keys = torch.zeros(heads, size, 16)
    return keys


@pytest.mark.parametrize("path", ["by_spans", "by_spans in groups", "by_spans in bf16", "by_mask"])
@pytest.mark.parametrize("kind", ["random", "clustered", "tied", "duplicate", "zero"])
@pytest.mark.parametrize(("size", "position", "count"), [
    (37, 37, 37), (37, 50, 20), (37, 5, 5), (2500, 2500, 2500), (2500, 4000, 2100), (3001, 100, 40), (1024, 1024, 1024),
])  # fmt: skip
def test_search_finds_the_scores_of_brute_force(
    path: str, kind: str, size: int, position: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, how = path.partition(" ")
    monkeypatch.setattr(search, "_multiplies_bf16_fast", lambda: how == "in bf16")
    monkeypatch.setattr(search, "HALF_FROM", 0)
    monkeypatch.setattr(search, "FEW", 0 if how else 10**9)
    ring = ring_of(keys_of(kind, 2, size), position=position, count=count)
    queries = torch.randn(1, 2, 70, 16)
    for k in (1, 8, 32):
        found = getattr(search, f"_{path}")(queries, ring, k)
        readable = (ages(ring) <= ring.count_B[:, None])[0]
        scores = (queries @ ring.keys_BHRK.transpose(-1, -2)).masked_fill(~readable, float("-inf"))
        take = min(k, count)
        expected = scores.sort(-1, descending=True).values[..., :take]
        assert found.found_BHTk[..., :take].all()
        assert not found.found_BHTk[..., take:].any()
        slots = found.slots_BHTk[..., :take]
        assert all(len(set(row)) == take for row in slots.flatten(0, 2).tolist())
        torch.testing.assert_close(scores.gather(-1, slots), expected, rtol=1e-5, atol=1e-5)


def test_a_shortlist_that_rounding_spoils_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that differ by less than bf16 can tell: without the proof the shortlist would be any of them."""
    monkeypatch.setattr(search, "_multiplies_bf16_fast", lambda: True)
    torch.manual_seed(5)
    keys = torch.ones(1, 4000, 16) + 1e-4 * torch.randn(1, 4000, 16)
    queries = torch.ones(1, 1, 3, 16)
    found = search.exact(queries, ring_of(keys), 8).slots_BHTk
    expected = (queries @ keys.transpose(-1, -2)).topk(8).values
    torch.testing.assert_close((queries @ keys.transpose(-1, -2)).gather(-1, found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("positive", [0, 3])
def test_scores_below_zero_are_told_apart(positive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortlist compares the bits of scores, whose order is another one where hardly any score is positive."""
    monkeypatch.setattr(search, "_multiplies_bf16_fast", lambda: True)
    torch.manual_seed(6)
    keys = -torch.rand(1, 4000, 16)
    keys[:, :positive] *= -1
    queries = torch.rand(1, 1, 40, 16)
    found = search.exact(queries, ring_of(keys), 8).slots_BHTk
    scores = queries @ keys.transpose(-1, -2)
    torch.testing.assert_close(scores.gather(-1, found), scores.topk(8).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shortlist", [False, True])
def test_half_precision_around_it_changes_nothing(shortlist: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_multiplies_bf16_fast", lambda: shortlist)
    ring, queries = ring_of(keys_of("random", 2, 4096)), 16 * torch.randn(1, 2, 64, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = search.exact(queries, ring, 32).slots_BHTk
    scores = queries @ ring.keys_BHRK.transpose(-1, -2)
    torch.testing.assert_close(scores.gather(-1, found), scores.topk(32).values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("path", ["by_spans", "by_mask"])
def test_each_lane_is_searched_by_its_own_count(path: str) -> None:
    torch.manual_seed(2)
    keys = torch.randn(3, 1, 20, 4)
    ring = Ring(keys, keys, torch.full((3,), 23), torch.tensor([0, 3, 20]), 20)
    found = getattr(search, f"_{path}")(torch.randn(3, 1, 2, 4), ring, 5)
    assert found.found_BHTk.sum(-1).flatten().tolist() == [0, 0, 3, 3, 5, 5]
    assert set(found.slots_BHTk[1, 0, :, :3].flatten().tolist()) == {0, 1, 2}


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = ring_of(keys_of("random", 2, 300))
    queries = torch.randn(1, 2, 140, 16)
    expected = search.exact(queries, ring, 16).slots_BHTk
    for name, value in (
        ("FEW", 0), ("TILE_BYTES", 1), ("MAXIMA_BYTES", 1), ("QUERIES", 128), ("QUERIES", 512), ("TILE_BYTES", 1 << 16),
        ("ACCELERATOR_BLOCK_BYTES", 1),
    ):  # fmt: skip
        monkeypatch.setattr(search, name, value)
        assert torch.equal(search.exact(queries, ring, 16).slots_BHTk, expected)
        assert torch.equal(search._by_mask(queries, ring, 16).slots_BHTk, expected)


def test_best_rows_are_exact_at_every_number_of_rows() -> None:
    torch.manual_seed(3)
    for rows in (5, 256, 257, 300, 1027, 5000):
        for columns in (1, 6):
            scores = torch.randn(2, rows, columns)
            k = min(32, rows)
            found = scores.mT.gather(-1, search.best_rows(scores, k)).sort(-1, descending=True).values
            assert torch.equal(found, scores.mT.topk(k).values)


@pytest.mark.gpu
def test_search_on_cuda_is_that_on_cpu() -> None:
    torch.manual_seed(4)
    keys = torch.randn(4, 2, 5000, 64)
    ring = Ring(keys, keys, torch.full((4,), 7000), torch.tensor([0, 20, 3000, 4900]), 4900)
    queries = torch.randn(4, 2, 64, 64)
    on_gpu = pytree.tree_map(lambda leaf: leaf.cuda(), ring)
    found, expected = search.exact(queries.cuda(), on_gpu, 32), search.exact(queries, ring, 32)
    assert torch.equal(found.found_BHTk.cpu(), expected.found_BHTk)
    scores = queries @ keys.transpose(-1, -2)
    torch.testing.assert_close(
        scores.gather(-1, found.slots_BHTk.cpu()) * expected.found_BHTk,
        scores.gather(-1, expected.slots_BHTk) * expected.found_BHTk,
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
