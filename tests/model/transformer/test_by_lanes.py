"""Attention with a bias of positions for a part of the lanes and heads after another, against attention to all at once."""

from contextlib import nullcontext
from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.config.arch.transformer import XlArch
from memexp.model.transformer import by_lanes
from memexp.model.transformer.attention import CausalMask, LayerCache, Mask, SelfAttention, _hidden, attend
from memexp.model.transformer.by_lanes import Form, attend_by_lanes, fits
from memexp.model.transformer.position import (
    Alibi,
    Behind,
    Bias,
    ByDistance,
    ByQuery,
    Position,
    RelativeXl,
    T5Bias,
    in_order,
)
from memexp.model.transformer.shape import Shape

LANES, HEADS, LENGTH, CACHE, SIZE = 5, 4, 7, 6, 8
SPAN = CACHE + LENGTH
SCORES = LENGTH * 16 * 8
"""Bytes of the scores of a lane and head, with padded rows."""

generator = torch.Generator().manual_seed(3)
MASKS = {
    "none": None,
    "causal": CausalMask(LENGTH, CACHE, torch.tensor([6, 0, 3, 1, 6]), None),
    "reach": CausalMask(LENGTH, CACHE, torch.tensor([6, 0, 3, 1, 6]), 4),
    "by lane": torch.rand(LANES, 1, 1, SPAN, generator=generator) < 0.7,
    "of all lanes": torch.rand(1, 1, LENGTH, SPAN, generator=generator) < 0.7,
}


def random(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.double, generator=generator)


def position(name: str) -> Position:
    if name == "alibi":
        return Alibi(HEADS).double()
    found = RelativeXl(HEADS, SIZE, width=10) if name == "xl" else T5Bias(HEADS, two_sided=name == "two-sided")
    with torch.no_grad():
        for numbers in found.double().parameters():
            numbers.copy_(random(*numbers.shape))
    return found


@pytest.mark.parametrize("at_once", [1, 2 * SCORES, HEADS * SCORES, 2 * HEADS * SCORES])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["t5", "two-sided", "alibi", "xl"])
def test_parts_are_the_whole(name: str, mask: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_lanes, "AT_ONCE", at_once)
    scheme, allowed = position(name), MASKS[mask]
    queries, values = random(LANES, HEADS, LENGTH, SIZE), random(LANES, HEADS, SPAN, SIZE)
    one_key = random(LANES, 1, SPAN, SIZE)  # that all heads share
    inputs = [queries.requires_grad_(), one_key.requires_grad_(), values.requires_grad_(), *scheme.parameters()]
    keys = one_key.expand(-1, HEADS, -1, -1)
    queries, keys, bias = scheme(queries, keys, in_order(LENGTH, SPAN, queries.device))
    assert isinstance(bias, ByDistance | ByQuery)
    hidden = None if allowed is None else partial(_hidden, allowed)
    assert not fits(queries, keys, 0)
    found = attend_by_lanes(queries, keys, values, Form(bias, hidden))

    added = bias.dense()
    if allowed is not None:
        whole = allowed.whole if isinstance(allowed, CausalMask) else allowed
        added = added.masked_fill(~whole, float("-inf"))
    expected = F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)
    torch.testing.assert_close(found, expected)
    down = random(*found.shape)
    of_parts, of_whole = (torch.autograd.grad(read, inputs, down, retain_graph=True) for read in (found, expected))
    torch.testing.assert_close(of_parts, of_whole)


