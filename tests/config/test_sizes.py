"""The shapes of `conf/size` are those of the papers: their parameters, counted without building anything, are as published."""

import pytest
import torch

from memexp.config.checkpoints import PRESET
from memexp.config.groups import Size
from memexp.config.introspection import choices_of
from memexp.experiment.cells import cells
from memexp.experiment.definition import load
from memexp.experiment.settings import wanted
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel

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


@pytest.mark.hard
@pytest.mark.parametrize("size", [size for size in choices_of("size") if size != PRESET])
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


@pytest.mark.hard
@pytest.mark.parametrize(
    ("size", "settings", "entries", "published", "off", "source"), WHOLE, ids=lambda value: str(value)
)
def test_parameters_are_as_published(
    size: str, settings: tuple[str, ...], entries: int, published: float, off: float, source: str
) -> None:
    assert built(f"size={size}", *settings, vocabulary=entries) == pytest.approx(published, rel=off)


@pytest.mark.hard
@pytest.mark.parametrize(("size", "settings", "published", "off", "source"), NETWORK)
def test_parameters_besides_the_embedding_are_as_published(
    size: str, settings: tuple[str, ...], published: float, off: float, source: str
) -> None:
    width = configure(f"size={size}", *settings).size.width
    network = built(f"size={size}", *settings, vocabulary=32_000) - 32_000 * width
    assert network == pytest.approx(published, rel=off)


ALGORITHMIC = [
    ("Copy 24", 0.92e6, 0.005),
    ("Copy 120", 0.92e6, 0.005),
    ("Retrieval", 0.35e6, 0.01),
]
"""Columns of Recurrent Memory Transformer's algorithmic tasks, the parameters that its paper prints, and the share of rounding."""


def of_the_paper(experiment: str, column: str, *, vocabulary: int) -> SegmentModel:
    """Transformer-XL in a column of Recurrent Memory Transformer's experiments, at the paper's scale."""
    cell = next(
        cell for cell in cells(load(experiment), "paper") if cell.column == column and cell.settings["arch"] == "xl"
    )
    (found,) = wanted([cell])
    with torch.device("meta"):
        return build_model(found.settings, vocabulary=vocabulary)


def count(model: SegmentModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("column", "published", "off"), ALGORITHMIC)
def test_parameters_of_algorithmic_tasks_are_as_published(column: str, published: float, off: float) -> None:
    assert count(of_the_paper("rmt/algorithmic", column, vocabulary=20)) == pytest.approx(published, rel=off)


def test_parameters_of_equations_are_as_published() -> None:
    assert count(of_the_paper("rmt/equations", "Quadratic equations", vocabulary=20)) == pytest.approx(
        1.88e6, rel=0.005
    )


def test_parameters_of_copying_are_those_of_the_published_code_to_the_last_one() -> None:
    """LM-RMT's Transformer-XL has 924,180; each difference has a name."""
    layers, width, feedforward, inner, words = 4, 128, 256, 256, 20
    biases = (
        layers * (2 * width + feedforward + width) + words
    )  # of two norms and the feed-forward layer; of the output
    own = (layers - 1) * 2 * inner  # u and v of each layer; there all layers share them
    last_norm = width
    found = count(of_the_paper("rmt/algorithmic", "Copy 24", vocabulary=words))
    assert found + biases - own - last_norm == 924_180


def test_every_size_of_a_paper_is_compared() -> None:
    ours = {"small", "task", "tiny", PRESET}
    assert {row[0] for row in [*WHOLE, *NETWORK]} == set(choices_of("size")) - ours
