"""Coordinate descent against its equations one number at a time, and routed memories against exact attention."""

import math

import pytest
import torch
from torch import Tensor

from memexp.model.knn import Knn
from memexp.model.knn_memory.ring import Ring, ages_at, clear_ring, empty_ring, write
from memexp.model.knn_memory.router import Router, descend, soft_weights

from ..make import make
from ..small import COMMON, LANES, randomise, read, shape, tokens

OPTIONS = {
    "combine": "gate",
    "stored": "fp32",
    "stored_on": "device",
    "gate": 0.3,
    "knn_position": True,
    "position": "t5",
}


def equations(scores: list[float], keep: int) -> list[float]:
    """CoLT5's loop: 20 iterations, epsilon from 4 down to 0.03 by 0.7."""
    a, b, epsilon = 0.0, [-score for score in scores], 4.0
    for _ in range(20):
        terms = [(s + low) / epsilon for s, low in zip(scores, b, strict=True)]
        top = max(terms)
        a = epsilon * (math.log(keep) - top - math.log(sum(math.exp(term - top) for term in terms)))
        b = [-max(0.0, s + a) for s in scores]
        epsilon = max(epsilon * 0.7, 0.03)
    return [math.exp((s + a + low) / epsilon) for s, low in zip(scores, b, strict=True)]


@pytest.mark.parametrize("keep", [1, 3, 8])
def test_soft_weights_are_the_equations_and_sum_to_what_is_kept(keep: int) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 12, dtype=torch.float64) * 0.3
    void = torch.zeros(2, 3, 12, dtype=torch.bool)
    void[1, :, 10:] = True
    threshold = descend(scores, void, torch.full((2, 1, 1), keep))
    for lane, length in ((0, 12), (1, 10)):
        for head in range(3):
            own = scores[lane, head, :length]
            weights = soft_weights(own, threshold[lane, head])
            expected = torch.tensor(equations(own.tolist(), keep), dtype=torch.float64)
            torch.testing.assert_close(weights, expected)
            assert 0.7 * keep < weights.sum() < 1.001 * keep  # twenty iterations end a little short
            order = own.argsort(descending=True)
            assert weights[order[0]] > 0.5 > weights[order[-1]]


def ring_of(keys_BHRK: Tensor, *, position: int, counts: list[int]) -> Ring:
    return Ring(
        keys_BHRK, keys_BHRK + 1, torch.full((len(counts),), position), torch.tensor(counts), keys_BHRK.shape[2]
    )


def test_the_best_pairs_are_kept_by_lane_and_head() -> None:
    """Against sorting, in a ring that has gone round, with lanes that hold all, a few and none."""
    torch.manual_seed(1)
    router = Router(shape(segment=4), keep=5, context=4)
    with torch.no_grad():
        router.route_HK.normal_()
    ring = ring_of(torch.randn(3, 2, 20, 8), position=33, counts=[16, 3, 0])
    routed = router(ring)
    assert routed.neighbours.found_BHTk.sum(-1).tolist() == [[[5], [5]], [[3], [3]], [[0], [0]]]
    for lane, count in enumerate([16, 3, 0]):
        newest_first = [(33 - 1 - number) % 20 for number in range(count)]
        for head in range(2):
            past = ring.keys_BHRK[lane, head, newest_first[:4]]
            query = router.route_HK[head] + (past.mean(0) if count else 0)
            best = sorted(newest_first, key=lambda slot: -(ring.keys_BHRK[lane, head, slot] @ query).item())
            take = min(5, count)
            assert routed.neighbours.slots_BHTk[lane, head, 0, :take].tolist() == best[:take]
    assert torch.isfinite(routed.weights_BH1k).all()
    assert (routed.weights_BH1k[1, :, 0, :3] > 0.5).all()  # nothing there was given up


@pytest.mark.parametrize("combine", ["gate", "joint"])
@pytest.mark.parametrize("write", ["all", "leaving"])
def test_keeping_everything_is_exact_attention_over_the_ring(combine: str, write: str) -> None:
    options = {**OPTIONS, **COMMON, "combine": combine, "write": write, "knn_layers": [1, 2]}
    routed = randomise(make(Knn, shape(segment=8), mem=20, cache=8, neighbours=20, search="routed", **options))
    exact = make(Knn, shape(segment=8), mem=20, cache=8, neighbours=20, search="exact", **options).double()
    missing, left = exact.load_state_dict(routed.state_dict(), strict=False)
    assert missing == []
    assert left == ["memories.1.router.route_HK", "memories.2.router.route_HK"]
    text = tokens()
    torch.testing.assert_close(read(routed, text, segment=8), read(exact, text, segment=8))


