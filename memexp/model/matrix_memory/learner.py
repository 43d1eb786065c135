"""A small network in each head that learns while it reads: a gradient step with momentum and forgetting for each token.

Shapes: B lanes, H heads, T tokens, C tokens of a chunk, E size of keys and values, F hidden units.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.model.transformer.numerics import at_least_fp32, full_precision
from memexp.model.watching import watched
from memexp.regions import part

NEVER = -30.0
"""The logarithm of a momentum that is none."""


class Learned(NamedTuple):
    """The network of each head: one matrix B H E E, or two, B H E F and B H F E; in at least fp32."""

    weights: tuple[Tensor, ...]
    momenta: tuple[Tensor, ...]
    """The sums of past gradients; empty without momentum."""


class Rates(NamedTuple):
    """What each token decides for each head, B H T."""

    step: Tensor
    """theta; a token with 0 teaches nothing."""
    log_momentum: Tensor | None
    """log eta; None: there is no momentum."""
    log_kept: Tensor | None
    """log (1 - alpha); None: nothing is forgotten."""


class Lesson(NamedTuple):
    """Tokens that are read and taught, B H T E, and their rates."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    rates: Rates

    def part(self, tokens: slice) -> "Lesson":
        """Some of the tokens."""
        found: Lesson = pytree.tree_map(lambda x: None if x is None else x[:, :, tokens], self)
        return found

    def followed_by(self, other: "Lesson") -> "Lesson":
        """These tokens, then those of `other`."""
        joined: Lesson = pytree.tree_map(lambda a, b: None if a is None else torch.cat([a, b], dim=2), self, other)
        return joined


class Taught(NamedTuple):
    """What a segment read, and the networks after it."""

    reads_BHTE: Tensor
    memory: Learned
    errors: list[Tensor]
    """Gauge: the mean squared error of the networks before each chunk, over its tokens and the lanes; empty if nobody watches."""


def teach(memory: Learned, lesson: Lesson, *, chunk: int, start: tuple[Tensor, ...] | None = None) -> Taught:
    """For each token S <- eta S - theta g, M <- (1 - alpha) M + S, and M(q) is read (Behrouz et al. 2025, equations 9 to 14).

    g is the gradient of |M(k) - v|^2 / 2 at the weights of the chunk's start, so C changes the result. M(u) = u W, or
    u + LayerNorm(GELU(u W1) W2). Within a chunk, with D_ij the product of the (1 - alpha) after token j up to i, E_ij that of the
    etas, and 0 for j > i, the weights that token i reads are sums over the tokens before it. So no weights are made for single
    tokens, and gradients need no second derivatives by autograd:

        W_i = d_i W + c_i S - sum over j of (D E)_ij x_j^T g_j             (d_i = D_i0, c = D e, e_i = E_i0; x: the layer's input)

    Args:
        chunk: C. The last chunk of a segment may be shorter.
        start: the weights towards which the networks forget; None: towards 0.
    """
    with part("memory"), full_precision(lesson.keys.device):
        reads, errors = [], []
        for first in range(0, lesson.keys.shape[2], chunk):
            read, memory, error = _chunk(memory, lesson.part(slice(first, first + chunk)), start)
            reads.append(read)
            errors += [error.detach().square().mean()] if watched() else []
        return Taught(torch.cat(reads, dim=2), memory, errors)


def ask(memory: Learned, queries_BHTE: Tensor) -> Tensor:
    """M(q), B H T E, of networks that do not change meanwhile."""
    with part("memory"), full_precision(queries_BHTE.device):
        queries_BHTE = at_least_fp32(queries_BHTE)
        if len(memory.weights) == 1:
            return queries_BHTE @ memory.weights[0]
        first, second = memory.weights
        return queries_BHTE + _normed(F.gelu(queries_BHTE @ first) @ second)[0]


def _chunk(memory: Learned, lesson: Lesson, start: tuple[Tensor, ...] | None) -> tuple[Tensor, Learned, Tensor]:
    """Read and teach one chunk; the third result is M(k) - v before it."""
    q, k, v = (at_least_fp32(x) for x in lesson[:3])
    step, sums = lesson.rates.step[..., None], _Sums(lesson.rates)
    inputs: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    if len(memory.weights) == 1:
        error = k @ memory.weights[0] - v
        inputs, gradients = (k,), (step * error,)
        read = sums.product(q, k, gradients[0], memory, 0, start)
    else:
        first, second = memory.weights
        hidden = k @ first
        active = F.gelu(hidden)
        output = active @ second
        normed, spread = _normed(output)
        error = k + normed - v
        of_output = step * _normed_backward(error, normed, spread)
        of_hidden = torch.ops.aten.gelu_backward(of_output @ second.mT, hidden)
        inputs, gradients = (k, active), (of_hidden, of_output)
        asked = F.gelu(sums.product(q, k, gradients[0], memory, 0, start))
        read = q + _normed(sums.product(asked, active, gradients[1], memory, 1, start))[0]
    return read, sums.after(memory, inputs, gradients, start), error


