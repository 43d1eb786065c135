"""Gates in place of residual connections: how state vectors change by what they have read.

Shapes: B lanes, M state vectors, D width, F inputs of a gate.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch import BlockArch
from memexp.model.markers import as_gate
from memexp.model.transformer.attention import linear
from memexp.model.transformer.shape import Shape


class Gated(NamedTuple):
    """The output of a gate."""

    new_BMD: Tensor
    """The new state vectors."""
    keep_BMD: Tensor
    """The factor on the old state vectors."""


class FixedGate(nn.Module):
    """The fixed gate of Hutchins et al. 2022, section 3: c g + z (1 - g), z = W h + b, with one learned g per channel."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.candidate = _candidate(inputs, width)
        self.gate_D = as_gate(torch.randn(width) * 0.1)

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        keep_D = self.gate_D.sigmoid()
        return Gated(old_BMD * keep_D + self.candidate(read_BMF) * (1 - keep_D), keep_D.expand_as(old_BMD))


class LstmGate(nn.Module):
    """The LSTM gate of Hutchins et al. 2022, section 3: c f + z i, z = tanh(W h + b), with sigmoids f and i of h.

    At first f is near sigmoid(1) and i near sigmoid(-1), so that most of the old state is kept.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.candidate = _candidate(inputs, width)
        # small kernels, because gates far from their bias at the start can teach the network to ignore the state
        spread = (0.1 / inputs) ** 0.5
        self.gate_keep_DF = as_gate(torch.randn(width, inputs) * spread)
        self.gate_keep_D = as_gate(torch.randn(width) * 0.1)
        self.gate_write_DF = as_gate(torch.randn(width, inputs) * spread)
        self.gate_write_D = as_gate(torch.randn(width) * 0.1)

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        keep_BMD = (F.linear(read_BMF, self.gate_keep_DF, self.gate_keep_D) + 1).sigmoid()
        write_BMD = (F.linear(read_BMF, self.gate_write_DF, self.gate_write_D) - 1).sigmoid()
        return Gated(old_BMD * keep_BMD + self.candidate(read_BMF).tanh() * write_BMD, keep_BMD)


GateClass = type[FixedGate] | type[LstmGate]
GATES: dict[str, GateClass] = {"fixed": FixedGate, "lstm": LstmGate}


class SingleCell(nn.Module):
    """One gate after the feed-forward layer; this layer reads the heads of attention without a projection between."""

    def __init__(self, shape: Shape, gate: GateClass) -> None:
        super().__init__()
        self.rise = linear(2 * shape.heads * shape.head_size, shape.feedforward)
        self.gate = gate(shape.feedforward, shape.width)

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        gated: Gated = self.gate(old_BMD, F.relu(self.rise(read_BMF)))
        return gated


class DualCell(nn.Module):
    """A gate after attention and a gate after the feed-forward layer, in place of the two residual connections."""

    def __init__(self, shape: Shape, gate: GateClass) -> None:
        super().__init__()
        self.attention_gate = gate(2 * shape.heads * shape.head_size, shape.width)
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.rise = linear(shape.width, shape.feedforward)
        self.gate = gate(shape.feedforward, shape.width)

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        middle_BMD, first_BMD = self.attention_gate(old_BMD, read_BMF)
        new_BMD, second_BMD = self.gate(middle_BMD, F.relu(self.rise(self.norm(middle_BMD))))
        return Gated(new_BMD, first_BMD * second_BMD)


def build_cell(shape: Shape, arch: BlockArch) -> nn.Module:
    """Build the module that makes new state vectors of the old ones and what they read; `skip` is only a gate."""
    gate = GATES[arch.gate_kind]
    match arch.gates:
        case "skip":
            return gate(2 * shape.heads * shape.head_size, shape.width)
        case "single":
            return SingleCell(shape, gate)
        case "dual":
            return DualCell(shape, gate)
    raise ValueError(f"unknown arrangement of gates {arch.gates!r}")


def _candidate(inputs: int, width: int) -> nn.Linear:
    layer = nn.Linear(inputs, width)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
