"""What a training step needs on one accelerator, by arithmetic: nothing is measured, nothing is allocated."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from memexp.config.train import TrainConfig
from memexp.device import pick_device
from memexp.errors import UserError
from memexp.machine import memory_bytes
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.state import state_bytes

HALF, FULL = 2, 4
"""Bytes of a number in bf16 and in fp32."""


class Item(NamedTuple):
    """Something that is in the device's memory while a step runs."""

    what: str
    bytes: int
    how: str
    lasting: bool = False
    """There from the start to the end, whatever is read."""
    on_host: bool = False
    """In the host's memory, also where the model is on an accelerator."""


def items(config: TrainConfig, *, vocabulary: int) -> list[Item]:
    """Everything a training step holds, for a model whose weights are in fp32.

    Activations are those that the backward pass asks for: in every layer the two normed inputs, queries, keys and values,
    what the heads read, and the hidden layer before and after its ReLU, for every segment of a gradient window; scores of
    attention are not kept, but what is added to them is.
    """
    size = config.size
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary)
        state = model.init_state(1)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        memory, caches = state_bytes(state.memory), state_bytes(state.cache)
    number = HALF if config.precision == "bf16" else FULL
    window = 1 if config.recompute else config.bptt_segments + 1
    inner, tokens = size.heads * size.head_size, config.lanes * config.segment * window
    positions = config.lanes * model.positions * window
    kept = size.layers * (2 * size.width + 4 * inner + 2 * size.feedforward + 2 * size.width)
    logits = min(tokens * vocabulary, 1 << 25)
    lanes = f"{config.lanes} lanes"
    memory_cost = model.memory_cost
    found = [
        Item("parameters", FULL * parameters, f"{parameters:,} x {FULL}", True),
        Item("gradients", FULL * parameters, f"{parameters:,} x {FULL}", True),
        _optimizer(config, model),
        Item("weights in bf16", HALF * parameters if number == HALF else 0, f"{parameters:,} x {HALF}"),
        Item(
            memory_cost.what,
            config.lanes * memory,
            f"{lanes} x {memory:,}"
            + f", {model.memory_slots:,} slots and the segment's slack" * bool(memory_cost.search_bytes),
            True,
            on_host=memory_cost.on_host,
        ),
        Item("caches, before and after", 2 * config.lanes * caches, f"{lanes} x 2 x {caches:,}", True),
        Item("activations", positions * kept * number, f"{positions:,} positions x {kept:,} x {number}"),
        _added_to_scores(config, model, number=number, segments=window),
        Item("logits", 3 * FULL * logits, f"{logits:,} at once x 3 x {FULL}"),
    ]
    search = Item("scores of a search", memory_cost.search_bytes, "a block of queries, and what is selected of it")
    return [*found, search] if search.bytes else found


def _added_to_scores(config: TrainConfig, model: SegmentModel, *, number: int, segments: int) -> Item:
    """The tensor that is added to scores: what distances are worth or, where positions are no bias, what may be seen.

    A fused kernel keeps it for its backward pass, one a lane and layer. Causal attention without a cache needs none.
    """
    pairs = config.lanes * model.positions * (model.window + model.in_sight) * config.size.layers * segments
    each = number * model.bias_heads if model.bias_heads else 1 if model.in_sight else 0
    return Item("bias and mask of attention", pairs * each, f"{pairs:,} pairs of places x {each}")


def _optimizer(config: TrainConfig, model: SegmentModel) -> Item:
    """AdamW keeps two numbers a parameter, Adafactor one for each row and column of a matrix."""
    sizes = [parameter.shape for parameter in model.parameters()]
    if config.optim.name == "adafactor":
        numbers = sum(
            shape.numel() if len(shape) < 2 else shape.numel() // shape[-1] + shape.numel() // shape[-2]
            for shape in sizes
        )
        return Item("optimizer", FULL * numbers, f"Adafactor: {numbers:,} rows and columns x {FULL}", True)
    parameters = sum(shape.numel() for shape in sizes)
    return Item("optimizer", 2 * FULL * parameters, f"AdamW: {parameters:,} x 2 x {FULL}", True)


def total(found: list[Item]) -> int:
    """Bytes of everything."""
    return sum(item.bytes for item in found)


def refuse_what_cannot_fit(config: TrainConfig, *, vocabulary: int) -> None:
    """Refuse a run whose weights, optimizer and state alone are larger than the device's memory.

    Raises:
        UserError: says what takes most of it.
    """
    device = pick_device(config.device)
    on_gpu = device.type == "cuda"
    there = torch.cuda.get_device_properties(device).total_memory if on_gpu else memory_bytes()
    found = [item for item in items(config, vocabulary=vocabulary) if item.lasting and not (on_gpu and item.on_host)]
    if (needed := total(found)) > there:
        most = max(found, key=lambda item: item.bytes)
        raise UserError(
            f"this run needs {needed / 1e9:,.1f} GB before it reads a token, {most.bytes / 1e9:,.1f} GB of it for {most.what} "
            f"({most.how} bytes); expected less than the {there / 1e9:,.1f} GB that are here. Likely cause: mem={config.mem}, "
            f"lanes={config.lanes}, segment={config.segment} or the model"
        )


def page(configs: Sequence[TrainConfig], *, card: float, vocabulary: int) -> str:
    """The arithmetic of some runs for people.

    Args:
        card: what the device has, in GB (10^9 bytes).
    """
    lines = []
    for config in configs:
        found = items(config, vocabulary=vocabulary)
        whole = total(found)
        fits = "fits" if whole <= card * 1e9 else "does not fit"
        lines += [
            f"arch={config.arch.name} size={config.size.name} mem={config.mem:,} lanes={config.lanes} segment={config.segment} "
            f"precision={config.precision}",
            *(f"  {item.what:<24} {item.bytes / 1e9:>7.2f} GB   {item.how}" for item in found),
            f"  {'together':<24} {whole / 1e9:>7.2f} GB   {fits} in {card:g} GB",
            "",
        ]
    return "\n".join(lines[:-1])
