"""Estimate the memory of a training step on one accelerator; nothing is measured or allocated."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from memexp.config.train import TrainConfig
from memexp.cost.sharing import Weights, numbers_of, weights
from memexp.device import describe, pick_device
from memexp.errors import UserError
from memexp.eval.room import room
from memexp.machine import memory_bytes
from memexp.model.build import build_model
from memexp.model.segment import MemoryCost, SegmentModel
from memexp.model.state import state_bytes
from memexp.model.transformer.by_lanes import AT_ONCE
from memexp.model.transformer.head import LOGITS_AT_ONCE
from memexp.model.transformer.kept import FULL, HALF
from memexp.train.adafactor import state_numbers

SHARE = 0.9
"""The share of a device's memory that a plan may fill; the rest is for what is not counted, such as kernels and gaps."""


class Item(NamedTuple):
    """One thing that takes memory while a step runs."""

    what: str
    bytes: int
    how: str
    lasting: bool = False
    """Whether it takes memory during the whole run."""
    on_host: bool = False
    """Whether it is in the host's memory even if the model is on an accelerator."""


def items(config: TrainConfig, *, vocabulary: int, classes: int = 0, devices: int = 1) -> list[Item]:
    """Everything that takes memory in a training step, for a model with weights in fp32, at the moment when it takes most.

    This is when the backward pass of the last segment begins: then the activations of every segment of a gradient window are
    there. What only replaces them later is not counted beside them: the gradients of a step with one window, and the optimizer.
    With `recompute` the activations of one segment are there at a time, beside the gradients of the segments after it and the
    states at all borders of the window, from which segments are computed again.

    With `shard_weights`, matrices are taken to be used in the order in which they are registered. When the backward pass is at one of
    them, this one and the one before are gathered, its gradient is whole, and so is the sum of that of the one after.

    Args:
        config: with the lanes of one device.
        vocabulary: tokens of the corpus, with the classes that its documents end in.
        classes: how many of these are classes.
        devices: how many train the run together.
    """
    with torch.device("meta"):
        model = build_model(config, vocabulary=vocabulary, classes=classes)
        state = model.init_state(1)
        memory, caches = state_bytes(state.memory), state_bytes(state.cache)
    held_weights = weights(model, config, devices=devices)
    parameters, trained = held_weights.own, held_weights.own_trained
    half = config.precision == "bf16"
    window = config.bptt_segments + 1
    at_once = 1 if config.recompute else min(window, config.accumulate)
    lanes = f"{config.lanes} lanes"
    memory_cost = model.memory_cost
    copies = memory_cost.copies
    kept = _activations(model, lanes=config.lanes, segments=at_once, half=half) if trained else []
    again = _made_again(model, lanes=config.lanes, half=half) if trained else Item("bias made again", 0, "")
    held = int(model.cache_bytes(caches, half=half))
    tokens = config.lanes * config.segment
    of_one = total(kept) // at_once
    kept += _losses(model, tokens=tokens, segments=at_once - 1, half=half) if trained else []
    state_before = config.lanes * (caches + memory * (copies - 1))
    of_logits = _logits(model, tokens=tokens, number_bytes=HALF if half else FULL, instead=state_before)
    words = FULL * model.head.most_logits * config.size.width * model.head.embedding_VD.requires_grad
    gathered = _gathered(held_weights, words=words, half=half)
    # the logits are gone when attention and products of layers begin
    of_logits = max(of_logits, again, gathered, key=lambda item: item.bytes)
    gradients = FULL * trained
    # The vectors of words have two gradients, of the embedding and of the output layer, which are summed last. If other weights are
    # shared out, the sum is whole as well.
    words *= 3 if held_weights.rest else 2
    of_windows_before = gradients if config.accumulate > at_once else 0
    # with recompute, the backward pass of later segments has been made
    if config.recompute and min(window, config.accumulate) > 1:
        of_windows_before += FULL * held_weights.trained_rest
    # when the backward pass of the last segment ends, what it needed is gone
    gone = of_one + of_logits.bytes
    at_the_end = gradients - of_windows_before + words
    beside = of_windows_before + max(0, at_the_end - gone)
    search = _search(memory_cost, kept, lanes=config.lanes, logits=of_logits.bytes, segments=at_once)
    parts = [
        Item("parameters", FULL * parameters, f"{parameters:,} x {FULL}", True),
        Item(
            "gradients",
            beside,
            f"{trained:,} x {FULL}" + f", but {gradients - beside:,} replace activations" * (beside < gradients),
        ),
        _optimizer(config, model, held_weights, devices=devices),
        _gathered_for_a_pass(held_weights)
        if held_weights.rest
        else Item("weights in bf16", HALF * parameters if half else 0, f"{parameters:,} x {HALF}"),
        Item(
            memory_cost.what,
            copies * config.lanes * memory,
            f"{lanes} x {'2 x ' * (copies - 1)}{memory:,}"
            + f", {model.memory_slots:,} slots and the segment's slack" * bool(memory_cost.search_bytes),
            True,
            on_host=memory_cost.on_host,
        ),
        Item("caches, before and after", config.lanes * held, f"{lanes} x {held:,}", True),
        *_borders(config, state=caches + memory * (copies - 1)),
        *kept,
        of_logits,
    ]
    parts = [*parts, search] if memory_cost.search_bytes else parts
    return [*parts, *_validation(config, model, held_weights, parts, devices=devices)]


