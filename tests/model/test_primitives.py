"""Positions and the output layer against their formulas."""

import math

import pytest
import torch

from memexp.model import head as head_module
from memexp.model.head import Head
from memexp.model.position import RelativeXl, Rotary, T5Bias, bucket, build_position


def test_t5_buckets_are_those_of_its_paper() -> None:
    """Raffel et al. 2020, section 2.1: exact to 15, then logarithmic, everything from 128 on shares the last."""
    distance = torch.tensor([0, 1, 15, 16, 20, 31, 32, 64, 127, 128, 5000])
    found = bucket(distance, buckets=32, farthest=128).tolist()
    assert found == [0, 1, 15, 16, 17, 21, 21, 26, 31, 31, 31]


def test_t5_bias_depends_on_distance_alone_across_the_cache_border() -> None:
    bias = T5Bias(2)
    torch.nn.init.normal_(bias.bias_HR)
    segment = bias(torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 10, 8)).bias_BHTS
    for t in range(4):
        for s in range(6 + t + 1):
            expected = bias.bias_HR[:, bucket(torch.tensor(6 + t - s), buckets=32, farthest=128)]
            assert torch.equal(segment[0, :, t, s], expected)


def test_transformer_xl_scores_are_its_equation() -> None:
    """Dai et al. 2019, section 3.3: (q_i + u) k_j + (q_i + v) W R_{i-j}, by loops."""
    torch.manual_seed(0)
    scheme = RelativeXl(2, 4)
    for parameter in scheme.parameters():
        torch.nn.init.normal_(parameter)
    queries, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 7, 4)
    placed = scheme(queries, keys)
    found = placed.queries_BHTK @ placed.keys_BHSK.transpose(-1, -2) + placed.bias_BHTS
    for t in range(3):
        for s in range(4 + t + 1):
            distance = 4 + t - s
            rates = [10_000 ** (-i / 8) for i in range(0, 8, 2)]
            waves = torch.tensor([math.sin(distance * r) for r in rates] + [math.cos(distance * r) for r in rates])
            place = (scheme.project.weight @ waves).view(2, 4)
            for head in range(2):
                content = (queries[0, head, t] + scheme.content_H1K[head, 0]) @ keys[0, head, s]
                by_place = (queries[0, head, t] + scheme.place_H1K[head, 0]) @ place[head]
                torch.testing.assert_close(found[0, head, t, s], content + by_place)


def test_rotary_scores_depend_on_distance_alone() -> None:
    """The same text in front of which more of a cache stands has the same scores; another distance has others."""
    torch.manual_seed(0)
    queries, keys = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    short = Rotary()(queries, keys)
    long = Rotary()(queries, torch.cat([torch.randn(1, 1, 9, 8), keys], dim=2))
    scores = short.queries_BHTK @ short.keys_BHSK.transpose(-1, -2)
    shifted = long.queries_BHTK @ long.keys_BHSK.transpose(-1, -2)
    torch.testing.assert_close(shifted[..., 9:], scores, rtol=1e-4, atol=1e-5)
    same = keys[:, :, :1].expand(-1, -1, 4, -1)
    far = Rotary()(queries[:, :, -1:], same)
    scores = (far.queries_BHTK @ far.keys_BHSK.transpose(-1, -2)).flatten()
    assert len({round(score, 4) for score in scores.tolist()}) == 4


def test_an_unknown_scheme_is_a_bug() -> None:
    with pytest.raises(ValueError, match="unknown position scheme 'absolute'"):
        build_position("absolute", heads=2, head_size=4)


def test_nats_are_those_of_log_softmax() -> None:
    torch.manual_seed(0)
    head = Head(11, 6)
    hidden, targets = torch.randn(2, 5, 6), torch.randint(11, (2, 5))
    logits = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt() @ head.embedding_VD.T / 6**0.5
    expected = -(logits - logits.exp().sum(-1, keepdim=True).log()).gather(-1, targets[..., None]).squeeze(-1)
    torch.testing.assert_close(head.nats(hidden, targets), expected)
    torch.testing.assert_close(head.logits(hidden), logits)


def test_pieces_change_neither_nats_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = Head(11, 6)
    hidden, targets = torch.randn(2, 5, 6, requires_grad=True), torch.randint(11, (2, 5))
    whole = head.nats(hidden, targets)
    expected = torch.autograd.grad(whole.sum(), [hidden, *head.parameters()])
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", 33)
    pieces = head.nats(hidden, targets)
    torch.testing.assert_close(pieces, whole)
    for found, one in zip(torch.autograd.grad(pieces.sum(), [hidden, *head.parameters()]), expected, strict=True):
        torch.testing.assert_close(found, one)
