"""Text generation in bf16, in which each token gives attention a new shape."""

import time
from collections.abc import Iterator

import torch

from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.sessions import settings, text
from memexp.bench.measurement import Figure
from memexp.cost.table import vocabulary_of
from memexp.eval.generate import Sampling, generate
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.transformer.numerics import Arithmetic

OVER_AGAIN = 2.0
"""Largest wanted time with new shapes, relative to the same shapes again; a plan for each shape takes many times as long."""
LANES = 4


def generation(ground: Ground) -> Iterator[Figure]:
    """The time to generate tokens whose lengths are new, beside the same lengths again."""
    for name in ("vanilla", "xl", "knn"):
        config = settings(ground, f"arch={name}", *ground.large, "data.max_document=0", "precision=bf16")
        torch.manual_seed(0)
        vocabulary = vocabulary_of(config)
        model = build_model(config, vocabulary=vocabulary).to(ground.device)
        _draw(model, vocabulary, length=3, tokens=2)  # so that loading kernels does not count
        first, again = (_draw(model, vocabulary, length=8, tokens=ground.tokens) for _ in range(2))
        yield Figure(
            f"generation of {ground.tokens} tokens, {name}, bf16", "new shapes", "the same again", "s", [first], [again],
            ratio_at_most=OVER_AGAIN,
        )  # fmt: skip


def _draw(model: SegmentModel, vocabulary: int, *, length: int, tokens: int) -> float:
    """Seconds to continue a random prompt."""
    began = time.perf_counter()
    prompt = text(vocabulary, length)
    for drawn in generate(
        model, prompt, tokens=tokens, lanes=LANES, sampling=Sampling(), seed=0, arithmetic=Arithmetic(bf16=True)
    ):
        if not drawn.nats_B.isfinite().all():
            raise ValueError("a token of probability 0, or NaN, was drawn")
    return time.perf_counter() - began