def _validation(
    config: TrainConfig, model: SegmentModel, held: Weights, step: list[Item], *, devices: int
) -> list[Item]:
    """What scoring the validation split needs above a step. The state of training, the optimizer and gradients are there too."""
    if not config.validate_every:
        return []
    lanes = -(-min(config.eval.lanes, config.eval.documents or config.eval.lanes) // devices)
    half = config.precision == "bf16"
    with torch.device("meta"):
        needs = room(model, lanes=lanes, half=half, on_gpu=True)
    gathered = numbers_of(model.parameters()) - held.own if held.rest else 0
    here = [item for item in step if not item.on_host]
    lasting = total([item for item in here if item.lasting]) + FULL * (held.own_trained + gathered)
    how = f"{needs.here:,} in {lanes} lanes, with what lasts, without a step"
    items = [Item("validation", max(0, lasting + needs.here - total(here)), how)]
    if needs.elsewhere:
        items.append(
            Item("memory in validation", needs.elsewhere, f"{lanes} lanes, and one tensor twice", on_host=True)
        )
    return [item for item in items if item.bytes]


def _borders(config: TrainConfig, *, state: int) -> list[Item]:
    """With `recompute`: the states of one lane at the borders of a window, the one that is computed again, and its gradient."""
    segments = min(config.bptt_segments + 1, config.accumulate)
    if not config.recompute or segments == 1:
        return []
    states = segments + 1
    return [
        Item("states between segments", config.lanes * states * state, f"{config.lanes} lanes x {states} x {state:,}")
    ]


def _activations(model: SegmentModel, *, lanes: int, segments: int, half: bool) -> list[Item]:
    """What the backward pass needs of so many segments, as the model says."""
    found = model.activations(half=half)
    named = {
        "activations": found.layers,
        "activations of the memory": found.memory,
        "bias and mask of attention": found.added_to_scores
        + found.by_distance * (lanes * found.by_distance_kept <= AT_ONCE),
    }
    how = f"{segments} segments x {lanes} lanes x "
    shared = {"activations of the memory": found.in_all_lanes}
    items = [
        Item(
            what,
            int(segments * (lanes * each + shared.get(what, 0))),
            f"{how}{each:,.0f}" + f", and {found.in_all_lanes:,.0f} for all lanes" * (shared.get(what, 0) > 0),
        )
        for what, each in named.items()
    ]
    return [item for item in items if item.bytes or item.what != "activations of the memory"]


def _made_again(model: SegmentModel, *, lanes: int, half: bool) -> Item:
    """What the backward pass of attention needs if it makes the bias of a part of the lanes anew.

    The bias and mask of this part, and the bias of a lane in fp32, each with its gradient; and the place of each pair's number.
    """
    found = model.activations(half=half)
    lane = found.by_distance_at_once
    if lanes * found.by_distance_kept <= AT_ONCE:
        return Item("bias made again", 0, "")
    part = min(lanes, max(1, AT_ONCE // int(lane))) * lane if lane <= AT_ONCE else AT_ONCE
    number = HALF if half else FULL
    in_fp32, places = min(lane, part) * FULL / number, FULL * lane / model.shape.heads / number
    copies = found.by_distance_copies
    gone = lanes * found.after_attention
    how = (
        f"{copies} x ({part:,.0f} for some lanes + {in_fp32:,.0f} for one) + {places:,.0f}, in place of the logits and of {gone:,.0f} that "
        "follow the last attention"
    )
    return Item("bias made again", max(0, int(copies * (part + in_fp32) + places - gone)), how)


def _losses(model: SegmentModel, *, tokens: int, segments: int, half: bool) -> list[Item]:
    """What the losses of the segments before the last need, if they need not be computed again: a softmax, and the words in bf16."""
    words = model.head.most_logits
    if not segments or tokens * words > LOGITS_AT_ONCE:
        return []
    each = FULL * tokens * words + HALF * words * model.shape.width * half
    return [Item("losses of other segments", segments * each, f"{segments} x {each:,}")]


def _logits(model: SegmentModel, *, tokens: int, number_bytes: int, instead: int) -> Item:
    """What the loss needs: logits of a piece of the tokens, their softmax and their gradient, and the gradient of the words' vectors.

    The latter is summed over pieces, so that a sum and what is added to it are there.

    Args:
        instead: bytes of the state before the segment, which is there until the gradients are.
    """
    words = model.head.most_logits
    logits = min(tokens * words, LOGITS_AT_ONCE)
    vectors, gradients = words * model.shape.width, 2 if tokens * words > LOGITS_AT_ONCE else 1
    gradients *= model.head.embedding_VD.requires_grad
    later = FULL * logits + gradients * number_bytes * vectors
    how = f"{logits:,} at once x 2 x {FULL}, gradients of them and of {vectors:,} numbers in place of the state before"
    return Item("logits", 2 * FULL * logits + max(0, later - instead), how)


def _search(cost: MemoryCost, kept: list[Item], *, lanes: int, logits: int, segments: int) -> Item:
    """What the last search of a step needs, above what is kept of the layers after it and of the output layer."""
    later = int(total(kept) / segments * (1 - cost.search_at)) + logits
    needed = cost.scratch(lanes)
    how = f"{needed:,} for scores or copies of pairs, without what is there only later"
    return Item("scores of a search", max(0, needed - later), how)


def _gathered_for_a_pass(held: Weights) -> Item:
    """All but the matrices."""
    return Item("weights gathered", FULL * held.rest, f"{held.rest:,} x {FULL}, of all but the matrices")


def _gathered(held: Weights, *, words: int, half: bool) -> Item:
    """What the backward pass of a linear layer needs if weights are shared out.

    Args:
        words: bytes of the gradient of the words' vectors, which the output layer has made.
    """
    number, before, after = HALF if half else FULL, [0, *held.matrices], [*held.matrices[1:], 0]
    each = zip(before, held.matrices, after, strict=False)
    most = max((number * (first + 2 * here) + FULL * last for first, here, last in each), default=-words)
    largest = max(held.matrices, default=0)
    how = f"two, a gradient and a sum of gradients, of at most {largest:,} numbers, and {words:,} of words, in place of the logits"
    return Item("matrices gathered", words + most, how)


def _optimizer(config: TrainConfig, model: SegmentModel, held: Weights, *, devices: int) -> Item:
    """The optimizer's state: AdamW keeps two numbers per parameter, Adafactor fewer for large matrices."""
    if config.optim.name == "adafactor":
        momentum, factor_from, parts = config.optim.momentum, config.optim.factor_from, devices if held.rest else 1
        numbers = sum(
            state_numbers(
                each.shape, factor_from=factor_from, momentum=momentum, own=numbers_of([each], parts) // parts
            )
            for each in model.parameters()
            if each.requires_grad
        )
        return Item("optimizer", FULL * numbers, f"Adafactor: {numbers:,} x {FULL}", True)
    parameters = held.own_trained
    return Item("optimizer", 2 * FULL * parameters, f"AdamW: {parameters:,} x 2 x {FULL}", True)


def total(parts: list[Item]) -> int:
    """The sum of bytes."""
    return sum(item.bytes for item in parts)


def refuse_what_cannot_fit(config: TrainConfig, *, vocabulary: int, classes: int = 0, devices: int = 1) -> None:
    """Refuse a run that needs more than the device's memory, for weights, optimizer and state alone or with a step's activations.

    What a GPU leaves in the host's memory is compared with the host's memory.

    Args:
        config: with the lanes of one device.
        vocabulary: tokens of the corpus, with the classes that its documents end in.
        classes: how many of these are classes.
        devices: how many train the run together.

    Raises:
        UserError: names the largest part.
    """
    device = pick_device(config.device)
    on_gpu = device.type == "cuda"
    parts = items(config, vocabulary=vocabulary, classes=classes, devices=devices)
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
        fits = "fits" if whole <= SHARE * card * 1e9 else "does not fit"
        lines += [
            label,
            *(f"  {item.what:<24} {item.bytes / 1e9:>7.2f} GB   {item.how}" for item in parts),
            f"  {'together':<24} {whole / 1e9:>7.2f} GB   {fits} in {SHARE:.0%} of {card:g} GB",
            "",
        ]
    return "\n".join(lines[:-1])
