"""Adafactor against the weights that published implementations give after the same gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memexp.train.adafactor import Adafactor

FILE = np.load(Path(__file__).parent / "adafactor.npz", allow_pickle=False)
RESULTS = sorted(name for name in FILE.files if name.split(".")[0].startswith(("hf", "optax")))
SAVED_AFTER = [int(step) for step in FILE["saved_after"]]


def trained(how: str, scale: str, name: str) -> list[Tensor]:
    """Our weights after the steps at which the published ones were saved."""
    parameter = nn.Parameter(torch.from_numpy(FILE[f"start.{name}"].copy()))
    optimizer = Adafactor(
        [parameter],
        lr=1.0,
        momentum=float(FILE["const.momentum"]) if "momentum" in how else 0.0,
        factor_from=128 if how.endswith("unfactored") else 1,
    )
    factor = float(FILE["const.tiny"]) if scale == "tiny" else 1.0
    weights = []
    for step, gradient in enumerate(FILE[f"gradients.{name}"], start=1):
        optimizer.param_groups[0]["lr"] = float(FILE["rates"][step - 1])
        parameter.grad = torch.from_numpy(gradient.copy()) * factor
        optimizer.step()
        if step in SAVED_AFTER:
            weights.append(parameter.detach().clone())
    return weights


def test_all_results_are_compared() -> None:
    assert len(RESULTS) == 26


@pytest.mark.parametrize("result", RESULTS)
def test_weights_are_those_of_the_published_code(result: str) -> None:
    """The largest difference is compared with the largest way that a weight went."""
    how, scale, name = result.split(".")
    for step, ours, theirs in zip(SAVED_AFTER, trained(how, scale, name), FILE[result], strict=True):
        moved = np.abs(theirs - FILE[f"start.{name}"]).max()
        difference = float(np.abs(ours.numpy() - theirs).max() / moved)
        print(result, step, difference)
        assert difference < 1e-5, step


@pytest.mark.parametrize("how", ["hf", "optax_momentum"])
def test_rows_that_never_had_a_gradient_stay(how: str) -> None:
    never = ~FILE["gradients.embedding"].any(axis=(0, 2))
    assert never.sum() == 6
    for weights in trained(how, "tiny", "embedding"):
        assert np.array_equal(weights.numpy()[never], FILE["start.embedding"][never])
        assert not np.array_equal(weights.numpy()[~never], FILE["start.embedding"][~never])
