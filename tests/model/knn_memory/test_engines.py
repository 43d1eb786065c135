"""Engines against brute force, on a ring that is written, cleared, forked and searched again as it was earlier."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.errors import UserError
from memexp.model.build import build_model
from memexp.model.knn_memory import engines, scores_plain
from memexp.model.knn_memory.accelerator_search import by_scores
from memexp.model.knn_memory.engines import build_engine, chosen_engine, recall
from memexp.model.knn_memory.ring import Ring, ages, ages_at, clear_ring, empty_ring, write
from memexp.model.state import fork

from ...messages import says
from ...tiny import configure

SLOTS, LENGTH = 300, 32
LIKE = torch.zeros(())


def some(kind: str, length: int) -> Tensor:
    """Keys of two lanes and two heads, of unit norm."""
    match kind:
        case "clustered":
            keys = torch.randn(2, 2, 5, 16)[:, :, torch.arange(length) % 5] + 0.05 * torch.randn(2, 2, length, 16)
        case "duplicate":
            keys = torch.randn(2, 2, 3, 16)[:, :, torch.arange(length) % 3]
        case _:
            keys = torch.randn(2, 2, length, 16)
    return F.normalize(keys, dim=-1)


def readable_scores(queries: Tensor, ring: Ring) -> Tensor:
    """All scores, -inf where nothing may be read."""
    void = (ages(ring) > ring.count_B[:, None])[:, None, None]
    return (queries @ ring.keys_BHRK.to(queries.dtype).mT).masked_fill(void, float("-inf"))


def check(name: str, found: engines.Neighbours, queries: Tensor, ring: Ring) -> float:
    """That what was found is readable, different, best first and, for an exact engine, the best; gives the recall."""
    k = found.slots_BHTk.shape[-1]
    scores = readable_scores(queries, ring)
    own = scores.gather(-1, found.slots_BHTk).masked_fill(~found.found_BHTk, float("-inf"))
    assert (own > float("-inf")).equal(found.found_BHTk)
    assert (own[..., :-1] >= own[..., 1:] - 1e-5).all()
    for slots, there in zip(found.slots_BHTk.flatten(0, 2), found.found_BHTk.flatten(0, 2), strict=True):
        assert len(set(slots[there].tolist())) == there.sum()
    best = scores.topk(k).values
    if name not in engines.APPROXIMATE:
        torch.testing.assert_close(own, best, rtol=0, atol=1e-5)
    return ((own >= best[..., -1:] - 1e-6) & found.found_BHTk).sum().item() / max(
        1, (best > float("-inf")).sum().item()
    )


@pytest.mark.parametrize("kind", ["random", "clustered", "duplicate"])
@pytest.mark.parametrize("name", ["exact", "bucketed", "faiss_flat", "faiss_ivf", "faiss_hnsw"])
def test_engines_find_what_brute_force_finds(name: str, kind: str) -> None:
    """Over three times the ring's capacity, which nothing divides, with documents that begin in the middle."""
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    torch.manual_seed(0)
    engine = build_engine(name)
    ring = empty_ring(lanes=2, heads=2, head_size=16, slots=SLOTS, slack=LENGTH + 5, like=LIKE)
    recalls = []
    for step in range(30):
        if step in (5, 19):
            ring = clear_ring(ring, torch.tensor([True, step == 19]))
        queries = F.normalize(torch.randn(2, 2, 7, 16), dim=-1)
        recalls.append(check(name, engine(queries, ring, 16), queries, ring))
        keys = some(kind, LENGTH)
        ring = write(ring, keys, keys, valid_B=torch.tensor([LENGTH, LENGTH - 3]))
    if name != "bucketed":
        assert sum(recalls[1:]) / len(recalls[1:]) > 0.9


@pytest.mark.parametrize("name", ["exact", "bucketed", "faiss_flat"])
def test_the_same_is_found_wherever_the_ring_stands(name: str) -> None:
    """16 does not divide the capacity of 121, so the pairs that compete for a bucket must not be chosen by slot."""
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    torch.manual_seed(5)
    queries, keys = F.normalize(torch.randn(1, 2, 9, 16), dim=-1), some("random", 90)[:1]
    found = []
    for before in (0, 50, 113):
        ring = empty_ring(lanes=1, heads=2, head_size=16, slots=100, slack=21, like=LIKE)
        old = some("random", before)[:1]
        ring = clear_ring(write(ring, old, old, valid_B=torch.tensor([before])), torch.tensor([True]))
        ring = write(ring, keys, keys, valid_B=torch.tensor([90]))
        found.append(ages_at(ring, build_engine(name)(queries, ring, 16).slots_BHTk))
    for other in found[1:]:
        assert torch.equal(other, found[0])


def test_one_of_each_bucket_finds_as_many_as_chance_says() -> None:
    """16 balls thrown into 16 buckets leave 1 - (1 - 1/16)^16 of them occupied."""
    torch.manual_seed(1)
    ring = empty_ring(lanes=2, heads=2, head_size=16, slots=2048, slack=0, like=LIKE)
    keys = some("random", 2048)
    ring = write(ring, keys, keys, valid_B=torch.tensor([2048, 2048]))
    queries = F.normalize(torch.randn(2, 2, 300, 16), dim=-1)
    found = build_engine("bucketed")(queries, ring, 16)
    assert check("bucketed", found, queries, ring) == pytest.approx(1 - (15 / 16) ** 16, abs=0.02)
    assert recall(build_engine("exact")(queries, ring, 16), queries, ring) == 1


