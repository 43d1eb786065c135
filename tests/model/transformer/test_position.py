"""Positions against their formulas."""

import cmath
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from memexp.config.arch.base import AttentionArch
from memexp.model.transformer.attention import SelfAttention, local_scores
from memexp.model.transformer.position import (
    ByDistance,
    Positioned,
    RelativeXl,
    T5Bias,
    bucket,
    build_position,
    dense,
    in_order,
    look_up_on_cpu,
    look_up_on_gpu,
)
from memexp.model.transformer.shape import Shape

from ...messages import says


def test_t5_buckets_are_those_of_its_paper() -> None:
    """Raffel et al. 2020, section 2.1: exact to 15, then logarithmic, everything from 128 on shares the last."""
    distance = torch.tensor([0, 1, 15, 16, 20, 31, 32, 64, 127, 128, 5000])
    found = bucket(distance, buckets=32, farthest=128).tolist()
    assert found == [0, 1, 15, 16, 17, 21, 21, 26, 31, 31, 31]


def test_t5_bias_depends_on_distance_alone_across_the_cache_border() -> None:
    bias = T5Bias(2, two_sided=False)
    torch.nn.init.normal_(bias.bias_HR)
    queries = torch.zeros(1, 2, 4, 8)
    segment = dense(bias(queries, torch.zeros(1, 2, 10, 8), in_order(4, 10, queries.device)).bias)
    assert segment is not None
    for t in range(4):
        for s in range(6 + t + 1):
            expected = bias.bias_HR[:, bucket(torch.tensor(6 + t - s), buckets=32, farthest=128)]
            assert torch.equal(segment[0, :, t, s], expected)


@pytest.mark.parametrize("look_up", [look_up_on_cpu, look_up_on_gpu])
def test_a_bias_by_distance_is_looked_up_with_the_gradient_of_indexing(look_up: Callable[..., Tensor]) -> None:
    """To the digit; its rows are without gaps, as the kernels of attention want them."""
    torch.manual_seed(0)
    bias = torch.randn(3, 20, requires_grad=True)
    index = in_order(6, 40, bias.device).distances().clamp_max(19)
    found, expected = look_up(bias, index.int(), bias.dtype), bias[:, index]
    upstream = torch.randn_like(expected)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(each, bias, upstream)[0] for each in (found, expected)))
    assert found.is_contiguous()
    assert torch.equal(look_up(bias, index.int(), torch.bfloat16), expected.bfloat16())
    assert torch.equal(ByDistance(bias, in_order(6, 40, bias.device)).dense()[0], expected)


def test_transformer_xl_scores_are_its_equation() -> None:
    """Dai et al. 2019, section 3.3: (q_i + u) k_j + (q_i + v) W R_{i-j}, by loops; the waves R are as wide as the model."""
    torch.manual_seed(0)
    scheme = RelativeXl(2, 4, width=10)
    for parameter in scheme.parameters():
        torch.nn.init.normal_(parameter)
    queries, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 7, 4)
    placed = scheme(queries, keys, in_order(3, 7, keys.device))
    found = scores(placed)
    for t in range(3):
        for s in range(4 + t + 1):
            distance = 4 + t - s
            rates = [10_000 ** (-i / 10) for i in range(0, 10, 2)]
            waves = torch.tensor([math.sin(distance * r) for r in rates] + [math.cos(distance * r) for r in rates])
            place = (scheme.project.weight @ waves).view(2, 4)
            for head in range(2):
                content = (queries[0, head, t] + scheme.content_H1K[head, 0]) @ keys[0, head, s]
                by_place = (queries[0, head, t] + scheme.place_H1K[head, 0]) @ place[head]
                torch.testing.assert_close(found[0, head, t, s], content + by_place)


