"""Estimate what the runs of a table cost: parameters, tokens, operations, memory and time. Nothing is measured."""

from dataclasses import replace
from typing import NamedTuple

import torch

from memexp.config.train import TrainConfig
from memexp.cost.memory import items, total
from memexp.cost.sharing import sent
from memexp.model.build import build_model


class Hardware(NamedTuple):
    """An accelerator as its data sheet describes it."""

    name: str
    bf16: float
    """Operations per second in bf16 or fp16, dense, with sums in fp32."""
    tf32: float
    """Operations per second in fp32 with factors rounded to TF32, dense."""
    fp32: float
    """Operations per second in fp32, without TF32."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second that are read from the memory and written to it."""
    runs_memexp: bool = True
    """Whether memexp runs there; else the estimate is arithmetic alone."""


HARDWARE = {
    # NVIDIA's data sheets of the products; rates with sparsity are halved
    "h100": Hardware("NVIDIA H100 SXM", 989e12, 494e12, 67e12, 80e9, 3.35e12),
    "h200": Hardware("NVIDIA H200", 989e12, 494e12, 67e12, 141e9, 4.8e12),
    "b200": Hardware("NVIDIA B200", 2250e12, 1125e12, 75e12, 180e9, 8e12),
    "a100": Hardware("NVIDIA A100 80GB", 312e12, 156e12, 19.5e12, 80e9, 2.039e12),
    # NVIDIA's papers on the architectures GA102, Ada and Blackwell: their tables of specifications, tensor cores with fp32 sums
    "rtx-3090": Hardware("NVIDIA RTX 3090", 71e12, 35.6e12, 35.6e12, 24e9, 0.936e12),
    "rtx-4090": Hardware("NVIDIA RTX 4090", 165e12, 82.6e12, 82.6e12, 24e9, 1.008e12),
    "rtx-5090": Hardware("NVIDIA RTX 5090", 209e12, 104.8e12, 104.8e12, 32e9, 1.792e12),
    # Google Cloud's pages of TPU versions. A TPU multiplies in bf16; a product in fp32 takes six of these, and there is no TF32.
    "tpu-v3-core": Hardware("TPU v3 core", 61.5e12, 61.5e12 / 6, 61.5e12 / 6, 16e9, 0.45e12, runs_memexp=False),
    "tpu-v4": Hardware("TPU v4 chip", 275e12, 275e12 / 6, 275e12 / 6, 32e9, 1.228e12, runs_memexp=False),
}
"""Accelerators by the names that `memexp plan hardware=` takes."""


class Cost(NamedTuple):
    """The cost of one run."""

    parameters: int
    tokens: int
    operations_a_token: float
    device_bytes: int
    """On each of the devices."""
    one_device_bytes: int
    """On one device that reads all lanes."""
    sent: int
    """Bytes that each of the devices sends in a step, and as many that it receives."""
    seconds: float


def vocabulary_of(config: TrainConfig) -> int:
    """The size of the vocabulary in the settings, with the classes; a tokenizer of words may have fewer entries, as the corpus has."""
    words = 256 if config.data.tokenizer.kind == "bytes" else config.data.tokenizer.vocabulary
    return words + classes_of(config)


def classes_of(config: TrainConfig) -> int:
    """The classes that documents end in: the fewest that there can be, because the corpus alone knows how many there are."""
    return 2 if config.data.task == "classify" else 0


class Operations(NamedTuple):
    """Additions and multiplications per token of training, forward and backward, by the precision that they have."""

    in_precision: float
    """In `precision` of the run, with TF32 if it has `tf32`: the layers, the head, and reading and writing a memory."""
    in_fp32: float
    """Always in fp32: the last part of a search, whose scores must not be rounded, and all of some searches."""
    in_half: float
    """Always in fp16 on tensor cores: the first part of an exact search, which multiplies the parts of split numbers."""
    moved: float
    """Bytes per token that a search reads from memory and writes to it."""


def operations(config: TrainConfig) -> float:
    """Additions and multiplications per token of training; see `operations_by_precision`."""
    counted = operations_by_precision(config)
    return counted.in_precision + counted.in_fp32 + counted.in_half


def operations_by_precision(config: TrainConfig) -> Operations:
    """The operations per token of training.

    - Every weight except the embedding is used once per position; memory tokens have positions too.
    - The head is used once per token, and each cluster of adaptive softmax as often as its words occur by Zipf's law.
    - A position attends to half its window on average, and to the whole cache; where attention has a reach, to as many keys.
    - The backward pass counts twice the forward pass; `recompute` adds one more forward pass.
    - For a memory that is read and written with gradient, the model gives the number.
    - The search scores every slot, once per token or, if routed, once per segment; exact search by two or three products on
      tensor cores, and then the best groups of slots again. It has no backward pass.
    """
    size = config.size
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary_of(config), classes=classes_of(config))
    inner = size.heads * size.head_size
    weights = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("head."))
    attention = 2 * model.attention_layers * inner * model.attended
    layers = (weights + attention) * model.positions / config.segment + model.memory_cost.recurrence
    memory = model.memory_cost
    return Operations(
        in_precision=2 * ((4 if config.recompute else 3) * layers + 3 * model.head.multiplications),
        in_fp32=2 * memory.search,
        in_half=2 * memory.search_in_half,
        moved=memory.search_moves,
    )


def computed_in(config: TrainConfig) -> str:
    """The precision of layers and head: the name of a rate of `Hardware`."""
    return "tf32" if config.tf32 and config.precision == "fp32" else config.precision


def cost(config: TrainConfig, hardware: Hardware, *, devices: int, utilisation: float) -> Cost:
    """The cost of one run in its own precision.

    Several devices share its lanes, and its weights with `shard_weights`. The device with the most lanes sets the time, which has no
    part for what they send.
    """
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary_of(config), classes=classes_of(config))
    counted = operations_by_precision(config)
    on_a_device = replace(config, lanes=-(-config.lanes // devices))
    peak: float = getattr(hardware, computed_in(config))
    seconds_a_token = (
        counted.in_precision / peak
        + counted.in_fp32 / hardware.fp32
        + counted.in_half / hardware.bf16
        + counted.moved / hardware.bandwidth
    ) / utilisation
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=config.tokens,
        operations_a_token=operations(config),
        device_bytes=on_device(on_a_device, devices=devices),
        one_device_bytes=on_device(config),
        sent=sent(model, config, devices=devices),
        seconds=config.tokens * seconds_a_token * on_a_device.lanes / config.lanes,
    )


def on_device(config: TrainConfig, *, devices: int = 1) -> int:
    """Bytes on the device itself; a memory in the host's memory is not there.

    Args:
        config: with the lanes of one device.
        devices: how many train the run together.
    """
    parts = items(config, vocabulary=vocabulary_of(config), classes=classes_of(config), devices=devices)
    return total([item for item in parts if not item.on_host])
