"""Block recurrence with pairs beside: against its two halves, and for what it must not depend on."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.model.block import Block
from memexp.model.block_knn import BlockKnn
from memexp.model.knn import Knn
from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape
from memexp.model.vanilla import Vanilla

from .make import make
from .small import COMMON, LANES, LENGTH, randomise, read, shape, tokens

WINDOW = 8
BLOCK = {
    "window": WINDOW, "recurrent_layers": [2], "gate_kind": "fixed", "gates": "skip", "feedback": False,
    "state_dropout": 0.0, "cache_dropout": 0.0, "shared_values": False, "position": "t5",
}  # fmt: skip
PAIRS = {
    "pairs": 20, "knn_layers": [1], "neighbours": 4, "search": "exact", "combine": "gate", "gate": 0.3, "write": "all", "stored": "fp32", "stored_on": "device",
}  # fmt: skip


def build(size: Shape, mem: int = 5, **changes: Any) -> SegmentModel:
    torch.manual_seed(4)
    return randomise(make(BlockKnn, size, mem=mem, **{**COMMON, **BLOCK, **PAIRS, **changes}))


def test_without_pairs_it_is_block_recurrence() -> None:
    ours = build(shape(segment=16), pairs=0)
    block = make(Block, shape(segment=16), mem=5, **{**COMMON, **BLOCK}).double()
    block.load_state_dict(ours.state_dict())
    torch.testing.assert_close(read(ours, tokens(), segment=16), read(block, tokens(), segment=16))
    assert not torch.allclose(read(build(shape(segment=16)), tokens(), segment=16), read(block, tokens(), segment=16))


@pytest.mark.parametrize("shared_values", [False, True])
def test_pairs_that_left_the_window_complete_exact_attention(shared_values: bool) -> None:
    """One layer, no states, no positions, a joint softmax over all: the windows and the ring are the whole document.

    A window sees exactly W tokens back and the ring holds what is further back only at its first token; the tokens
    after that miss as many pairs as they stand in it. So the first token of every window is compared.
    """
    options = {"position": "none", "shared_values": shared_values, "recurrent_layers": []}
    found = build(
        shape(segment=24, layers=1), 0, pairs=LENGTH, neighbours=LENGTH, combine="joint", write="leaving", **options
    )
    own = {key: value for key, value in found.state_dict().items() if not shared_values or "attention" not in key}
    vanilla = make(Vanilla, shape(segment=LENGTH, layers=1), mem=0, **{**COMMON, "position": "none"}).double()
    if shared_values:  # the same projection for both heads
        own |= {key: value for key, value in found.state_dict().items() if key not in own}
        queries_values, keys = "layers.0.attention.queries_values.weight", "layers.0.attention.keys.weight"
        own[queries_values] = torch.cat([own[queries_values], own[queries_values][16:]])
        own[keys] = own[keys].repeat(2, 1)
    vanilla.load_state_dict(own)
    every = slice(0, None, WINDOW)
    expected = read(vanilla, tokens(), segment=LENGTH)
    torch.testing.assert_close(read(found, tokens(), segment=24)[:, every], expected[:, every])


@pytest.mark.parametrize("changes", [{}, {"search": "routed"}, {"write": "leaving", "combine": "joint"}])
def test_the_cut_into_segments_changes_no_loss_and_no_gradient(changes: dict[str, Any]) -> None:
    """48 tokens as six segments of a window, as two of three, and as one: a window is what is read and written."""
    results = []
    for segment in (WINDOW, 24, LENGTH):
        size = Shape(
            vocabulary=30, layers=2, width=24, heads=2, head_size=8, feedforward=40, segment=segment,
            bptt_segments=LENGTH // segment - 1,
        )  # fmt: skip
        model = build(size, **changes)
        hidden = read(model, tokens(), segment=segment)
        hidden.square().sum().backward()
        results.append((hidden.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    for hidden, gradients in results[1:]:
        torch.testing.assert_close(hidden, results[0][0])
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, results[0][1][name], rtol=1e-6, atol=1e-8)


def test_inspect_sees_what_earlier_windows_of_the_segment_wrote_and_writes_nothing() -> None:
    model = build(shape(segment=24))
    parts = tokens().split(24, dim=1)
    state = model.init_state(LANES)
    valid, reset = torch.ones_like(parts[0], dtype=torch.bool), torch.zeros(LANES, dtype=torch.bool)
    before = [leaf.clone() for leaf in pytree.tree_leaves(state.memory[1])]
    found = model.inspect(parts[0], valid, state, reset)
    assert all(torch.equal(one, other) for one, other in zip(before, pytree.tree_leaves(state.memory[1]), strict=True))
    read_BT: Tensor = (found.weights_BTLHk > 0).flatten(2).any(-1)
    assert read_BT.tolist() == [[place >= WINDOW for place in range(24)]] * LANES
    place = torch.arange(24).view(1, -1, 1, 1, 1)
    there = found.weights_BTLHk > 0
    assert (found.ages_BTLHk > place % WINDOW)[there].all()
    assert (found.ages_BTLHk <= place)[there].all()


def test_pieces_of_a_window_give_what_the_window_gives() -> None:
    model = build(shape(segment=WINDOW))
    *first, last = tokens().split(WINDOW, dim=1)
    state, reset = model.init_state(LANES), torch.zeros(LANES, dtype=torch.bool)
    for part in first:
        state = model(part, torch.ones_like(part, dtype=torch.bool), state, reset).state
    kept, hidden = None, []
    for piece in last.split([3, 1, 4], dim=1):
        extension = model.extend(piece, state, kept)
        kept = extension.kept
        hidden.append(extension.hidden_BTD)
    expected = model(last, torch.ones_like(last, dtype=torch.bool), state, reset).hidden_BTD
    torch.testing.assert_close(torch.cat(hidden, dim=1), expected)


def test_padding_fills_no_memory() -> None:
    """A document of nine tokens in a segment of eight windows writes two of them; the lane beside it goes on."""
    model = build(shape(segment=64), pairs=56)
    text = torch.arange(128).view(2, 64) % 11
    there = torch.ones_like(text, dtype=torch.bool)
    there[:, 9:] = False
    begins = torch.tensor([True, True])
    short = model(text, there, model.init_state(2), begins)
    assert short.gauges["memory_fill_pairs"] == pytest.approx(2 * WINDOW / 56)
    there[1] = True
    assert model(text, there, model.init_state(2), begins).gauges["memory_fill_pairs"] == 1


def test_a_lane_without_text_fills_no_memory() -> None:
    options = {key: value for key, value in PAIRS.items() if key != "pairs"}
    model = randomise(
        make(
            Knn,
            shape(segment=8),
            mem=40,
            cache=8,
            **{**COMMON, **options, "knn_layers": [2], "knn_position": True, "position": "t5"},
        )
    )
    text, begins = torch.arange(16).view(2, 8) % 11, torch.tensor([True, True])
    there, state = torch.ones_like(text, dtype=torch.bool), model.init_state(2)
    for _ in range(4):
        output = model(text, there, state, begins)
        state, there, begins = output.state, torch.zeros_like(there), torch.zeros_like(begins)
    assert output.gauges["memory_fill"] == pytest.approx(8 / 40)
