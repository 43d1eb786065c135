"""What a parameter says of itself to whoever trains it."""

from torch import Tensor, nn


def as_gate(values: Tensor) -> nn.Parameter:
    """A parameter that gates or scales something.

    The optimizer never lets it decay, and may give it a learning rate of its own (`optim.gate_rate`).
    """
    parameter = nn.Parameter(values)
    parameter.is_gate = True  # type: ignore[attr-defined]
    return parameter


def is_gate(parameter: nn.Parameter) -> bool:
    """Whether it was made by `as_gate`."""
    return getattr(parameter, "is_gate", False)