def test_the_choice_is_causal_and_one_for_all_tokens() -> None:
    """Changing a segment's last token changes nothing before it, and every token reads the same slots."""
    options = {**OPTIONS, **COMMON, "write": "all", "knn_layers": [1]}
    model = randomise(make(Knn, shape(segment=8), mem=24, cache=0, neighbours=5, search="routed", **options))
    text = tokens()
    other = text.clone()
    other[:, -1] = (other[:, -1] + 1) % 30
    assert torch.equal(read(model, text, segment=8)[:, :-1], read(model, other, segment=8)[:, :-1])
    state = model.init_state(LANES)
    for part in text.split(8, dim=1):
        valid, reset = torch.ones_like(part, dtype=torch.bool), torch.zeros(LANES, dtype=torch.bool)
        found = model.inspect(part, valid, state, reset)
        state = model(part, valid, state, reset).state
    written = found.ages_BTLHk - torch.arange(8).view(1, -1, 1, 1, 1)
    assert (written == written[:, :1]).all()
    assert (written > 0).all()


def test_gradient_reaches_the_router_and_its_soft_weights_change_no_value() -> None:
    options = {**OPTIONS, **COMMON, "write": "all", "knn_layers": [1]}
    model = randomise(make(Knn, shape(segment=8), mem=24, cache=0, neighbours=5, search="routed", **options))
    read(model, tokens(), segment=8).square().sum().backward()
    assert model.memories["1"].router.route_HK.grad.abs().sum() > 0


def test_the_router_s_gradient_is_that_of_soft_attention() -> None:
    """Of attention in which each chosen pair counts as much as its soft weight says: by the chain rule, written out."""
    torch.manual_seed(2)
    router = Router(shape(segment=4), keep=3, context=4).double()
    keys = torch.nn.functional.normalize(torch.randn(1, 2, 12, 8, dtype=torch.float64), dim=-1)
    ring = ring_of(keys, position=12, counts=[12])
    routed = router(ring)
    scores, values = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    nudged = scores + routed.weights_BH1k[0, :, 0] - routed.weights_BH1k[0, :, 0].detach()
    (nudged.softmax(-1) * values).sum().backward()
    chosen = keys[0].gather(1, routed.neighbours.slots_BHTk[0, :, 0, :, None].expand(-1, -1, 8))
    weights = routed.weights_BH1k[0, :, 0].detach()
    assert ((weights > 0.01) & (weights < 0.99)).any()
    slopes = torch.where(weights < 1, weights / 0.03, 0)
    shares = scores.softmax(-1)
    outcome = (shares * values).sum(-1, keepdim=True)
    expected = ((shares * (values - outcome) * slopes)[..., None] * chosen).sum(1)
    torch.testing.assert_close(router.route_HK.grad, expected)


@pytest.mark.parametrize("write", ["all", "leaving"])
@pytest.mark.parametrize("search", ["exact", "routed"])
def test_age_is_how_far_back_the_last_token_read(search: str, write: str) -> None:
    """By attention, over lanes, heads and pairs, from what `inspect` says of that token."""
    options = {**OPTIONS, **COMMON, "write": write, "knn_layers": [1], "search": search}
    model = randomise(make(Knn, shape(segment=8), mem=24, cache=8, neighbours=5, **options))
    state = model.init_state(LANES)
    for part in tokens().split(8, dim=1):
        valid, reset = torch.ones_like(part, dtype=torch.bool), torch.zeros(LANES, dtype=torch.bool)
        found, output = model.inspect(part, valid, state, reset), model(part, valid, state, reset)
        state = output.state
        last = zip(
            found.weights_BTLHk[:, -1].flatten().tolist(), found.ages_BTLHk[:, -1].flatten().tolist(), strict=True
        )
        weighted = [(weight, weight * age) for weight, age in last]
        total = sum(weight for weight, _ in weighted)
        expected = sum(product for _, product in weighted) / total if total else 0
        assert float(output.gauges["age"]) == pytest.approx(expected)
    assert expected > 8


def test_what_is_routed_does_not_depend_on_where_the_ring_stands() -> None:
    """Of keys that are alike in half precision as well, where many scores would be equal."""
    torch.manual_seed(6)
    size = shape(segment=8)
    router = Router(size, keep=16, context=8)
    keys = torch.nn.functional.normalize(torch.randn(1, 2, 90, 8) + 4 * torch.randn(1, 2, 1, 8), dim=-1)
    found, weights = [], []
    for before in (0, 40, 71):
        ring = empty_ring(lanes=1, heads=2, head_size=8, slots=100, slack=21, like=torch.zeros(()).bfloat16())
        old = torch.randn(1, 2, before, 8)
        ring = clear_ring(write(ring, old, old, valid_B=torch.tensor([before])), torch.tensor([True]))
        ring = write(ring, keys, keys, valid_B=torch.tensor([90]))
        routed = router(ring)
        found.append(ages_at(ring, routed.neighbours.slots_BHTk).sort().values)
        weights.append(routed.weights_BH1k.sum())
    for other, weight in zip(found[1:], weights[1:], strict=True):
        assert torch.equal(other, found[0])
        torch.testing.assert_close(weight, weights[0])
