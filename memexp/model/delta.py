"""Gated DeltaNet and its relatives: layers with a matrix that every token corrects, beside attention in a window.

Shapes: B lanes, T tokens, D width, H heads, K size of a key, V size of a value, P channels of queries, keys and values, X decays
of a head: 1, or K with `decay=channel`.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch.matrix_memory import DeltaArch
from memexp.model.markers import as_gate
from memexp.model.matrix_memory.delta_rule import Form, gated_delta_rule
from memexp.model.matrix_memory.recurrent import ConvolvedHeads, GatedOutput, Mixed, Mixer, RecurrentModel
from memexp.model.state import Tree, zero_lanes
from memexp.model.transformer.attention import linear, split_heads
from memexp.model.transformer.kept import FULL, Kept
from memexp.model.transformer.numerics import at_least_fp32
from memexp.model.transformer.shape import Shape
from memexp.model.watching import Gauges, if_watched


class Decay(nn.Module):
    """log alpha = -exp(A) softplus(x W + b) for each head or, with W of low rank, for each row of the matrix (as in KDA)."""

    def __init__(self, shape: Shape, *, rows: int, rank: int) -> None:
        """
        Args:
            rows: X.
            rank: of W; 0: W is whole.
        """
        super().__init__()
        self.rows, channels = rows, shape.heads * rows
        self.steps = nn.Sequential(linear(shape.width, rank), linear(rank, channels)) if rank else linear(shape.width, channels)  # fmt: skip
        # Mamba's start: rates below 16, steps between 0.001 and 0.1
        self.log_rate_H = as_gate(torch.empty(shape.heads).uniform_(0.01, 16).log())
        start_P = torch.empty(channels).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.step_bias_P = as_gate(start_P.expm1().log())  # the inverse of softplus

    def forward(self, x_BTD: Tensor) -> Tensor:
        """log alpha, B H T X."""
        steps_BTP = F.softplus(at_least_fp32(self.steps(x_BTD)) + self.step_bias_P)
        return split_heads(steps_BTP, self.rows) * -self.log_rate_H.exp()[:, None, None]


class GatedDelta(Mixer):
    """The heads of a recurrent layer: projections, short convolution, gates and matrices."""

    def __init__(self, shape: Shape, mem: int, arch: DeltaArch) -> None:
        super().__init__()
        self.number, self.corrects, self.unit_keys = shape.heads, arch.write == "delta", arch.unit_keys
        self.heads = ConvolvedHeads(shape, key_size=mem, value_size=arch.value_factor * mem)
        self.strength = linear(shape.width, shape.heads)
        self.decay = None
        if arch.decay != "none":
            rows, rank = (mem, self.heads.value_size) if arch.decay == "channel" else (1, 0)
            self.decay = Decay(shape, rows=rows, rank=rank)
        # queries are not divided by sqrt(K): what they read is normed, where only eps would notice
        self.output = GatedOutput(shape, value_size=self.heads.value_size, eps=1e-6 * mem)

    def initial(self, lanes: int) -> Tensor:
        """Matrices of zeros, B H K V."""
        sizes = self.heads.key_size, self.heads.value_size
        return self.heads.convolution.weight.new_zeros(lanes, self.number, *sizes)

    def clear(self, memory: Tree, reset_B: Tensor) -> Tensor:
        """Zeros in the lanes where `reset_B` is true."""
        return zero_lanes(memory, reset_B)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor, tail_BWP: Tensor, memory: Tree) -> Mixed:
        """Forget, write and read, token by token."""
        queries, keys, values, tail_BWP = self.heads(x_BTD, tail_BWP, unit=self.unit_keys)
        strength_BHT = at_least_fp32(self.strength(x_BTD)).sigmoid().mT * valid_BT[:, None]
        log_decay_BHTX = None if self.decay is None else self.decay(x_BTD) * valid_BT[:, None, :, None]
        written = gated_delta_rule(
            memory, queries, keys, values, strength_BHT, log_decay_BHTX, corrects=self.corrects
        )  # fmt: skip
        gauges = self._gauges(written.memory_BHKV, strength_BHT, log_decay_BHTX)
        return Mixed(self.output(x_BTD, written.reads_BHTV), tail_BWP, written.memory_BHKV, gauges)

    @if_watched
    def _gauges(self, memory_BHKV: Tensor, strength_BHT: Tensor, log_decay_BHTX: Tensor | None) -> Gauges:
        """Gauges of one layer, means over its lanes.

        - memory_norm: the root mean square of the matrices.
        - memory_strength: beta.
        - memory_kept: alpha, the share that a token leaves of what was written before it.
        """
        gauges = {
            "memory_norm": memory_BHKV.flatten(1).square().mean(-1).sqrt().mean(),
            "memory_strength": strength_BHT.mean(),
        }
        return gauges if log_decay_BHTX is None else gauges | {"memory_kept": log_decay_BHTX.exp().mean()}

    @property
    def form(self) -> Form:
        """The sizes of a head."""
        decays = 0 if self.decay is None else self.decay.rows
        return Form(self.heads.key_size, self.heads.value_size, decays, self.corrects)

    def multiplications(self, length: int) -> float:
        """With the matrices, of each token of a segment."""
        return self.number * self.form.multiplications(length)

    def keeps(self, kept: Kept, length: int) -> tuple[float, float]:
        """With beta, and of decays the steps before and after softplus and the input of the second product."""
        decays = self.form.decays
        own = kept.normed(length, products=3 + (decays > 0))
        own += self.heads.keeps(kept, length, unit=self.unit_keys) + self.output.keeps(kept, length)
        own += length * FULL * self.number * (1 + 2 * decays) + kept.of_heads(length, self.heads.value_size) * (
            decays > 1
        )
        return own, FULL * self.number * self.form.kept(length)

    def holds(self, length: int) -> float:
        """Queries, keys and values, and what the rule makes of them."""
        return self.heads.holds(length) + FULL * self.number * self.form.held(length)


@final
class Delta(RecurrentModel):
    """Gated DeltaNet beside attention in a window (Yang, Kautz, Hatamizadeh 2025, sections 3.1 and 3.4: Gated DeltaNet-H1).

    Every second layer, or those in `arch.recurrent_layers`, have a matrix S (K x V, K = `mem`) for each head instead of
    attention; it is zero at a document's start. With q, k, v = SiLU(conv(x W)), a convolution over four tokens for each channel:

        alpha = exp(-exp(A) softplus(x W_a + b)), beta = sigmoid(x W_b)    (q, k of unit norm; q divided by sqrt(K))
        S <- alpha S
        S <- S + beta k^T (v - k S)                                        (`write=delta`)
        S <- S + beta k^T v                                                (`write=add`)
        output = (RMSNorm(q S) * SiLU(x W_g)) W_o                          (the token reads after its own write)

    Other layers have attention in a window. The rest is as `RecurrentModel` says; with `arch.window=0` all layers are recurrent.
    Relatives are values of the options: `decay=none` is DeltaNet (Yang et al. 2024), `decay=channel` the rule of Kimi Delta Attention
    (Kimi Team 2025), with alpha for each row of S; `write=add unit_keys=false` that of Mamba-2 (Dao, Gu 2024) and, with `decay=none`,
    linear attention.

    *Differs from the papers:*

    - Attention and feed-forward layers are those of the other architectures here; the paper's are Llama's, its window has 2,048 tokens.
    - Nothing is added to the squares of queries and keys before their norm; published code adds 1e-6.
    - By default H K is the width, in the paper three quarters of it. V = `arch.value_factor` K: twice K there, K in KDA.
    - KDA's output gate is a sigmoid of low rank. Mamba-2 has its own step size in the place of beta and alpha's steps, one head of
      keys, a skip connection, and its gate before the norm.
    """

    def __init__(self, shape: Shape, mem: int, arch: DeltaArch) -> None:
        super().__init__(shape, cache=arch.window, memory=mem)
        recurrent = arch.recurrent(shape.layers) if mem else []
        self.add_parts(arch, {layer - 1: GatedDelta(shape, mem, arch) for layer in recurrent})
