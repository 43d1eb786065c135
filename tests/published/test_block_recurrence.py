"""Block recurrence against the outputs of its published code: whole stacks, over segments, windows and two documents."""

import pytest
import torch

from memexp.model.block import Block
from memexp.model.xl import Xl

from ..model.make import make
from .arrays import Published, difference
from .meliad import OPTIONS, fill_head, fill_layer, fill_state_attention, fill_vectors, read, shape

FILES = ["sliding", "recurrent_fixed_skip", "recurrent_lstm_dual", "feedback_fixed_skip"]


def build(published: Published) -> Block:
    """The model with the published weights; each of them has a place in it."""
    recurrent = "const.gate_type" in published.arrays
    options = {"window": published.const("window_length"), **OPTIONS}
    if recurrent:
        options |= {
            "recurrent_layers": [published.const("recurrent_layer_index") + 1],
            "gate_kind": {"bias": "fixed", "lstm": "lstm"}[published.const("gate_type")],
            "gates": published.const("arrangement"),
            "feedback": bool(published.const("feedback_recurrence")),
        }
    slots = published.const("recurrent_num_states") if recurrent else 0
    model = make(Block, shape(published), mem=slots, **options).double().eval()
    fill_head(model, published)
    for index, layer in enumerate(model.layers):
        weights = published.below(f"transformer{index}.")
        fill_layer(layer, weights)
        if str(index) in model.readers:
            reader = model.readers[str(index)]
            fill_state_attention(
                reader.attention, weights.kernel("tbase._kvq.queries2_layer"), weights.pop("tbase.attention_scale2")
            )
            with torch.no_grad():
                reader.output.weight.copy_(weights.pop("from_states"))
        if index in model.recurrent_layers:
            fill_vectors(model.vectors[0], weights.below("recurrent_"))
        assert not weights
    return model


@pytest.mark.parametrize("name", FILES)
def test_logits_and_states_are_the_published_ones(name: str) -> None:
    """The published logits differ by design: there a token does not see itself, and zeros in front of a document are seen."""
    published = Published(f"meliad_{name}")
    outputs = read(build(published), published)
    assert difference(outputs.logits, published["logits_patched"]) < 1e-10
    assert difference(outputs.logits, published["logits"]) > 0.2
    if "states" in published.arrays:
        states = torch.stack([state.memory[0] for state in outputs.states])
        assert difference(states, published["states_patched"]) < 1e-10
        assert difference(states, published["states"]) > 0.05


def test_a_cache_seen_through_a_window_is_the_published_sliding_window() -> None:
    """Transformer-XL with segments twice as long as its cache."""
    published = Published("meliad_sliding")
    model = make(Xl, shape(published), mem=published.const("window_length"), reach="window", **OPTIONS).double().eval()
    fill_head(model, published)
    for index, layer in enumerate(model.layers):
        fill_layer(layer, published.below(f"transformer{index}."))
    assert difference(read(model, published).logits, published["logits_patched"]) < 1e-10
