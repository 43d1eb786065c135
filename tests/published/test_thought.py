"""The updater of thought-and-memory and its losses against the outputs of the published code."""

import pytest
import torch
from torch import Tensor

from memexp.config.arch.slot_memory import ThoughtArch
from memexp.model.slot_memory.recall import Composed, composition, published_separation
from memexp.model.slot_memory.updater import AdditiveUpdater, PublishedAlibi
from memexp.model.transformer.position import Places
from memexp.model.transformer.shape import Shape

from .arrays import Published, difference

PUBLISHED = Published("thought_updater")
SHAPE = Shape(
    vocabulary=1, layers=1, width=PUBLISHED.const("width"), heads=PUBLISHED.const("heads"),
    head_size=PUBLISHED.const("width") // PUBLISHED.const("heads"), feedforward=1,
    segment=PUBLISHED.const("predictor_context"),
)  # fmt: skip


def build() -> AdditiveUpdater:
    """The updater with the published weights."""
    layers = PUBLISHED.const("memory_depth")
    updater = AdditiveUpdater(SHAPE, ThoughtArch(), layers=layers).double()
    weights = PUBLISHED.below("layers.")
    ours = {}
    for layer in range(layers):
        attention, feedforward = weights.below(f"{layer}.0."), weights.below(f"{layer}.1.net.")
        keys_values = torch.cat([attention.pop("W_k.weight"), attention.pop("W_v.weight")])
        attention |= {"cross.keys_values.weight": keys_values}
        names = {"W_q.weight": "cross.queries.weight", "W_o.weight": "cross.output.weight"}
        ours |= {
            f"layers.{layer}.{names.get(name, name.replace('norm.', 'cross_norm.'))}": weight
            for name, weight in attention.items()
        }
        ours |= {f"layers.{layer}.feedforward.{name}": weight for name, weight in feedforward.items()}
    assert not weights
    updater.load_state_dict(ours)
    return updater


def all_valid(length: int) -> Tensor:
    return torch.ones(PUBLISHED.const("lanes"), length, dtype=torch.bool)


def composed(updater: AdditiveUpdater, tag: str) -> Composed:
    """The comparison of pieces and whole with the cuts of the file."""
    text = PUBLISHED["activations"]
    return composition(updater, PUBLISHED["memory"], text, all_valid(text.shape[1]), PUBLISHED[f"cuts.{tag}"].tolist())


@pytest.mark.parametrize("length", [12, 7, 3, 1])
def test_the_updated_memory_is_the_published_one(length: int) -> None:
    found = build()(PUBLISHED["memory"], PUBLISHED["activations"][:, :length], all_valid(length)).memory_BMD
    assert difference(found, PUBLISHED[f"updated.{length}"]) < 1e-10


@pytest.mark.parametrize("tag", ["a", "b"])
def test_composition_and_separation_are_the_published_losses(tag: str) -> None:
    found = composed(build(), tag)
    assert difference(found.pieces_BMD, PUBLISHED[f"pieces.{tag}"]) < 1e-10
    assert difference(found.error, PUBLISHED[f"composition.{tag}"]) < 1e-10
    both = torch.cat([found.pieces_BMD, found.whole_BMD], dim=1)[:, PUBLISHED[f"drawn.{tag}"].long()]
    assert difference(found.error + vicreg(both.flatten(0, 1)), PUBLISHED[f"composition_and_vicreg.{tag}"]) < 1e-10


def vicreg(rows_ND: Tensor) -> Tensor:
    """The sum with the published weights."""
    terms = published_separation(rows_ND, torch.ones(len(rows_ND), dtype=torch.bool))
    return terms["variance"] + PUBLISHED.const("cov_weight") * terms["covariance"]


def test_separation_is_the_published_formula() -> None:
    rows_ND = PUBLISHED["vicreg_input"]
    assert difference(vicreg(rows_ND), PUBLISHED["vicreg"]) < 1e-10
    assert (
        difference(
            published_separation(rows_ND, torch.ones(len(rows_ND), dtype=torch.bool))["variance"],
            PUBLISHED["vicreg_variance_only"],
        )
        < 1e-10
    )


def test_gradients_of_composition_are_the_published_ones() -> None:
    updater = build()
    composed(updater, "a").error.backward()
    for layer, ours in enumerate(updater.layers):
        name = f"grad_composition.layers.{layer}."
        keys_values = torch.cat([PUBLISHED[f"{name}0.W_k.weight"], PUBLISHED[f"{name}0.W_v.weight"]])
        pairs = [
            (ours.cross.queries.weight, PUBLISHED[f"{name}0.W_q.weight"]),
            (ours.cross.keys_values.weight, keys_values),
            (ours.cross.output.weight, PUBLISHED[f"{name}0.W_o.weight"]),
            (ours.cross_norm.weight, PUBLISHED[f"{name}0.norm.weight"]),
            (ours.cross_norm.bias, PUBLISHED[f"{name}0.norm.bias"]),
            *((weight, PUBLISHED[f"{name}1.net.{key}"]) for key, weight in ours.feedforward.named_parameters()),
        ]
        for weight, gradient in pairs:
            assert (weight.grad - gradient).norm() < 1e-6 * gradient.norm()


def test_the_penalty_of_distances_is_the_published_one() -> None:
    slots, length = PUBLISHED.const("memory_context"), PUBLISHED.const("predictor_context")
    place_S = torch.arange(length)
    places = Places(place_S[:slots], place_S, lowest=1 - length, highest=slots - 1)
    penalty = PublishedAlibi(SHAPE.heads).penalty(places)[0].double()
    assert difference(penalty, PUBLISHED["alibi_penalty"]) < 1e-10


def test_a_piece_without_tokens_is_refused() -> None:
    """The published code adds its feed-forward layers there; our random cuts leave no piece empty."""
    with pytest.raises(ValueError, match="no tokens"):
        composed(build(), "empty_piece")
