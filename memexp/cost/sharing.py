"""What one of several devices that train a run together holds of its weights, and what it sends to the others.

With `shard_weights` each has a part of the rows of every parameter, and gathers the rest when it is read
(`memexp.ranks.sharding`).

Shapes: N devices.
"""

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from torch import nn

from memexp.config.train import TrainConfig
from memexp.model.transformer.kept import FULL, HALF
from memexp.ranks.sharding import gathered_alone


class Weights(NamedTuple):
    """How many numbers the parameters of a model have, and what of them is gathered together."""

    own: int
    """Those that one device holds."""
    own_trained: int
    matrices: list[int]
    """Of each linear layer, in the order in which they are registered; empty if nothing is shared out."""
    rest: int
    """Of all other parameters, which are gathered for a whole pass; 0 if nothing is shared out."""
    trained_matrices: int
    trained_rest: int


def weights(model: nn.Module, config: TrainConfig, *, devices: int) -> Weights:
    """The parameters of a model of which each of so many devices holds a part, or all if they are not shared out."""
    parameters = list(model.parameters())
    if not config.shard_weights or devices == 1:
        return Weights(numbers_of(parameters), numbers_of(parameters, trained=True), [], 0, 0, 0)
    alone = [list(module.parameters()) for module in gathered_alone(model)]
    of_alone = {id(parameter) for group in alone for parameter in group}
    rest = [parameter for parameter in parameters if id(parameter) not in of_alone]
    return Weights(
        numbers_of(parameters, devices) // devices,
        numbers_of(parameters, devices, trained=True) // devices,
        [numbers_of(group, devices) for group in alone],
        numbers_of(rest, devices),
        sum(numbers_of(group, devices, trained=True) for group in alone),
        numbers_of(rest, devices, trained=True),
    )


def sent(model: nn.Module, config: TrainConfig, *, devices: int) -> int:
    """Bytes that each device sends in a training step, and as many that it receives, without those that do not grow with the model.

    A sum of S bytes over all devices is 2 (N - 1) / N S, half of it for partial sums and half for the results; gathering S bytes,
    or a sum of which each device gets a part, is (N - 1) / N S. Weights that are shared out are gathered for each segment: matrices
    twice, and once more with `recompute`, the rest once. Gradients of matrices are summed for each segment, in fp32, and the others once in a
    gradient window. (Adafactor's means of rows and columns are few.)

    Args:
        config: its lanes do not matter.
        devices: N.
    """
    found = weights(model, config, devices=devices)
    number = HALF if config.precision == "bf16" else FULL
    windows = config.accumulate // (config.bptt_segments + 1)
    if not found.rest:
        bytes_ = 2 * FULL * found.own_trained
    else:
        of_matrices = (3 if config.recompute else 2) * number * sum(found.matrices) + FULL * found.trained_matrices
        bytes_ = config.accumulate * (of_matrices + FULL * found.rest) + windows * FULL * found.trained_rest
    return bytes_ * (devices - 1) // devices


def numbers_of(parameters: Iterable[nn.Parameter], devices: int = 1, *, trained: bool = False) -> int:
    """The numbers of parameters, with rows that are added so that all devices have as many."""
    counted = [each for each in parameters if each.numel() and (each.requires_grad or not trained)]
    return sum(devices * ceil(len(each) / devices) * (each.numel() // len(each)) for each in counted)
