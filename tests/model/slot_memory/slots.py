"""A memory of a few slots, and the activations of a segment."""

import torch
from torch import Tensor, nn

from memexp.config.arch.slot_memory import ThoughtArch
from memexp.model.transformer.shape import Shape

LANES, LENGTH, SLOTS = 3, 9, 4

SHAPE = Shape(vocabulary=30, layers=2, width=24, heads=2, head_size=8, feedforward=40, segment=LENGTH)

OPTIONS = ThoughtArch(position="none", scale=3.0)


def memory_and_states() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(8)
    memory, states = torch.randn(LANES, SLOTS, SHAPE.width), torch.randn(LANES, LENGTH, SHAPE.width) * 2
    return memory.double(), states.double(), torch.ones(LANES, LENGTH, dtype=torch.bool)


def parts(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in module.state_dict().items() if key.startswith(prefix)}