class _Sums:
    """The factors with which gradients of a chunk's tokens, and the weights and momenta before it, add up at each token."""

    def __init__(self, rates: Rates) -> None:
        kept_BHC = torch.zeros_like(rates.step) if rates.log_kept is None else rates.log_kept.cumsum(-1)
        self.kept = kept_BHC.exp()[..., None]
        """d, B H C 1."""
        self.gradients = _between(kept_BHC)
        """D E, B H C C."""
        self.momentum: Tensor | None = None
        """e, B H C 1."""
        if rates.log_momentum is not None:
            momentum_BHC = rates.log_momentum.cumsum(-1)
            self.momentum, self.repeats = momentum_BHC.exp()[..., None], _between(momentum_BHC)
            self.moved = self.gradients @ self.momentum
            """c, B H C 1."""
            self.gradients = self.gradients @ self.repeats

    def product(
        self,
        x: Tensor,
        inputs: Tensor,
        gradients: Tensor,
        memory: Learned,
        layer: int,
        start: tuple[Tensor, ...] | None,
    ) -> Tensor:
        """x_i W_i for each token i, with the weights of the layer that the token reads."""
        result = self.kept * (x @ memory.weights[layer]) - (self.gradients * (x @ inputs.mT)) @ gradients
        if self.momentum is not None:
            result = result + self.moved * (x @ memory.momenta[layer])
        return result if start is None else result + (1 - self.kept) * (x @ start[layer])

    def after(
        self,
        memory: Learned,
        inputs: tuple[Tensor, ...],
        gradients: tuple[Tensor, ...],
        start: tuple[Tensor, ...] | None,
    ) -> Learned:
        """The networks after the chunk's last token."""
        kept = self.kept[:, :, -1:]
        weights, momenta = [], []
        for layer, (weight, x, gradient) in enumerate(zip(memory.weights, inputs, gradients, strict=True)):
            new = kept * weight - x.mT @ (self.gradients[:, :, -1, :, None] * gradient)
            if self.momentum is not None:
                momentum = memory.momenta[layer]
                new = new + self.moved[:, :, -1:] * momentum
                repeated = x.mT @ (self.repeats[:, :, -1, :, None] * gradient)
                momenta.append(self.momentum[:, :, -1:] * momentum - repeated)
            weights.append(new if start is None else new + (1 - kept) * start[layer])
        return Learned(tuple(weights), tuple(momenta))


def _between(total_BHC: Tensor) -> Tensor:
    """exp(total_i - total_j) for j <= i, else 0, B H C C."""
    return (
        (total_BHC[..., :, None] - total_BHC[..., None, :]).tril().exp().tril()
    )  # first masked: above, it may be infinite


def _normed(x: Tensor) -> tuple[Tensor, Tensor]:
    """LayerNorm without weights, and its factors."""
    factor = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    return (x - x.mean(-1, keepdim=True)) * factor, factor


def _normed_backward(gradient: Tensor, normed: Tensor, factor: Tensor) -> Tensor:
    """The gradient of the input of `_normed`."""
    along = (gradient * normed).mean(-1, keepdim=True)
    return factor * (gradient - gradient.mean(-1, keepdim=True) - normed * along)


class Form(NamedTuple):
    """The sizes of one head and what it does: what `teach` costs."""

    size: int
    """E."""
    hidden: int
    """F; 0 for a matrix."""
    momentum: bool
    to_start: bool
    """Whether the networks forget towards their start."""
    chunk: int
    """C."""

    @property
    def weights(self) -> int:
        return 2 * self.size * self.hidden or self.size**2

    @property
    def sides(self) -> int:
        """Inputs and outputs of the layers."""
        return 2 * (self.size + self.hidden)

    def multiplications(self) -> float:
        """Of each token: at the weights of the chunk's start, of the gradient, to read and to write, and within the chunk."""
        moved = 1 + self.momentum
        of_weights = self.weights * (1 + 2 * moved + self.to_start) + self.size * self.hidden
        return of_weights + self.chunk * self.sides + self.momentum * self.chunk * (self.chunk + 1)

    def kept(self, length: int) -> float:
        """Numbers that the backward pass needs of `length` tokens: queries and keys, and all between, but not what was read."""
        moved, layers = 1 + self.momentum, 2 if self.hidden else 1
        between = (5 if self.momentum else 2) + 2 * layers
        sums = moved + self.to_start
        if self.hidden:
            a_token = self.hidden * (6 + sums + moved) + self.size * (11 + sums + moved)
        else:
            a_token = self.size * (4 + sums + moved)
        chunks = -(-length // self.chunk)
        return length * (a_token + between * self.chunk) + chunks * moved * self.weights
