"""Published implementations that are packages: in double precision, and with their weights in our models.

Shapes: N segments, B lanes, T tokens, D width, H heads, K head size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape

from ..model.make import make

OUTPUTS = 1e-10
"""Largest absolute difference of outputs in float64."""

SINGLE = 1e-5
"""Largest absolute difference where the package rounds to float32 as it was published."""

BY_DESIGN = 0.05
"""A difference that is meant to be there is larger than this."""

SHAPE = Shape(vocabulary=31, layers=3, width=16, heads=4, head_size=4, feedforward=24, segment=6)
LANES, SEGMENTS = 2, 6
SECOND = 4
"""The segment at which a second document begins."""

Model = TypeVar("Model", bound=SegmentModel)


def package(name: str) -> Any:
    """The package; a test that needs it is skipped where it is not installed."""
    if find_spec(name.partition(".")[0]) is None:
        pytest.skip(
            f"{name} is not installed; `make published` installs it and runs this test", allow_module_level=True
        )
    return import_module(name)


class _Doubled(ModuleType):
    """The module torch, but its types of single precision are those of double precision."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float", "float32") else getattr(torch, name)


@contextmanager
def in_double(*modules: ModuleType) -> Iterator[None]:
    """Let the code of `modules` compute in float64 where it says float32, and make new tensors and models in float64."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "torch", _Doubled("torch"))
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        with double_by_default():
            yield


@contextmanager
def double_by_default() -> Iterator[None]:
    """Make new tensors and models in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def random_weights(module: nn.Module) -> None:
    """Give every parameter random numbers, so large that attention is far from uniform; gains are around 1."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
        parameter.copy_(spread * drawn + float(parameter.dim() == 1))


def build(model: type[Model], *, mem: int, shape: Shape = SHAPE, **options: Any) -> Model:
    """Our model in float64."""
    return make(model, shape, mem=mem, **options).double().eval()


@torch.no_grad()
def fill_attention(attention: Any, *, queries: Tensor, keys: Tensor, values: Tensor, output: Tensor) -> None:
    """Take the weights of an attention layer, outputs times inputs."""
    attention.queries_values.weight.copy_(torch.cat([queries, values]))
    attention.keys.weight.copy_(keys)
    attention.output.weight.copy_(output)


@torch.no_grad()
def fill_feedforward(layer: Any, *, gain: Tensor, rise: Tensor, fall: Tensor) -> None:
    """Take the weights of a feed-forward layer and of the norm before it."""
    layer.feedforward_norm.weight.copy_(gain)
    layer.feedforward.rise.weight.copy_(rise)
    layer.feedforward.fall.weight.copy_(fall)


@torch.no_grad()
def silence_feedforward(model: Any) -> None:
    """Let the layers consist of attention alone."""
    for layer in model.layers:
        layer.feedforward.fall.weight.zero_()


def text(shape: Shape = SHAPE) -> Tensor:
    """Random tokens, N B T."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(shape.vocabulary, (SEGMENTS, LANES, shape.segment), generator=generator)


@torch.no_grad()
def read(ours: SegmentModel, each: Callable[[Any, Any], None] | None = None) -> Tensor:
    """The final activations of the text before the last norm, N B T D; the second document starts at segment SECOND.

    Args:
        each: is called with the output and the state of each segment.
    """
    state, hidden = ours.init_state(LANES), []
    for segment, tokens_BT in enumerate(text(ours.shape)):
        starts_B = torch.full((LANES,), segment in (0, SECOND))
        output = ours(tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), state, starts_B)
        state = output.state
        hidden.append(output.hidden_BTD)
        if each is not None:
            each(output, state)
    return torch.stack(hidden)


def differ(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference."""
    assert ours.shape == theirs.shape
    difference = (ours - theirs).detach().abs().max().item()
    print(f"difference {difference:.1e}, of numbers up to {theirs.detach().abs().max().item():.1f}")
    return difference
