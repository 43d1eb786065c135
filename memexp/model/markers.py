"""Marks on parameters that the optimizer reads."""

from torch import Tensor, nn


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