@pytest.mark.parametrize("name", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic"])
def test_scores_depend_on_distance_alone(name: str) -> None:
    """The same text with more of a cache in front has the same scores; another distance has others."""
    torch.manual_seed(0)
    scheme = build_position(name, width=8, heads=1, head_size=8)
    for parameter in scheme.parameters():
        torch.nn.init.normal_(parameter)
    queries, keys = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    short = scores(scheme(queries, keys, in_order(4, 4, keys.device))).tril()
    longer = torch.cat([torch.randn(1, 1, 9, 8), keys], dim=2)
    long = scores(scheme(queries, longer, in_order(4, 13, keys.device)))[..., 9:].tril()
    torch.testing.assert_close(long, short, rtol=1e-4, atol=1e-5)
    same = scheme(queries[:, :, -1:], keys[:, :, :1].expand(-1, -1, 4, -1), in_order(1, 4, keys.device))
    assert len({round(score, 4) for score in scores(same).flatten().tolist()}) == 4


def scores(placed: Positioned) -> Tensor:
    """What attention takes the softmax of."""
    product = placed.queries_BHTK @ placed.keys_BHSK.mT
    bias = dense(placed.bias)
    return product if bias is None else product + bias


def test_xpos_scores_are_rotations_that_fade() -> None:
    """Sun et al. 2022, section 2: Re(q conj(k) e^(i d theta)) zeta^(d / 512) summed over pairs of channels, in complex numbers."""
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 1, 3, 8, dtype=torch.float64), torch.randn(1, 1, 600, 8, dtype=torch.float64)
    found = scores(build_position("xpos", width=8, heads=1, head_size=8)(queries, keys, in_order(3, 600, keys.device)))[
        0, 0
    ]
    for t, s in [(0, 597), (1, 400), (2, 0), (2, 599)]:
        distance, expected = 597 + t - s, 0.0
        for pair in range(4):
            query = complex(queries[0, 0, t, pair], queries[0, 0, t, pair + 4])
            key = complex(keys[0, 0, s, pair], keys[0, 0, s, pair + 4])
            turn = cmath.exp(1j * distance * 10_000 ** (-2 * pair / 8))
            fade = ((2 * pair / 8 + 0.4) / 1.4) ** (distance / 512)
            expected += (query * key.conjugate() * turn).real * fade
        assert found[t, s].item() == pytest.approx(expected, rel=1e-6)


def test_alibi_slopes_are_the_papers() -> None:
    """Press et al. 2022: 1/2, 1/4, ... 1/256 for eight heads."""
    nothing = torch.zeros(1, 8, 1, 2)
    placed = build_position("alibi", width=16, heads=8, head_size=2)(
        nothing, torch.zeros(1, 8, 4, 2), in_order(1, 4, nothing.device)
    )
    bias = dense(placed.bias)
    assert bias is not None
    assert bias[0, :, 0, 0].tolist() == [-3 * 2.0**-head for head in range(1, 9)]


@pytest.mark.parametrize("name", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
def test_keys_without_a_place_are_scored_by_content_alone(name: str) -> None:
    """Beside a segment the scores of such keys are those that no position scheme gives, and the others are unchanged."""
    torch.manual_seed(0)
    shape = Shape(vocabulary=9, layers=1, width=12, heads=2, head_size=4, feedforward=8, segment=5)
    attention = SelfAttention(shape, AttentionArch(position=name, scale=3.0))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    heads = attention.project(torch.randn(1, 5, 12), None)
    keys, values = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    beside = attention.beside(attention.look(heads, None), heads, keys, values)
    found = local_scores(beside, torch.ones(1, 1, 5, 8, dtype=torch.bool))
    queries = heads.queries_BHTK
    if isinstance(attention.position, RelativeXl):
        queries = queries + attention.position.content_H1K
    torch.testing.assert_close(found[..., :3], queries @ keys.mT)
    plain = local_scores(attention.look(heads, None), torch.ones(1, 1, 5, 5, dtype=torch.bool))
    torch.testing.assert_close(found[..., 3:], plain)
    assert torch.equal(beside.values_BGSK[:, :, :3], values)


def test_an_unknown_scheme_is_a_bug() -> None:
    with pytest.raises(ValueError, check=says("position", "'absolute'")):
        build_position("absolute", width=8, heads=2, head_size=4)


class Operations(TorchDispatchMode):
    """The names of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._schema.name.split("::")[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["none", "t5", "xl", "rotary", "xpos", "alibi", "dynamic"])
def test_what_places_alone_decide_is_computed_for_the_first_layer_alone(name: str) -> None:
    """All that is computed from places without weights, queries or keys."""
    queries, keys = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 9, 8)
    places = in_order(5, 9, queries.device)
    for layer in range(2):
        position = build_position(name, width=24, heads=3, head_size=8)
        with Operations() as operations:
            placed = position(queries, keys, places)
            dense(placed.bias)
        of_places = {"arange", "sub", "abs", "sign", "log1p", "log", "pow", "cos", "sin", "repeat", "clamp_min"}
        assert bool(of_places & set(operations.seen)) == (layer == 0 and name != "none"), operations.seen