@pytest.mark.parametrize("name", ["faiss_ivf", "faiss_hnsw"])
def test_an_index_follows_forks_and_what_is_read_again(name: str) -> None:
    pytest.importorskip("faiss")
    torch.manual_seed(2)
    engine = build_engine(name)
    ring = empty_ring(lanes=2, heads=2, head_size=16, slots=SLOTS, slack=2 * LENGTH, like=LIKE)
    queries = F.normalize(torch.randn(2, 2, 7, 16), dim=-1)
    for _ in range(6):
        keys = some("random", LENGTH)
        ring = write(ring, keys, keys, valid_B=torch.tensor([LENGTH, LENGTH]))
        engine(queries, ring, 8)
    earlier, other = ring, fork(ring)
    for at in (ring, other):  # the same place with other keys
        keys = some("random", LENGTH)
        at = write(at, keys, keys, valid_B=torch.tensor([LENGTH, LENGTH]))
        assert check(name, engine(queries, at, 8), queries, at) > 0.9
    assert check(name, engine(queries, earlier, 8), queries, earlier) > 0.9
    keys = some("random", LENGTH)  # and written again in another way
    again = write(earlier, keys, keys, valid_B=torch.tensor([LENGTH, LENGTH]))
    assert check(name, engine(queries, again, 8), queries, again) > 0.9


def test_half_precision_keys_are_searched_as_they_are_stored() -> None:
    torch.manual_seed(3)
    ring = empty_ring(lanes=2, heads=2, head_size=16, slots=3000, slack=0, like=LIKE.bfloat16())
    keys = F.normalize(some("random", 3000) + 30 * some("random", 1), dim=-1)  # alike, so that rounded scores are equal
    ring = write(ring, keys, keys, valid_B=torch.tensor([3000, 3000]))
    queries = F.normalize(torch.randn(2, 2, 40, 16), dim=-1)
    check("exact", build_engine("exact")(queries, ring, 64), queries, ring)
    check("exact", by_scores(scores_plain, queries, ring, 64), queries, ring)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, check=says("arch.search is faiss_ivf", "expected", "memexp[faiss]", "arch.search=exact")
    ):
        build_engine("faiss_ivf")
    assert chosen_engine("auto", slots=1 << 24, device=torch.device("cpu")) == "exact"


def test_the_choice_is_by_size_and_by_where_the_ring_is() -> None:
    pytest.importorskip("faiss")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    chosen = [chosen_engine("auto", slots=1 << size, device=on) for size in (19, 20) for on in (cpu, cuda)]
    assert chosen == ["exact", "exact", "faiss_ivf", "exact"]
    assert chosen_engine("bucketed", slots=8, device=cuda) == "bucketed"


def test_an_index_that_is_made_again_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a resume, or when validation has searched another ring in between; over documents and around the ring."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(engines, "FEWEST_PROBES", 2)  # so that neighbours are missed
    torch.manual_seed(5)
    ring = empty_ring(lanes=2, heads=2, head_size=16, slots=SLOTS, slack=LENGTH, like=LIKE)
    engine, recalls = build_engine("faiss_ivf"), []
    for step in range(40):
        if step == 23:
            ring = clear_ring(ring, torch.tensor([True, False]))
        keys, queries = some("random", LENGTH), F.normalize(torch.randn(2, 2, 7, 16), dim=-1)
        ring = write(ring, keys, keys, valid_B=torch.tensor([LENGTH, LENGTH - 3]))
        found, again = engine(queries, ring, 16), build_engine("faiss_ivf")(queries, ring, 16)
        assert found.slots_BHTk.equal(again.slots_BHTk)
        assert found.found_BHTk.equal(again.found_BHTk)
        recalls.append(check("faiss_ivf", found, queries, ring))
    assert min(recalls) < 0.9  # else this would say nothing


def test_faiss_for_cpus_alone_is_refused_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a model is built for it, before its first search; on a CPU, and for a ring on the host, nothing is refused."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(engines, "_faiss", lambda: object())
    for arch in ("knn", "block_knn"):
        for on in ("device", "host"):
            words = (f"arch={arch}", "arch.search=faiss_flat", f"arch.stored_on={on}")
            model = build_model(configure(*words), vocabulary=40)
            model.check_device(torch.device("cpu"))
            if on == "host":
                model.check_device(torch.device("cuda"))
                continue
            with pytest.raises(UserError, check=says("faiss", "CPU", "expected", "[gpu]", "arch.search=exact")):
                model.check_device(torch.device("cuda"))


@pytest.mark.gpu
def test_faiss_on_cuda_is_that_on_cpu() -> None:
    if not hasattr(pytest.importorskip("faiss"), "StandardGpuResources"):
        pytest.skip("this faiss is only for CPUs")
    torch.manual_seed(4)
    ring = empty_ring(lanes=2, heads=2, head_size=16, slots=SLOTS, slack=0, like=LIKE.cuda())
    keys = some("random", SLOTS).cuda()
    ring = write(ring, keys, keys, valid_B=torch.tensor([SLOTS, SLOTS]).cuda())
    queries = F.normalize(torch.randn(2, 2, 7, 16), dim=-1).cuda()
    for name in ("faiss_flat", "bucketed"):
        check(name, build_engine(name)(queries, ring, 8), queries, ring)
