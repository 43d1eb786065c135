"""Marks on parameters and modules that training reads."""

from collections.abc import Mapping

from torch import Tensor, nn

Compilable = Mapping[str, str]
"""Type of the class attribute `compilable` of a module: maps methods that torch.compile may compile to parts of a profile.

Such a method only computes: it keeps no state and reads no value on the host.
"""


def as_gate(values: Tensor, *, rate: float = 1.0) -> nn.Parameter:
    """Make a parameter that gates or scales something.

    The optimizer applies no weight decay to it, and may give it another learning rate (`optim.gate_rate`).

    Args:
        rate: further factor on its learning rate, for a gate that would otherwise stay where it starts.
    """
    parameter = nn.Parameter(values)
    parameter.is_gate = True  # type: ignore[attr-defined]
    parameter.gate_rate = rate  # type: ignore[attr-defined]
    return parameter


def as_scale(values: Tensor) -> nn.Parameter:
    """Make a gate that is the learned scale of attention scores; its learning rate is multiplied by `optim.scale_rate` too."""
    parameter = as_gate(values)
    parameter.is_scale = True  # type: ignore[attr-defined]
    return parameter


def is_gate(parameter: nn.Parameter) -> bool:
    """Whether the parameter was made by `as_gate` or `as_scale`."""
    return getattr(parameter, "is_gate", False)


def is_scale(parameter: nn.Parameter) -> bool:
    """Whether the parameter was made by `as_scale`."""
    return getattr(parameter, "is_scale", False)


def gate_rate(parameter: nn.Parameter) -> float:
    """The factor that `as_gate` was given; 1 for all other parameters."""
    return getattr(parameter, "gate_rate", 1.0)
