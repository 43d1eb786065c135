"""What kNN memory needs on one accelerator, by arithmetic: nothing is measured, nothing is allocated."""

from dataclasses import replace
from typing import NamedTuple

import torch

from memexp.config import KnnArch, TrainConfig
from memexp.model.build import build_model
from memexp.model.search import ACCELERATOR_BLOCK_BYTES
from memexp.model.segment import state_bytes

HALF, FULL = 2, 4
"""Bytes of a number in bf16 and in fp32."""


class Item(NamedTuple):
    """Something that is in the device's memory while a step runs."""

    what: str
    bytes: int
    how: str


def items(config: TrainConfig, *, vocabulary: int) -> list[Item]:
    """Everything a training step holds, for a model with kNN memory whose weights and rings are in fp32.

    Activations are those that the backward pass asks for: in every layer the two normed inputs, queries, keys and values,
    what the heads read, and the hidden layer before and after its ReLU; scores of attention are not kept.
    """
    arch, size = config.arch, config.size
    assert isinstance(arch, KnnArch)
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary)
        state = model.init_state(1)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rings, caches = state_bytes(state.memory), state_bytes(state.cache)
    number = HALF if config.precision == "bf16" else FULL
    inner, tokens = size.heads * size.head_size, config.lanes * config.segment
    kept = size.layers * (2 * size.width + 4 * inner + 2 * size.feedforward + 2 * size.width)
    logits = min(tokens * vocabulary, 1 << 25)
    lanes = f"{config.lanes} lanes"
    return [
        Item("parameters", FULL * parameters, f"{parameters:,} x {FULL}"),
        Item("gradients", FULL * parameters, f"{parameters:,} x {FULL}"),
        Item("optimizer", 2 * FULL * parameters, f"AdamW: {parameters:,} x 2 x {FULL}"),
        Item("weights in bf16", HALF * parameters if number == HALF else 0, f"{parameters:,} x {HALF}"),
        Item(
            f"rings, {arch.stored}",
            config.lanes * rings,
            f"{lanes} x {rings:,}, {config.mem:,} slots and the segment's slack",
        ),
        Item("caches, before and after", 2 * config.lanes * caches, f"{lanes} x 2 x {caches:,}"),
        Item("activations", tokens * kept * number, f"{tokens:,} tokens x {kept:,} x {number}"),
        Item("logits", 3 * FULL * logits, f"{logits:,} at once x 3 x {FULL}"),
        Item("scores of a search", 2 * ACCELERATOR_BLOCK_BYTES, "a block of queries, and what is selected of it"),
    ]


def total(found: list[Item]) -> int:
    """Bytes of everything."""
    return sum(item.bytes for item in found)


def planned(settings: TrainConfig, *, slots: int, lanes: int, stored: str) -> TrainConfig:
    """Settings with that much memory, stored like that, and that many lanes, in bf16."""
    assert isinstance(settings.arch, KnnArch)
    return replace(settings, arch=replace(settings.arch, stored=stored), mem=slots, lanes=lanes, precision="bf16")


def page(settings: TrainConfig, *, slots: int, lanes: int, card: float, vocabulary: int) -> str:
    """The arithmetic for people, with rings in fp32 and in bf16.

    Args:
        card: what the device has, in GB (10^9 bytes).
    """
    lines = []
    for stored in ("fp32", "bf16"):
        config = planned(settings, slots=slots, lanes=lanes, stored=stored)
        found = items(config, vocabulary=vocabulary)
        whole = total(found)
        fits = "fits" if whole <= card * 1e9 else "does not fit"
        lines += [
            f"arch=knn size={config.size.name} mem={slots:,} lanes={lanes} segment={config.segment} precision=bf16 arch.stored={stored}",
            *(f"  {item.what:<24} {item.bytes / 1e9:>7.2f} GB   {item.how}" for item in found),
            f"  {'together':<24} {whole / 1e9:>7.2f} GB   {fits} in {card:g} GB",
            "",
        ]
    return "\n".join(lines[:-1])
