"""The memory of key-value pairs against the outputs of its published code, from empty over full to a new document."""

import pytest
import torch

from memexp.model.knn import Knn

from ..model.make import make
from .arrays import Published, difference
from .meliad import OPTIONS, fill_head, fill_layer, read, shape

PUBLISHED = Published("meliad_knn")


def build(search: str) -> Knn:
    """The model with the published weights; each of them has a place in it."""
    memory_layer = PUBLISHED.const("memory_layer_index")
    model = make(
        Knn,
        shape(PUBLISHED),
        mem=PUBLISHED.const("database_size"),
        cache=PUBLISHED.const("window_length"),
        knn_layers=[memory_layer + 1],
        neighbours=PUBLISHED.const("num_neighbors"),
        search=search,
        **OPTIONS,
    )
    model = model.double().eval()
    fill_head(model, PUBLISHED)
    for index, layer in enumerate(model.layers):
        weights = PUBLISHED.below(f"transformer{index}.")
        fill_layer(layer, weights)
        if index == memory_layer:
            with torch.no_grad():
                model.memories[str(index + 1)].gate_H.copy_(weights.pop("external_memory_bias"))
        assert not weights
    return model


@pytest.mark.parametrize("search", ["exact", "bucketed"])
def test_logits_are_the_published_ones(search: str) -> None:
    """The published logits differ by design: there slots that were never written are found, as zeros.

    And there a token does not see itself, and zeros in front of a document are seen.
    """
    logits = read(build(search), PUBLISHED).logits
    assert difference(logits, PUBLISHED[f"logits_patched_{search}"]) < 1e-10
    assert difference(logits, PUBLISHED["logits"]) > 1


def test_the_two_searches_differ_where_the_memory_is_not_empty() -> None:
    exact, bucketed = (PUBLISHED[f"logits_patched_{search}"] for search in ("exact", "bucketed"))
    assert difference(exact[0], bucketed[0]) < 1e-12
    assert difference(exact[3:6], bucketed[3:6]) > 0.1
