"""Gates in place of residual connections: how state vectors change by what they have read.

Shapes: B lanes, M state vectors, D width, F inputs of a gate.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.slot_memory import BlockArch
from memexp.model.markers import as_gate
from memexp.model.transformer.attention import linear
from memexp.model.transformer.kept import Kept
from memexp.model.transformer.shape import Shape


class Gated(NamedTuple):
    """The output of a gate."""

    new_BMD: Tensor
    """The new state vectors."""
    keep_BMD: Tensor
    """The factor on the old state vectors."""


LONGEST = 32
"""Windows over which the slowest channels average, where state vectors start as means of the past (`arch.borrow`)."""


def keep_of_means(width: int) -> Tensor:
    """The shares to keep with which channels are means over 1 to `LONGEST` windows, D: a half for one window, more for more.

    Their logarithms are evenly spaced, and their order is random.
    """
    windows_D = LONGEST ** torch.linspace(0, 1, width)[torch.randperm(width)]
    return torch.exp(-1 / (windows_D + 1 / math.log(2) - 1))


class FixedGate(nn.Module):
    """The fixed gate of Hutchins et al. 2022, section 3: c g + z (1 - g), z = W h + b, with one learned g per channel."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.candidate = _candidate(inputs, width)
        self.gate_D = as_gate(torch.randn(width) * 0.1)

    def kept(self, kept: Kept, count: int) -> float:
        """The bytes that the backward pass needs of rewriting so many vectors, in a lane, beside old vectors and what was read."""
        return kept.of_heads(count, len(self.gate_D))

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        keep_D = self.gate_D.sigmoid()
        return Gated(old_BMD * keep_D + self.candidate(read_BMF) * (1 - keep_D), keep_D.expand_as(old_BMD))

    @torch.no_grad()
    def start_from(self, candidate_DF: Tensor, keep_D: Tensor) -> None:
        """Start with this projection as the candidate, and keep these shares of the old vectors."""
        self.candidate.weight.copy_(candidate_DF)
        self.gate_D.copy_(keep_D.logit())

    def start_as_mean(self, keep_D: Tensor) -> None:
        """Start as a mean of what was read from the text, without what was read from the vectors."""
        self.start_from(_of_text(self.candidate), keep_D)


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

    def kept(self, kept: Kept, count: int) -> float:
        """As `FixedGate.kept`: of the candidate and of both gates."""
        return 3 * kept.of_heads(count, len(self.gate_keep_D))

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        keep_BMD = (F.linear(read_BMF, self.gate_keep_DF, self.gate_keep_D) + 1).sigmoid()
        write_BMD = (F.linear(read_BMF, self.gate_write_DF, self.gate_write_D) - 1).sigmoid()
        return Gated(old_BMD * keep_BMD + self.candidate(read_BMF).tanh() * write_BMD, keep_BMD)

    @torch.no_grad()
    def start_from(self, candidate_DF: Tensor, keep_D: Tensor) -> None:
        """Start with this projection as the candidate, keep these shares of the old vectors, and write the rest."""
        self.candidate.weight.copy_(candidate_DF)
        self.gate_keep_D.copy_(keep_D.logit() - 1)
        self.gate_write_D.copy_((1 - keep_D).logit() + 1)

    def start_as_mean(self, keep_D: Tensor) -> None:
        """Start as a mean of what was read from the text, without what was read from the vectors."""
        self.start_from(_of_text(self.candidate), keep_D)


GateClass = type[FixedGate] | type[LstmGate]
GATES: dict[str, GateClass] = {"fixed": FixedGate, "lstm": LstmGate}


class SingleCell(nn.Module):
    """One gate after the feed-forward layer; this layer reads the heads of attention without a projection between."""

    def __init__(self, shape: Shape, gate: GateClass) -> None:
        super().__init__()
        self.rise = linear(2 * shape.heads * shape.head_size, shape.feedforward)
        self.gate = gate(shape.feedforward, shape.width)

    def kept(self, kept: Kept, count: int) -> float:
        """As `FixedGate.kept`, with the feed-forward layer."""
        return kept.of_heads(count, self.rise.out_features) + self.gate.kept(kept, count)

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        gated: Gated = self.gate(old_BMD, F.relu(self.rise(read_BMF)))
        return gated

    def start_as_mean(self, keep_D: Tensor) -> None:
        """Start as a mean of what was read from the text, which the feed-forward layer passes on as it is."""
        self.gate.start_from(_passing_on(self.rise, _of_text(self.rise, outputs=len(keep_D))), keep_D)


class DualCell(nn.Module):
    """A gate after attention and a gate after the feed-forward layer, in place of the two residual connections."""

    def __init__(self, shape: Shape, gate: GateClass) -> None:
        super().__init__()
        self.attention_gate = gate(2 * shape.heads * shape.head_size, shape.width)
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.rise = linear(shape.width, shape.feedforward)
        self.gate = gate(shape.feedforward, shape.width)

    def kept(self, kept: Kept, count: int) -> float:
        """As `FixedGate.kept`, of both gates, the vectors between them and the feed-forward layer."""
        between = kept.residual(count) + kept.normed(count, products=1)
        inner = kept.of_heads(count, self.rise.out_features)
        return self.attention_gate.kept(kept, count) + between + inner + self.gate.kept(kept, count)

    def forward(self, old_BMD: Tensor, read_BMF: Tensor) -> Gated:
        middle_BMD, first_BMD = self.attention_gate(old_BMD, read_BMF)
        new_BMD, second_BMD = self.gate(middle_BMD, F.relu(self.rise(self.norm(middle_BMD))))
        return Gated(new_BMD, first_BMD * second_BMD)

    def start_as_mean(self, keep_D: Tensor) -> None:
        """Start as a mean of what was read from the text, which the second gate moves half the way to its own norm."""
        self.attention_gate.start_as_mean(keep_D)
        candidate_DF = _passing_on(self.rise, torch.eye(len(keep_D)))
        self.gate.start_from(candidate_DF, torch.full_like(keep_D, 0.5))


Cell = FixedGate | LstmGate | SingleCell | DualCell
"""Makes new state vectors of the old ones and of what they read."""


def build_cell(shape: Shape, arch: BlockArch) -> Cell:
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


def _of_text(reading: nn.Linear, *, outputs: int | None = None) -> Tensor:
    """The weight with which a layer that reads vectors and text would give what was read from the text, as it is."""
    own_and_text = reading.in_features
    text = torch.eye(outputs or reading.out_features, own_and_text // 2)
    return F.pad(text, (own_and_text // 2, 0))


@torch.no_grad()
def _passing_on(rise: nn.Linear, weight_DF: Tensor) -> Tensor:
    """Let units of a layer with ReLU compute `weight_DF`, one for each sign; returns the weight that puts them together.

    The other units stay as they are and have no effect at first.
    """
    width = len(weight_DF)
    rise.weight[: 2 * width].copy_(torch.cat([weight_DF, -weight_DF]))
    both_signs = torch.cat([torch.eye(width), -torch.eye(width)], dim=1)
    return F.pad(both_signs, (0, rise.out_features - 2 * width))


def _candidate(inputs: int, width: int) -> nn.Linear:
    layer = nn.Linear(inputs, width)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
