"""Estimate what the runs of a table cost: parameters, tokens, operations, memory and time. Nothing is measured."""

from dataclasses import replace
from typing import NamedTuple

import torch

from memexp.config.train import TrainConfig
from memexp.cost.memory import items, total
from memexp.model.build import build_model


class Hardware(NamedTuple):
    """An accelerator as its data sheet describes it."""

    name: str
    peak: float
    """Operations per second in bf16, dense."""
    memory: float
    """Bytes."""


HARDWARE = {
    "h100": Hardware("NVIDIA H100 SXM", 989e12, 80e9),
    "a100": Hardware("NVIDIA A100 80GB", 312e12, 80e9),
    "tpu-v3-core": Hardware("TPU v3 core", 61.5e12, 16e9),
    "tpu-v4": Hardware("TPU v4 chip", 275e12, 32e9),
}


class Cost(NamedTuple):
    """The cost of one run."""

    parameters: int
    tokens: int
    operations_a_token: float
    device_bytes: int
    seconds: float


def vocabulary_of(config: TrainConfig) -> int:
    """The size of the vocabulary in the settings; a tokenizer of words may have fewer entries, as many as the corpus has."""
    return 256 if config.data.tokenizer.kind == "bytes" else config.data.tokenizer.vocabulary


def operations(config: TrainConfig) -> float:
    """Additions and multiplications per token of training, forward and backward.

    - Every weight except the embedding is used once per position; memory tokens have positions too.
    - The head is used once per token, and each cluster of adaptive softmax as often as its words occur by Zipf's law.
    - A position attends to half its window on average, and to the whole cache; where attention has a reach, to as many keys.
    - The backward pass counts twice the forward pass; `recompute` adds one more forward pass.
    - For a memory that is read and written with gradient, the model gives the number.
    - The search scores every slot, once per token or, if routed, once per segment. It has no backward pass.
    """
    size = config.size
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary_of(config))
    inner = size.heads * size.head_size
    weights = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head."))
    attention = 2 * size.layers * inner * model.attended
    layers = (weights + attention) * model.positions / config.segment + model.memory_cost.recurrence
    return 2 * ((4 if config.recompute else 3) * layers + 3 * model.head.multiplications + model.memory_cost.search)


def cost(config: TrainConfig, hardware: Hardware, *, devices: int, utilisation: float) -> Cost:
    """The cost of one run on several devices, which only share its lanes; the device with the most lanes sets the time."""
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary_of(config))
    tokens = config.steps * config.accumulate * config.lanes * config.segment
    operations_a_token = operations(config)
    on_a_device = replace(config, lanes=-(-config.lanes // devices), precision="bf16")
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=tokens,
        operations_a_token=operations_a_token,
        device_bytes=total(items(on_a_device, vocabulary=vocabulary_of(config))),
        seconds=tokens * operations_a_token / (hardware.peak * utilisation) * on_a_device.lanes / config.lanes,
    )
