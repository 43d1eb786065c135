"""What a table of runs costs, by arithmetic: parameters, tokens, operations, memory and time. Nothing is measured."""

from dataclasses import replace
from typing import NamedTuple

import torch

from memexp.config.train import TrainConfig
from memexp.cost.memory import items, total
from memexp.model.build import build_model


class Hardware(NamedTuple):
    """An accelerator by its data sheet."""

    name: str
    peak: float
    """Operations a second in bf16, dense."""
    memory: float
    """Bytes."""


HARDWARE = {
    "h100": Hardware("NVIDIA H100 SXM", 989e12, 80e9),
    "a100": Hardware("NVIDIA A100 80GB", 312e12, 80e9),
    "tpu-v3-core": Hardware("TPU v3 core", 61.5e12, 16e9),
    "tpu-v4": Hardware("TPU v4 chip", 275e12, 32e9),
}


class Cost(NamedTuple):
    """One row's run."""

    parameters: int
    tokens: int
    operations_a_token: float
    device_bytes: int
    seconds: float


def vocabulary_of(config: TrainConfig) -> int:
    """Entries of the tokenizer as the settings say; words are as many as the corpus has, at most these."""
    return 256 if config.data.tokenizer.kind == "bytes" else config.data.tokenizer.vocabulary


def operations(config: TrainConfig) -> float:
    """Additions and multiplications a token of training, forward and backward.

    Every weight but the embedding is used once a position, of which memory tokens have some too, the head once a token (of adaptive
    softmax the clusters as often as Zipf's law has their words). A position
    attends to half its window and to the whole cache; backward counts twice, and `recompute` once more. The search scores every
    slot, without backward: a token, or routed a segment.
    """
    size = config.size
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary_of(config))
    inner = size.heads * size.head_size
    weights = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head."))
    attention = 2 * size.layers * inner * ((model.window + 1) / 2 + model.in_sight) if model.window else 0.0
    layers = (weights + attention) * model.positions / config.segment
    return 2 * (
        (4 if config.recompute else 3) * layers + 3 * model.head.multiplications + model.memory_cost.multiplications
    )


def cost(config: TrainConfig, hardware: Hardware, *, devices: int, utilisation: float) -> Cost:
    """One run on that many devices, which share its lanes and nothing else: it takes as long as the one with most of them."""
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary_of(config))
    tokens = config.steps * config.accumulate * config.lanes * config.segment
    each, mine = operations(config), replace(config, lanes=-(-config.lanes // devices), precision="bf16")
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=tokens,
        operations_a_token=each,
        device_bytes=total(items(mine, vocabulary=vocabulary_of(config))),
        seconds=tokens * each / (hardware.peak * utilisation) * mine.lanes / config.lanes,
    )
