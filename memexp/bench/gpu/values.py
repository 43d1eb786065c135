"""Whether the device gives the values of the CPU: every architecture, T5's bias, and evaluation in half precision.

Shapes: H heads, T queries, S keys, K head size, R distances.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from memexp.bench.gpu.device import rates, seconds_of
from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.sessions import opened, settings, text
from memexp.bench.measurement import Figure
from memexp.config.introspection import choices_of
from memexp.config.train import TrainConfig
from memexp.data.corpus import TokenDocument
from memexp.eval.score import score_documents
from memexp.model.transformer.numerics import Arithmetic
from memexp.model.transformer.position import ByDistance, T5Bias, bucket, in_order
from memexp.train.loop import update

LOSS = 1e-4
"""Largest relative difference of a loss. The second step starts from weights that already differ by rounding."""
GRADIENT = 2e-3
"""Largest difference of a step's gradients, relative to their norm."""
BIAS = 1e-4
"""Largest relative difference of a gradient of T5's bias, a sum of many numbers."""
OVER_READING = 12
"""Largest wanted time of the backward pass of T5's bias, relative to reading the gradient once."""
HALF_NATS = 0.05
"""Largest difference of mean nats per token in bf16 and in fp32."""


class Steps(NamedTuple):
    """Two steps of training."""

    losses: list[float]
    gradients: list[Tensor]
    """All gradients of each step, one after another, on the CPU."""


def archs(ground: Ground) -> Iterator[Figure]:
    """Losses and gradients of two steps of every architecture in fp32, beside those of the CPU."""
    for name in choices_of("arch"):
        words = (f"arch={name}", *ground.small, "precision=fp32", "data.max_document=0")
        config = settings(ground, *words)
        expected, found = (_two_steps(replace(config, device=device)) for device in ("cpu", ground.device))
        losses = [abs(a - b) / abs(b) for a, b in zip(found.losses, expected.losses, strict=True)]
        gradients = [
            ((a - b).norm() / b.norm()).item() for a, b in zip(found.gradients, expected.gradients, strict=True)
        ]
        yield difference(f"losses of {name}, fp32", _largest(losses), LOSS, "CPU")
        yield difference(f"gradients of {name}, fp32", _largest(gradients), GRADIENT, "CPU")


def difference(what: str, seen: float, tolerated: float, other: str) -> Figure:
    """A figure of a difference, which is wanted to be at most the one that is tolerated."""
    return Figure(what, f"difference from {other}", "tolerated", "", [seen], [tolerated], ratio_at_most=1.0)


def _largest(numbers: list[float]) -> float:
    """The largest number; NaN if there is one, which `max` may lose."""
    return torch.tensor(numbers, dtype=torch.float64).amax().item()


def _two_steps(config: TrainConfig) -> Steps:
    losses, gradients = [], []
    with opened(config) as session:
        for step in range(2):
            torch.manual_seed(step)
            losses.append(update(session).loss)
            parts = [each.grad for each in session.model.parameters() if each.grad is not None]
            gradients.append(torch.cat([part.detach().double().cpu().flatten() for part in parts]))
    return Steps(losses, gradients)


def bias(ground: Ground) -> Iterator[Figure]:
    """The backward pass of T5's bias: its gradient, and its time beside the plain index and beside reading the gradient."""
    scheme = T5Bias(ground.heads, two_sided=False).to(ground.device)
    places = in_order(ground.length, 2 * ground.length, torch.device(ground.device))
    query_HTK = torch.zeros(1, ground.heads, ground.length, 1, device=ground.device)
    torch.manual_seed(0)
    size = (1, ground.heads, ground.length, 2 * ground.length)
    gradient_1HTS = torch.randn(size).to(ground.device)
    bucket_TS = bucket(places.distances().clamp_min(0), buckets=T5Bias.BUCKETS, farthest=T5Bias.FARTHEST)

    def ours() -> Tensor:
        found = scheme(query_HTK, query_HTK, places).bias
        assert isinstance(found, ByDistance)
        return _gradient(found.dense(), scheme, gradient_1HTS)

    def plain() -> Tensor:
        return _gradient(scheme.bias_HR[:, bucket_TS][None], scheme, gradient_1HTS)

    expected_HR = _sums(gradient_1HTS[0], bucket_TS, T5Bias.BUCKETS)
    distance = ((ours().double().cpu() - expected_HR).norm() / expected_HR.norm()).item()
    yield difference("gradient of T5's bias", distance, BIAS, "sums in float64")
    seconds, by_index = seconds_of(ours, ground), seconds_of(plain, ground)
    what = f"T5's bias of {ground.heads} x {ground.length} x {2 * ground.length}, forward and backward"
    yield Figure(what, "ours", "plain index", "s", seconds, by_index, ratio_at_most=1.1)
    floor = rates(ground).floor(bytes=3 * gradient_1HTS.nbytes, operations=0)
    note = "written, and read and written by the backward pass, at the measured rate of a copy"
    yield Figure(
        what, "ours", "moved once", "s", seconds, [floor] * len(seconds), ratio_at_most=OVER_READING, note=note
    )


def _gradient(bias_1HTS: Tensor, scheme: T5Bias, gradient_1HTS: Tensor) -> Tensor:
    [found] = torch.autograd.grad(bias_1HTS, scheme.bias_HR, gradient_1HTS)
    return found


def _sums(gradient_HTS: Tensor, bucket_TS: Tensor, buckets: int) -> Tensor:
    """The sum over each bucket, H R, on the CPU in float64."""
    flat_TS, numbers = bucket_TS.cpu().flatten(), gradient_HTS.double().cpu().flatten(1)
    return torch.stack([torch.bincount(flat_TS, weights=each, minlength=buckets) for each in numbers])


def half_evaluation(ground: Ground) -> Iterator[Figure]:
    """Scores in bf16 of a model that shares keys and values between layers, beside those in fp32."""
    config = settings(ground, "arch=block", "arch.shared_values=true", *ground.small, "data.max_document=0")
    with opened(config) as session:
        vocabulary = session.spec.corpus.vocabulary
        length = 4 * config.segment + 3
        documents = [TokenDocument(str(seed), text(vocabulary, length, seed=seed), length) for seed in range(2)]
        full, half = (
            score_documents(session.model, documents, lanes=2, max_document=0, arithmetic=Arithmetic(bf16=bf16)).nats
            for bf16 in (False, True)
        )
    distance = abs(float(half.mean()) - float(full.mean()))
    yield difference("evaluation in bf16 with shared values, nats per token", distance, HALF_NATS, "fp32")
