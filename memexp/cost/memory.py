"""Estimate the memory of a training step on one accelerator; nothing is measured or allocated."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from memexp.config.train import TrainConfig
from memexp.device import describe, pick_device
from memexp.errors import UserError
from memexp.machine import memory_bytes
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.state import state_bytes
from memexp.train.adafactor import state_numbers

HALF, FULL = 2, 4
"""Bytes of a number in bf16 and in fp32."""


class Item(NamedTuple):
    """One thing that takes memory while a step runs."""

    what: str
    bytes: int
    how: str
    lasting: bool = False
    """Whether it takes memory during the whole run."""
    on_host: bool = False
    """Whether it is in the host's memory even if the model is on an accelerator."""


def items(config: TrainConfig, *, vocabulary: int) -> list[Item]:
    """Everything that takes memory in a training step, for a model with weights in fp32.

    Counted are the activations that the backward pass needs, for every segment of a gradient window. In each layer these
    are the two normalised inputs, queries, keys and values, the output of the heads, and the inner layer before and after
    its ReLU. Attention scores are not kept, but the bias and mask that are added to them are.
    """
    size = config.size
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary)
        state = model.init_state(1)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        memory, caches = state_bytes(state.memory), state_bytes(state.cache)
    number_bytes = HALF if config.precision == "bf16" else FULL
    window = 1 if config.recompute else config.bptt_segments + 1
    inner, tokens = size.heads * size.head_size, config.lanes * config.segment * window
    positions = config.lanes * model.positions * window
    kept = size.layers * (2 * size.width + 4 * inner + 2 * size.feedforward + 2 * size.width)
    logits = min(tokens * vocabulary, 1 << 25)
    lanes = f"{config.lanes} lanes"
    memory_cost = model.memory_cost
    parts = [
        Item("parameters", FULL * parameters, f"{parameters:,} x {FULL}", True),
        Item("gradients", FULL * parameters, f"{parameters:,} x {FULL}", True),
        _optimizer(config, model),
        Item("weights in bf16", HALF * parameters if number_bytes == HALF else 0, f"{parameters:,} x {HALF}"),
        Item(
            memory_cost.what,
            config.lanes * memory,
            f"{lanes} x {memory:,}"
            + f", {model.memory_slots:,} slots and the segment's slack" * bool(memory_cost.search_bytes),
            True,
            on_host=memory_cost.on_host,
        ),
        Item("caches, before and after", 2 * config.lanes * caches, f"{lanes} x 2 x {caches:,}", True),
        Item("activations", positions * kept * number_bytes, f"{positions:,} positions x {kept:,} x {number_bytes}"),
        *_kept_by_memory(memory_cost.kept, tokens=tokens, number_bytes=number_bytes),
        _added_to_scores(config, model, number_bytes=number_bytes, segments=window),
        Item("logits", 3 * FULL * logits, f"{logits:,} at once x 3 x {FULL}"),
    ]
    search = Item("scores of a search", memory_cost.search_bytes, "scores of a block of queries, and the selection")
    return [*parts, search] if search.bytes else parts


def _kept_by_memory(kept: float, *, tokens: int, number_bytes: int) -> list[Item]:
    """The activations of reading and writing the memory, `kept` numbers per token; empty if there are none."""
    if not kept:
        return []
    return [
        Item(
            "activations of the memory",
            int(tokens * kept * number_bytes),
            f"{tokens:,} tokens x {kept:,g} x {number_bytes}",
        )
    ]


def _added_to_scores(config: TrainConfig, model: SegmentModel, *, number_bytes: int, segments: int) -> Item:
    """The tensor that is added to attention scores: the position bias, or without a bias the attention mask.

    A fused kernel keeps it for its backward pass, for each lane and layer. Causal attention without a cache needs none.
    """
    pairs = config.lanes * model.positions * (model.window + model.in_sight) * config.size.layers * segments
    pair_bytes = number_bytes * model.bias_heads if model.bias_heads else 1 if model.in_sight else 0
    return Item("bias and mask of attention", pairs * pair_bytes, f"{pairs:,} pairs of positions x {pair_bytes}")


def _optimizer(config: TrainConfig, model: SegmentModel) -> Item:
    """The optimizer's state: AdamW keeps two numbers per parameter, Adafactor fewer for large matrices."""
    sizes = [parameter.shape for parameter in model.parameters()]
    if config.optim.name == "adafactor":
        momentum, factor_from = config.optim.momentum, config.optim.factor_from
        numbers = sum(state_numbers(shape, factor_from=factor_from, momentum=momentum) for shape in sizes)
        return Item("optimizer", FULL * numbers, f"Adafactor: {numbers:,} x {FULL}", True)
    parameters = sum(shape.numel() for shape in sizes)
    return Item("optimizer", 2 * FULL * parameters, f"AdamW: {parameters:,} x 2 x {FULL}", True)


def total(parts: list[Item]) -> int:
    """The sum of bytes."""
    return sum(item.bytes for item in parts)


def refuse_what_cannot_fit(config: TrainConfig, *, vocabulary: int) -> None:
    """Refuse a run that needs more than the device's memory, for weights, optimizer and state alone or with a step's activations.

    What a GPU leaves in the host's memory is compared with the host's memory.

    Raises:
        UserError: names the largest part.
    """
    device = pick_device(config.device)
    on_gpu = device.type == "cuda"
    parts = items(config, vocabulary=vocabulary)
    here = [item for item in parts if not (on_gpu and item.on_host)]
    elsewhere = [item for item in parts if on_gpu and item.on_host]
    own = describe(device, asked="").memory if on_gpu else memory_bytes()
    for counted, when, available, whose in (
        ([item for item in here if item.lasting], "before it reads a token", own, "this device"),
        (here, "in a training step", own, "this device"),
        (elsewhere, "beside the GPU", memory_bytes(), "this machine"),
    ):
        if (needed := total(counted)) <= available:
            continue
        largest = max(counted, key=lambda item: item.bytes)
        raise UserError(
            f"this run needs {needed / 1e9:,.1f} GB {when}, of which {largest.bytes / 1e9:,.1f} GB are for "
            f"{largest.what} ({largest.how} bytes); expected at most {available / 1e9:,.1f} GB, the memory of {whose}. "
            f"Likely cause: mem={config.mem}, lanes={config.lanes}, segment={config.segment} or the model"
        )


def page(configs: Mapping[str, TrainConfig], *, card: float, vocabulary: int) -> str:
    """The estimates of some runs as text.

    Args:
        configs: the settings of each run, by what is written above its estimate.
        card: the memory of the device, in GB (10^9 bytes).
    """
    lines = []
    for label, config in configs.items():
        parts = items(config, vocabulary=vocabulary)
        whole = total(parts)
        fits = "fits" if whole <= card * 1e9 else "does not fit"
        lines += [
            label,
            *(f"  {item.what:<24} {item.bytes / 1e9:>7.2f} GB   {item.how}" for item in parts),
            f"  {'together':<24} {whole / 1e9:>7.2f} GB   {fits} in {card:g} GB",
            "",
        ]
    return "\n".join(lines[:-1])
