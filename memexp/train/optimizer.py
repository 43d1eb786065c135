"""The optimizer and PyTorch's schedule, with a learning rate and weight decay for each kind of parameter."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from memexp.config.groups import Optim
from memexp.model.markers import gate_rate, is_gate, is_scale
from memexp.train.adafactor import Adafactor


def build_optimizer(model: nn.Module, config: Optim) -> torch.optim.Optimizer:
    """The optimizer of a model. Weight decay applies to matrices only; gates and scales may have their own learning rate.

    A step of AdamW has the size of the learning rate, whatever the size of the weight. A scale that starts at 16 and must
    double needs longer steps than a matrix. (Adafactor's steps are relative to the weights.)
    """
    matrices, vectors, gates, scales = [], [], [], []
    faster: dict[float, list[nn.Parameter]] = {}  # gates by a rate of their own
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_scale(parameter) and config.scale_rate != 1:
            scales.append(parameter)
        elif gate_rate(parameter) != 1:
            faster.setdefault(gate_rate(parameter), []).append(parameter)
        elif is_gate(parameter):
            gates.append(parameter)
        elif parameter.dim() >= 2 and name.rsplit(".", 1)[-1] in ("weight", "embedding_VD"):
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    groups = [
        {"params": matrices, "lr": config.rate, "weight_decay": config.weight_decay},
        {"params": vectors, "lr": config.rate, "weight_decay": 0.0},
        {"params": gates, "lr": config.rate * config.gate_rate, "weight_decay": 0.0},
        {"params": scales, "lr": config.rate * config.gate_rate * config.scale_rate, "weight_decay": 0.0},
        *(
            {"params": own, "lr": config.rate * config.gate_rate * rate, "weight_decay": 0.0}
            for rate, own in faster.items()
        ),
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:  # nothing is trained; torch's optimizers refuse to have nothing
        groups = [{"params": [nn.Parameter(torch.empty(0))], "lr": config.rate, "weight_decay": 0.0}]
    if config.name == "adafactor":
        return Adafactor(groups, lr=config.rate, momentum=config.momentum, factor_from=config.factor_from)
    return torch.optim.AdamW(groups, lr=config.rate, betas=(config.betas[0], config.betas[1]), fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, config: Optim, *, steps: int) -> LambdaLR:
    """The schedule that multiplies every group's learning rate by `rate_factor`."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, config, steps=steps))


def rate_factor(step: int, config: Optim, *, steps: int) -> float:
    """The factor on the learning rate at a step, counted from 0.

    Linear warm-up to 1, then constant, or down to `floor` along a cosine or a line. `rsqrt` is the schedule of the papers:
    1 / sqrt(max(step, warm-up)) after the same warm-up, so with 1,000 warm-up steps the factor is at most 0.032.
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
