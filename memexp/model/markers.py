"""Marks on parameters and modules that training reads."""

from collections.abc import Mapping

from torch import Tensor, nn

Compilable = Mapping[str, str]
"""The type of a module's class attribute `compilable`: the methods that torch.compile may compile, and for each the part of a
profile that it belongs to. Such a method only computes: it keeps no state and reads no value on the host."""


def as_gate(values: Tensor) -> nn.Parameter:
    """Make a parameter that gates or scales something.

    The optimizer applies no weight decay to it, and may give it another learning rate (`optim.gate_rate`).
    """
    parameter = nn.Parameter(values)
    parameter.is_gate = True  # type: ignore[attr-defined]
    return parameter


def is_gate(parameter: nn.Parameter) -> bool:
    """Whether the parameter was made by `as_gate`."""
    return getattr(parameter, "is_gate", False)