@pytest.mark.parametrize("name", ["t5", "alibi", "xl"])
def test_keys_without_positions_in_front_have_no_bias(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_lanes, "AT_ONCE", 2 * SCORES)
    scheme, slots = position(name), 3
    queries, keys, values = (random(LANES, HEADS, length, SIZE) for length in (LENGTH, SPAN, slots + SPAN))
    inputs = [each.requires_grad_() for each in (queries, keys, values)] + [*scheme.parameters()]
    queries, keys, bias = scheme(queries, keys, in_order(LENGTH, SPAN, queries.device))
    assert isinstance(bias, ByDistance | ByQuery)
    keys = torch.cat([random(LANES, HEADS, slots, SIZE), keys], dim=2)
    allowed = torch.rand(LANES, 1, LENGTH, slots + SPAN, generator=generator) < 0.7
    found = attend_by_lanes(queries, keys, values, Form(Behind(bias, slots), partial(_hidden, allowed)))
    added = torch.cat([torch.zeros(LANES, HEADS, LENGTH, slots), bias.dense().expand(LANES, -1, -1, -1)], dim=-1)
    scores = (queries @ keys.mT + added).masked_fill(~allowed, float("-inf"))
    expected = scores.softmax(-1) @ values
    torch.testing.assert_close(found, expected)
    down = random(*found.shape)
    of_parts, of_whole = (torch.autograd.grad(read, inputs, down, retain_graph=True) for read in (found, expected))
    torch.testing.assert_close(of_parts, of_whole)


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("name", ["t5", "alibi", "xl"])
@pytest.mark.parametrize(("layers", "bptt"), [(3, 0), (1, 2), (1, 0)])
def test_no_bias_is_kept_that_is_large_in_all_layers_together(
    name: str, layers: int, bptt: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator; that of one layer would fit."""
    monkeypatch.setattr(by_lanes, "uncast", nullcontext)  # which knows no device without values
    monkeypatch.setattr(by_lanes, "AT_ONCE", LANES * HEADS * LENGTH * 16 * 4 * 2)
    shape = Shape(9, layers, 10, HEADS, SIZE, 12, segment=LENGTH, bptt_segments=bptt)
    kept: set[tuple[int, ...]] = set()
    with torch.device("meta"):
        attention = SelfAttention(shape, XlArch(position=name))
        heads = attention.project(torch.empty(LANES, LENGTH, 10), None)
        past = LayerCache(*[torch.empty(LANES, HEADS, CACHE, SIZE)] * 2, torch.empty(LANES, 10))
        mask = CausalMask(LENGTH, CACHE, torch.empty(LANES, dtype=torch.long), None)
        sight, seen = attention.look(heads, past, mask.places), cast(Mask, mask)
        if slots:
            sight = attention.beside(sight, heads, *[torch.empty(LANES, HEADS, slots, SIZE)] * 2)
            seen = F.pad(mask.whole, (slots, 0), value=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.shape) or x, lambda x: x):
            attend(sight, seen)
    assert ((LANES, HEADS, LENGTH, slots + SPAN) in kept) == (layers == 1 and bptt == 0)


@pytest.mark.parametrize("kind", [ByDistance, ByQuery])
def test_the_gradients_of_lanes_are_summed_in_full_precision(
    kind: type[ByDistance | ByQuery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision, what many lanes add would be lost."""
    monkeypatch.setattr(by_lanes, "AT_ONCE", 1)
    lanes = 600
    queries = torch.zeros(lanes, HEADS, 2, SIZE, dtype=torch.bfloat16)
    values = torch.zeros(lanes, HEADS, 2, SIZE, dtype=torch.bfloat16)
    values[:, :, 1] = 1  # the second query gains by reading the second key
    places = in_order(2, 2, queries.device)
    if kind is ByDistance:
        numbers = torch.zeros(HEADS, 2, requires_grad=True)
        bias: Bias = ByDistance(numbers, places)
    else:
        numbers = torch.zeros(HEADS, 2, 1, dtype=torch.bfloat16, requires_grad=True)
        bias = ByQuery(torch.ones(lanes, HEADS, 2, 1), numbers, places)
    [found] = torch.autograd.grad(attend_by_lanes(queries, queries, values, Form(bias, None)).sum(), numbers)
    # of a query with two equal weights, each key has the gradient 1/2 (v - 1/2 (v + v')) of its score
    expected = lanes * SIZE * 0.25
    assert found[:, 1].flatten().tolist() == pytest.approx(
        [-expected] * HEADS, rel=1e-3 if kind is ByDistance else 4e-3
    )
