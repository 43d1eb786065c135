"""Coordinate descent against the weights that its published code gives."""

import pytest

from memexp.model.knn_memory import router
from memexp.model.knn_memory.router import descend, soft_weights

from .arrays import Published, difference

PUBLISHED = Published("colt5_coordinate_descent")


def test_the_settings_are_the_published_ones() -> None:
    ours = (router.ITERATIONS, router.SHARPNESS, router.FIRST_SHARPNESS, router.DECAY)
    assert ours == tuple(PUBLISHED.const(name) for name in ("n_iters", "eps", "eps_init", "eps_decay"))


@pytest.mark.parametrize("case", range(PUBLISHED.const("cases")))
def test_weights_are_the_published_ones(case: int) -> None:
    scores_BHR, void_R = PUBLISHED[f"scores.{case}"][None], ~PUBLISHED[f"there.{case}"]
    keep_B11 = PUBLISHED[f"k.{case}"].view(1, 1, 1)
    threshold_BH1 = descend(scores_BHR, void_R.expand_as(scores_BHR), keep_B11)
    weights = soft_weights(scores_BHR, threshold_BH1).masked_fill(void_R, 0)
    assert difference(weights[0], PUBLISHED[f"weights.{case}"]) < 1e-12
