"""The shapes of `conf/size` are those of the papers: their parameters, counted without building anything, are as published."""

import pytest
import torch

from memexp.config.groups import Size
from memexp.config.introspection import choices_of
from memexp.model.build import build_model

from ..tiny import configure


def parameters(size: Size, vocabulary: int) -> int:
    """What `arch=vanilla` learns: embedding and last gain, and in each layer attention with T5's bias, feed-forward and gains.

    The embedding is tied to the output layer, nothing has biases, and the feed-forward layer has no gate.
    """
    inner = size.heads * size.head_size
    attention = 4 * size.width * inner + size.heads * (1 + 32)  # a scale and 32 buckets a head
    feedforward = 2 * size.width * size.feedforward
    return vocabulary * size.width + size.width + size.layers * (attention + feedforward + 2 * size.width)


def built(*overrides: str, vocabulary: int) -> int:
    """Parameters of the model itself."""
    with torch.device("meta"):
        model = build_model(configure("arch.key_smear=false", "arch.position=t5", *overrides), vocabulary=vocabulary)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("size", choices_of("size"))
def test_the_model_has_what_the_formula_says(size: str) -> None:
    assert built(f"size={size}", vocabulary=32_000) == parameters(configure(f"size={size}").size, 32_000)


RELATIVE = ("arch=xl", "arch.position=xl")

WORDS = "data.tokenizer.kind=lines"

WHOLE = [
    ("200m", (), 32_000, 184e6, 0.01, "Focused Transformer, appendix: its Memorizing Transformer"),
    ("1b", (), 32_000, 1e9, 0.15, "Memorizing Transformers, figure 1; no count but the name"),
    ("8b", (), 32_000, 8e9, 0.20, "the same; the size of a head is ours, so the count is no check of it"),
    ("rmt-wt103", (*RELATIVE, WORDS), 267_735, 151.1e6, 0.003, "LM-RMT, results of WikiText-103"),
    ("xl-large-wt103", (WORDS,), 267_735, 257e6, 0.03, "Transformer-XL, results of WikiText-103"),
    ("rmt-enwik8", RELATIVE, 204, 41.06e6, 0.003, "LM-RMT, results of enwik8"),
    ("xl-large-enwik8", RELATIVE, 204, 277e6, 0.003, "Transformer-XL, results of enwik8"),
    ("block-650m", (), 32_128, 650e6, 0.03, "Block-Recurrent Transformers, table 2; ours is without recurrence"),
    ("block-1.3b", (), 32_128, 1.3e9, 0.03, "the same"),
]
"""Size, settings, entries of the vocabulary, published parameters, the share that ours may be off, and the source."""

NETWORK = [
    ("rmt-wt103", RELATIVE, 41.07e6, 0.003, "LM-RMT, results of WikiText-103"),
    ("block-40m", (), 37e6, 0.03, "Block-Recurrent Transformers' code, configurations of sizes"),
    ("block-75m", (), 75e6, 0.01, "the same"),
    ("block-150m", (), 151e6, 0.01, "the same"),
    ("block-300m", (), 302e6, 0.01, "the same"),
    ("block-600m", (), 605e6, 0.01, "the same"),
    ("block-1.2b", (), 1208e6, 0.01, "the same"),
]
"""The same without the embedding."""


@pytest.mark.parametrize(
    ("size", "settings", "entries", "published", "off", "source"), WHOLE, ids=lambda value: str(value)
)
def test_parameters_are_as_published(
    size: str, settings: tuple[str, ...], entries: int, published: float, off: float, source: str
) -> None:
    assert built(f"size={size}", *settings, vocabulary=entries) == pytest.approx(published, rel=off)


@pytest.mark.parametrize(("size", "settings", "published", "off", "source"), NETWORK)
def test_parameters_besides_the_embedding_are_as_published(
    size: str, settings: tuple[str, ...], published: float, off: float, source: str
) -> None:
    width = configure(f"size={size}", *settings).size.width
    network = built(f"size={size}", *settings, vocabulary=32_000) - 32_000 * width
    assert network == pytest.approx(published, rel=off)


def test_every_size_of_a_paper_is_compared() -> None:
    ours = {"small", "task", "tiny"}
    assert {row[0] for row in [*WHOLE, *NETWORK]} == set(choices_of("size")) - ours
