"""Search in bf16 on a CPU: what the threshold leaves, and which queries it gives up."""

import pytest
import torch
from torch import Tensor

from memexp.model.knn_memory import cpu_halves
from memexp.model.knn_memory.cpu_halves import Found, Scores, best_above


def search(queries: Tensor, keys: Tensor, spans: list[tuple[int, int]], k: int) -> Found:
    return best_above(queries, keys, spans, k, largest_norm=keys.norm(dim=-1).max().item(), memory=Scores())


@pytest.mark.parametrize("at_once", [1, 1 << 30])
@pytest.mark.parametrize("spans", [[(0, 5000)], [(3000, 5000), (0, 1100)]])
@pytest.mark.parametrize("k", [1, 7, 32])
def test_all_queries_are_resolved_if_scores_differ(
    k: int, spans: list[tuple[int, int]], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the tiles are searched one after another, with thresholds that rise."""
    monkeypatch.setattr(cpu_halves, "SCORES_BYTES", at_once)
    torch.manual_seed(0)
    keys, queries = torch.randn(2, 5000, 16), torch.randn(2, 50, 16)
    found = search(queries, keys, spans, k)
    assert found.resolved_HT.all()
    readable = torch.cat([torch.arange(*span) for span in spans])
    best = (queries @ keys[:, readable].mT).topk(k)
    assert torch.equal(found.slots_HTk, readable[best.indices])
    torch.testing.assert_close(found.scores_HTk, best.values)


def test_keys_in_half_precision_are_scored_in_full_precision() -> None:
    torch.manual_seed(1)
    keys, queries = torch.randn(2, 3000, 16).to(torch.bfloat16), torch.randn(2, 50, 16)
    found = search(queries, keys, [(0, 3000)], 8)
    best = (queries @ keys.float().mT).topk(8)
    assert torch.equal(found.slots_HTk, best.indices)
    torch.testing.assert_close(found.scores_HTk, best.values)


def test_the_best_pair_is_found_although_rounding_makes_it_the_ninth() -> None:
    """Eight scores become larger by as much as rounding can change them, and a better one becomes smaller by as much."""
    ulp, size = 2**-7, torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16])
    up, down = 1 + 0.501 * ulp, 1 + 0.499 * ulp
    query = torch.tensor([up] * 4 + [down] * 4 + [1.0])
    keys = torch.zeros(1, 4000, 9)
    keys[0, :, 8] = 0.1
    keys[0, 100:108, :4], keys[0, 100:108, 8] = size * up, 0.0
    keys[0, 50, 4:8], keys[0, 50, 8] = size * down, 0.01 * ulp
    scores = keys[0] @ query
    halves = (keys[0].bfloat16() @ query.bfloat16()).float()
    assert scores.argmax() == 50
    assert halves.topk(9).indices[8] == 50
    found = search(query.expand(1, 1, -1), keys, [(0, 4000)], 8)
    assert found.resolved_HT.all()
    assert found.slots_HTk[0, 0, 0] == 50


def test_a_threshold_is_just_below_what_errors_and_rounding_leave() -> None:
    """Of two pairs that are equally good, one gains by rounding, and the other loses by errors and rounding."""
    torch.manual_seed(3)
    errors = torch.rand(10_000) / 10
    gained = 1.3 + 0.6 * torch.rand(10_000)  # all in a range where bf16 has one step
    lost = gained - 2 * errors
    bits = gained.bfloat16().view(torch.int16)
    behind = lost.bfloat16().view(torch.int16) - cpu_halves._threshold(bits, errors)
    assert behind.min() == 0
    assert behind.max() <= 2


def test_queries_whose_scores_are_similar_or_negative_are_given_up() -> None:
    torch.manual_seed(2)
    keys = torch.rand(1, 4000, 8)
    keys[..., 0] = 1
    similar = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0])
    queries = torch.stack([torch.randn(8).abs(), similar, -torch.ones(8), 1e-3 * torch.ones(8)])[None]
    assert search(queries, keys, [(0, 4000)], 8).resolved_HT.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_a_query_that_is_given_up_in_some_tiles_is_given_up(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairs in the other tiles alone would look like all that there are."""
    monkeypatch.setattr(cpu_halves, "SCORES_BYTES", at_once)
    torch.manual_seed(4)
    keys = torch.rand(1, 8000, 8)
    keys[:, :4000, 0] = 1  # similar for the second query
    keys[:, :4000, 1] *= -1  # negative for the third, but for one
    keys[:, 10, 1] = 9
    keys[:, 4000:, 1] = 3 * torch.randn(4000)
    queries = torch.zeros(1, 3, 8)
    queries[0, 0] = torch.tensor([1.0, 0.1, 1, 1, 1, 1, 1, 1])
    queries[0, 1, 0] = queries[0, 2, 1] = 1
    found = search(queries, keys, [(0, 8000)], 8)
    scores = queries @ keys.mT
    assert found.resolved_HT.tolist() == [[True, False, at_once > 1]]
    torch.testing.assert_close(found.scores_HTk[found.resolved_HT], scores.topk(8).values[found.resolved_HT])


def test_memory_for_scores_serves_again() -> None:
    memory = Scores()
    first, again = memory.of(4, 20, 1024), memory.of(2, 10, 1024)
    assert first.shape == (4, 20, 1024)
    assert again.shape == (2, 10, 1024)
    assert again.data_ptr() == first.data_ptr()
