"""`arch.borrow`: state vectors that start from what the attention of their layer has learned."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memexp.errors import UserError
from memexp.model.block import Block
from memexp.model.block_knn import BlockKnn
from memexp.model.slot_memory.gates import keep_of_means
from memexp.model.transformer.shape import Shape

from ...messages import says
from ...tiny import configure
from ..make import make

WIDTH, HEADS, HEAD_SIZE, WINDOW, SLOTS = 12, 2, 6, 4, 3
SHAPE = Shape(
    vocabulary=30, layers=3, width=WIDTH, heads=HEADS, head_size=HEAD_SIZE, feedforward=30, segment=2 * WINDOW
)
ARRANGEMENTS = [(kind, gates) for kind in ("fixed", "lstm") for gates in ("skip", "single", "dual")]


def build(**options: Any) -> Block:
    torch.manual_seed(3)
    options = {"mem": SLOTS, "window": WINDOW, "recurrent_layers": [2], "position": "none", "borrow": True} | options
    return make(Block, SHAPE, **options)


def normed(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize(("kind", "gates"), ARRANGEMENTS)
def test_vectors_start_as_means_of_what_they_read_of_the_text(kind: str, gates: str) -> None:
    """Whatever they read of one another; each channel keeps between a half and 0.97 of its old value."""
    cell: Any = build(gate_kind=kind, gates=gates).vectors[0].cell
    own, text, other, old = torch.randn(4, 1, SLOTS, WIDTH).mul(0.3)
    gate = {"skip": cell, "single": getattr(cell, "gate", None), "dual": getattr(cell, "attention_gate", None)}[gates]
    with torch.no_grad():
        if kind == "lstm":  # its gates depend a little on what is read
            for parameter in (gate.gate_keep_DF, gate.gate_write_DF):
                parameter.zero_()
            if gates == "dual":
                cell.gate.gate_keep_DF.zero_()
                cell.gate.gate_write_DF.zero_()
        new = cell(old, torch.cat([own, text], -1)).new_BMD
        other = cell(old, torch.cat([other, text], -1)).new_BMD
    keep = torch.sigmoid(gate.gate_D if kind == "fixed" else gate.gate_keep_D + 1).detach()
    expected = old * keep + (text.tanh() if kind == "lstm" else text) * (1 - keep)
    if gates == "dual":
        passed = normed(expected)
        expected = (expected + (passed.tanh() if kind == "lstm" else passed)) / 2
    torch.testing.assert_close(new, expected)
    torch.testing.assert_close(other, new)
    assert keep.min().item() == pytest.approx(0.5)
    assert keep.max().item() == pytest.approx(math.exp(-1 / (32 + 1 / math.log(2) - 1)))


def test_channels_are_means_over_one_to_thirty_two_windows() -> None:
    """The mean age of what a channel holds is 1 / -log(keep); for one window it is that of keeping a half."""
    ages = (-1 / keep_of_means(256).log()).sort().values
    assert ages[[0, -1]].tolist() == pytest.approx([1 / math.log(2), 31 + 1 / math.log(2)], rel=1e-4)


@pytest.mark.parametrize("arch", [Block, BlockKnn])
@pytest.mark.parametrize("normalise", [True, False])
def test_tokens_ask_the_vectors_what_they_ask_their_layer_s_tokens(arch: type[Block], normalise: bool) -> None:
    pairs = {"pairs": 8} if arch is BlockKnn else {}
    torch.manual_seed(3)
    options = {"window": WINDOW, "recurrent_layers": [2], "borrow": True, "normalise": normalise}
    model = make(arch, SHAPE, mem=SLOTS, **options, **pairs)
    attention, reader, vectors = model.layers[1].attention, model.readers["1"], model.vectors[0]
    x, state = torch.randn(2, 5, WIDTH), torch.randn(2, SLOTS, WIDTH)
    heads = attention.project(x, None)
    seen = vectors.see(state)
    # plain attention with the layer's own queries, to keys that are what the vectors ask the text
    asked = torch.einsum("fd,bmd->bmf", vectors.over_tokens.queries.weight, normed(state) + vectors.ids_MD)
    keys = asked.unflatten(-1, (HEADS, HEAD_SIZE)).transpose(1, 2)
    if normalise:
        keys = keys / keys.norm(dim=-1, keepdim=True)
    values = normed(state).unflatten(-1, (HEADS, HEAD_SIZE)).transpose(1, 2)
    expected = (heads.queries_BHTK @ keys.mT).softmax(-1) @ values
    torch.testing.assert_close(reader(x, seen).read_BHTK, expected)
    torch.testing.assert_close(reader.output.weight, 0.3 * attention.output.weight)


def test_heads_with_shared_keys_find_a_vector_by_the_mean_of_its_questions() -> None:
    vectors = build(shared_values=True).vectors[0]
    questions = vectors.over_tokens.queries.weight.unflatten(0, (HEADS, HEAD_SIZE))
    torch.testing.assert_close(vectors.keys.weight, (questions[0] + questions[1]) / HEADS**0.5)


def test_layers_that_read_another_layer_s_vectors_start_without_them() -> None:
    """Their queries are not those of the layer that the vectors came from."""
    model = build(feedback=True)
    assert [bool(model.readers[str(layer)].output.weight.any()) for layer in range(3)] == [False, True, False]


def test_new_vectors_borrow_what_was_loaded_and_trained_ones_stay() -> None:
    """After the weights of a model without state vectors came in, the reader has that model's queries."""
    trained = build(mem=0, borrow=False, recurrent_layers=[])
    model = build()
    missing, unexpected = model.load_state_dict(trained.state_dict(), strict=False)
    assert not unexpected
    model.start_new(missing)
    queries = trained.layers[1].attention.queries_values.weight[: HEADS * HEAD_SIZE]
    torch.testing.assert_close(model.readers["1"].attention.queries.weight, queries)

    with torch.no_grad():
        model.vectors[0].keys.weight.add_(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_new([])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_without_it_nothing_starts_otherwise() -> None:
    model = build(borrow=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_new(list(before))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("gates", ["single", "dual"])
def test_a_feed_forward_layer_too_narrow_to_pass_on_is_refused(gates: str) -> None:
    words = ("arch=block", f"arch.gates={gates}", "arch.borrow=true", "size.feedforward=20")
    with pytest.raises(UserError) as error:
        configure(*words)
    assert says(str(error.value), "arch.borrow", "size.feedforward", 20)
    configure("arch=block", "arch.borrow=true", "size.feedforward=20")
