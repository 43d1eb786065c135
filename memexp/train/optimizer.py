"""Optimizer and schedule, both PyTorch's; here only which parameter gets what."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from memexp.config.groups import Optim
from memexp.model.markers import is_gate


def build_optimizer(model: nn.Module, config: Optim) -> torch.optim.Optimizer:
    """Matrices decay; gains, biases, gates and scales never do, and gates and scales may have a rate of their own."""
    matrices, vectors, gates = [], [], []
    for name, parameter in model.named_parameters():
        if is_gate(parameter):
            gates.append(parameter)
        elif parameter.dim() >= 2 and name.rsplit(".", 1)[-1] in ("weight", "embedding_VD"):
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    groups = [
        {"params": matrices, "lr": config.rate, "weight_decay": config.weight_decay},
        {"params": vectors, "lr": config.rate, "weight_decay": 0.0},
        {"params": gates, "lr": config.rate * config.gate_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.rate)
    return torch.optim.AdamW(groups, lr=config.rate, betas=(config.betas[0], config.betas[1]), fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, config: Optim, *, steps: int) -> LambdaLR:
    """The rate of every group over the steps, as a factor on its own."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, config, steps=steps))


def rate_factor(step: int, config: Optim, *, steps: int) -> float:
    """What the rate is multiplied by at an update, counted from 0.

    Linear warm-up to 1, then down to `floor` by a cosine or a line, or constant. `rsqrt` is the papers':
    1 / sqrt(max(update, warm-up)) after the same warm-up, so with 1,000 warm-up steps the factor is at most 0.032.
    """
    update = step + 1
    warm = min(1.0, update / config.warmup) if config.warmup else 1.0
    if config.schedule == "rsqrt":
        return warm / math.sqrt(max(update, config.warmup, 1))
    if config.schedule == "constant" or warm < 1:
        return warm
    left = 1 - min(1.0, (update - config.warmup) / max(1, steps - config.warmup))
    shape = left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return config.floor + (1 - config.floor) * shape
