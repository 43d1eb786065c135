"""Attention in blocks against whole matrices of scores, and unit norms against PyTorch's: values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.config.arch.base import AttentionArch
from memexp.model.transformer import attention as module
from memexp.model.transformer import flash_cpu
from memexp.model.transformer.attention import (
    CausalMask,
    LayerCache,
    Mask,
    SelfAttention,
    Sight,
    attend,
    local_scores,
)
from memexp.model.transformer.numerics import unit_norm
from memexp.model.transformer.position import T5Bias
from memexp.model.transformer.shape import Shape


def plain(sight: Sight, mask: Mask) -> Tensor:
    """The formula: a softmax over all scores."""
    return local_scores(sight, mask).softmax(-1) @ sight.values_BGSK


@pytest.mark.parametrize("name", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
@pytest.mark.parametrize(("length", "cache", "counts", "reach"), [
    (11, 0, (0, 0), None), (11, 9, (9, 9), None), (11, 9, (2, 9), None), (11, 9, (0, 4), None), (8, 8, (0, 0), None),
    (300, 140, (140, 100), None), (12, 6, (6, 3), 6), (1, 5, (5, 2), None), (3, 200, (200, 180), None),
])  # fmt: skip
@pytest.mark.parametrize("block", [4, 128])
def test_blocks_are_the_formula(
    name: str,
    length: int,
    cache: int,
    counts: tuple[int, int],
    reach: int | None,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For every scheme of positions, lengths that no block divides, caches of other documents and a sliding window."""
    monkeypatch.setattr(module, "BLOCK", block)
    torch.manual_seed(0)
    shape = Shape(vocabulary=9, layers=1, width=12, heads=2, head_size=6, feedforward=8, segment=length)
    attention = SelfAttention(shape, AttentionArch(position=name, scale=3.0)).double()
    for parameter in attention.position.parameters():
        torch.nn.init.normal_(parameter)
    text, cached = (torch.randn(2, n, 12, dtype=torch.float64, requires_grad=True) for n in (length, cache))
    before = attention.project(cached, None)
    past = LayerCache(before.keys_BGTK, before.values_BGTK, text[:, 0]) if cache else None
    sight = attention.look(attention.project(text, past), past)
    mask = CausalMask(length, cache, torch.tensor(counts), reach)
    found, expected = attend(sight, mask), plain(sight, mask)
    torch.testing.assert_close(found, expected)
    down = torch.randn_like(found)
    inputs = [text, cached, *attention.position.parameters(), *attention.keys.parameters()]
    gradients = (
        torch.autograd.grad(read, inputs, down, retain_graph=True, allow_unused=True) for read in (found, expected)
    )
    for ours, theirs in zip(*gradients, strict=True):
        if theirs is not None:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["t5", "xl", "rotary", "alibi", "none"])
@pytest.mark.parametrize("counts", [(9, 9), (2, 9)])
def test_keys_of_a_cache_without_gradient_are_the_formula(
    name: str, counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read together by all queries, and the gradient of the queries has its own way, here in several pieces."""
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(T5Bias, "FARTHEST", 3)
    monkeypatch.setattr(flash_cpu, "SCORES_AT_ONCE", 20)
    torch.manual_seed(4)
    shape = Shape(vocabulary=9, layers=1, width=12, heads=2, head_size=6, feedforward=8, segment=7)
    attention = SelfAttention(shape, AttentionArch(position=name, scale=3.0)).double()
    for parameter in attention.position.parameters():
        torch.nn.init.normal_(parameter)
    text = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    before = attention.project(torch.randn(2, 9, 12, dtype=torch.float64), None)
    past = LayerCache(before.keys_BGTK.detach(), before.values_BGTK.detach(), text[:, 0])
    sight, mask = attention.look(attention.project(text, past), past), CausalMask(7, 9, torch.tensor(counts), None)
    of_queries, inner = [], flash_cpu._queries_backward
    monkeypatch.setattr(flash_cpu, "_queries_backward", lambda *a: of_queries.append(a[1].shape[2]) or inner(*a))
    inputs = [text, *attention.position.parameters()]
    read, expected = attend(sight, mask), plain(sight, mask)
    torch.testing.assert_close(read, expected)
    down = torch.randn_like(read)
    gradients = [torch.autograd.grad(each, inputs, down, retain_graph=True) for each in (read, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    # a bias of every pair of tokens, or of every distance, leaves no key that is far from every query
    assert of_queries == {"t5": [7], "rotary": [9], "none": [9]}.get(name, [])


@pytest.mark.parametrize("wider", [False, True])
def test_any_mask_and_a_bias_of_every_lane(wider: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As memory tokens and keys without a place have them; these may make keys wider than values."""
    torch.manual_seed(1)
    queries, keys = (torch.randn(2, 3, n, 12 if wider else 6, requires_grad=True) for n in (5, 9))
    values, bias = torch.randn(2, 3, 9, 6, requires_grad=True), torch.randn(2, 3, 5, 9, requires_grad=True)
    monkeypatch.setattr(module, "BLOCK", 2)
    mask = torch.rand(2, 1, 5, 9) < 0.6
    mask[:, :, :4, :2], mask[:, :, :4, 7:], mask[..., 3] = False, False, True
    sight = Sight(queries, keys, bias, values, values)
    found, expected = attend(sight, mask), plain(sight, mask)
    torch.testing.assert_close(found, expected)
    inputs, down = [queries, keys, values, bias], torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, down), torch.autograd.grad(expected, inputs, down), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("biased", [False, True])
def test_no_mask_is_a_mask_that_hides_nothing(biased: bool) -> None:
    torch.manual_seed(6)
    queries, keys = (torch.randn(2, 3, n, 6, requires_grad=True) for n in (5, 9))
    sight = Sight(queries, keys, torch.randn(1, 3, 5, 9) if biased else None, keys, keys)
    expected, found = (attend(sight, mask) for mask in (torch.ones(2, 1, 5, 9, dtype=torch.bool), None))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, plain(sight, None))
    inputs, down = [queries, keys], torch.randn_like(found)
    torch.testing.assert_close(*(torch.autograd.grad(each, inputs, down) for each in (found, expected)))


def test_where_nothing_may_be_seen_nothing_is_not_a_number() -> None:
    """As in a lane of padding alone."""
    queries, keys = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    assert attend(Sight(queries, keys, None, keys, keys), torch.zeros(1, 1, 1, 5, dtype=torch.bool)).isfinite().all()


def test_unit_norms_are_pytorchs() -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 3, 8, dtype=torch.float64)
    x[0, 0] = 0
    x.requires_grad_()
    down = torch.randn_like(x)
    torch.testing.assert_close(unit_norm(x), F.normalize(x, dim=-1))
    [found], [expected] = (torch.autograd.grad(f(x), x, down) for f in (unit_norm, lambda x: F.normalize(x, dim=-1)))
    torch.testing.assert_close(found[1:], expected[1:])
    torch.testing.assert_close(found[0, 1:], expected[0, 1:])


def test_keys_of_half_precision_are_rounded_once() -> None:
    """Rounding the norm as well would give every key a length of its own, by which it is then retrieved."""
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unit_norm(x), F.normalize(x.float(), dim=-1).bfloat16())
