"""A small network in each head that learns while it reads: a gradient step with momentum and forgetting for each token.

Shapes: B lanes, H heads, T tokens, C tokens of a chunk, E size of keys and values, F hidden units.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
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
    clipped: list[Tensor]
    """Gauge: the share of each chunk's tokens whose gradient was too long; empty if nobody watches, or without a limit."""


def teach(
    memory: Learned, lesson: Lesson, *, chunk: int, start: tuple[Tensor, ...] | None = None, clip: float = 0.0
) -> Taught:
    """For each token S <- eta S - theta g, M <- (1 - alpha) M + S, and M(q) is read (Behrouz et al. 2025, equations 9 to 14).

    g is the gradient of |M(k) - v|^2 / 2 at the weights of the chunk's start, so C changes the result. M(u) = u W, or
    u + LayerNorm(GELU(u W1) W2). Within a chunk, with D_ij the product of the (1 - alpha) after token j up to i, E_ij that of the
    etas, and 0 for j > i, the weights that token i reads are sums over the tokens before it. So no weights are made for single
    tokens, and gradients need no second derivatives by autograd:

        W_i = d_i W + c_i S - sum over j of (D E)_ij x_j^T g_j             (d_i = D_i0, c = D e, e_i = E_i0; x: the layer's input)

    Below, a descent is -g.

    Args:
        chunk: C. The last chunk of a segment may be shorter.
        start: the weights towards which the networks forget; None: towards 0.
        clip: the largest norm of g over all weights of a head; a longer g is shortened to it. 0: no limit.
    """
    with part("memory"), full_precision(lesson.keys.device):
        reads, errors, clipped = [], [], []
        for first in range(0, lesson.keys.shape[2], chunk):
            read, memory, error, factor = _chunk(memory, lesson.part(slice(first, first + chunk)), start, clip)
            reads.append(read)
            if watched():
                errors.append(error.detach().square().mean())
                clipped += [] if factor is None else [(factor < 1).float().mean()]
        return Taught(torch.cat(reads, dim=2), memory, errors, clipped)


def ask(memory: Learned, queries_BHTE: Tensor) -> Tensor:
    """M(q), B H T E, of networks that do not change meanwhile."""
    with part("memory"), full_precision(queries_BHTE.device):
        queries_BHTE = at_least_fp32(queries_BHTE)
        if len(memory.weights) == 1:
            return queries_BHTE @ memory.weights[0]
        first, second = memory.weights
        return queries_BHTE + _normed(F.gelu(queries_BHTE @ first) @ second)[0]


def _chunk(
    memory: Learned, lesson: Lesson, start: tuple[Tensor, ...] | None, clip: float
) -> tuple[Tensor, Learned, Tensor, Tensor | None]:
    """Read and teach one chunk; then come M(k) - v before it, and by what each gradient was shortened, B H C 1."""
    q, k, v = (at_least_fp32(x) for x in lesson[:3])
    step, sums, length = lesson.rates.step[..., None], _Sums(lesson.rates), k.shape[2]
    inputs: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    k_first, q_first = (torch.cat([k, q], dim=2) @ memory.weights[0]).split(length, dim=2)
    if len(memory.weights) == 1:
        error = k_first - v
        inputs, gradients = (k,), (error,)
    else:
        second = memory.weights[1]
        active = F.gelu(k_first)
        normed, spread = _normed(active @ second)
        error = k + normed - v
        of_output = _normed_backward(error, normed, spread)
        of_hidden = torch.ops.aten.gelu_backward(of_output @ second.mT, k_first)
        inputs, gradients = (k, active), (of_hidden, of_output)
    factor = _shortened(inputs, gradients, clip) if clip else None
    down = -step if factor is None else -step * factor
    descents = tuple(down * gradient for gradient in gradients)
    read = sums.product(q, q_first, k, descents[0], memory, 0, start)
    if len(memory.weights) > 1:
        asked = F.gelu(read)
        read = q + _normed(sums.product(asked, asked @ second, active, descents[1], memory, 1, start))[0]
    return read, sums.after(memory, inputs, descents, start), error, factor


def _shortened(inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...], clip: float) -> Tensor:
    """What makes the norm of each token's gradient, x^T g over all layers, at most `clip`."""
    squares = [
        x.square().sum(-1, keepdim=True) * g.square().sum(-1, keepdim=True)
        for x, g in zip(inputs, gradients, strict=True)
    ]
    return (clip * sum(squares[1:], squares[0]).clamp_min(1e-12).rsqrt()).clamp_max(1)


class _Sums:
    """The factors with which the steps of a chunk's tokens, and the weights and momenta before it, add up at each token."""

    def __init__(self, rates: Rates) -> None:
        kept_BHC = torch.zeros_like(rates.step) if rates.log_kept is None else rates.log_kept.cumsum(-1)
        self.kept = kept_BHC.exp()[..., None]
        """d, B H C 1."""
        self.steps = _between(kept_BHC)
        """D E, B H C C."""
        self.momentum: Tensor | None = None
        """e, B H C 1."""
        if rates.log_momentum is not None:
            momentum_BHC = rates.log_momentum.cumsum(-1)
            self.momentum, self.repeats = momentum_BHC.exp()[..., None], _between(momentum_BHC)
            self.moved = self.steps @ self.momentum
            """c, B H C 1."""
            self.steps = self.steps @ self.repeats

    def product(
        self,
        x: Tensor,
        x_before: Tensor,
        inputs: Tensor,
        descents: Tensor,
        memory: Learned,
        layer: int,
        start: tuple[Tensor, ...] | None,
    ) -> Tensor:
        """x_i W_i for each token i, with the weights of the layer that the token reads; `x_before`: with those before the chunk."""
        result = self.kept * x_before
        if self.momentum is not None:
            result = torch.addcmul(result, self.moved, x @ memory.momenta[layer])
        if start is not None:
            result = torch.addcmul(result, 1 - self.kept, x @ start[layer])
        return _plus_product(result, self.steps * (x @ inputs.mT), descents)

    def after(
        self,
        memory: Learned,
        inputs: tuple[Tensor, ...],
        descents: tuple[Tensor, ...],
        start: tuple[Tensor, ...] | None,
    ) -> Learned:
        """The networks after the chunk's last token."""
        kept = self.kept[:, :, -1:]
        weights, momenta = [], []
        for layer, (weight, x, descent) in enumerate(zip(memory.weights, inputs, descents, strict=True)):
            past = [weight, kept]
            if self.momentum is not None:
                momentum = memory.momenta[layer]
                past += [momentum, self.moved[:, :, -1:]]
                momenta.append(_sum(x, self.repeats[:, :, -1, :, None] * descent, momentum, self.momentum[:, :, -1:]))
            if start is not None:
                past += [start[layer].expand_as(weight), 1 - kept]
            weights.append(_sum(x, self.steps[:, :, -1, :, None] * descent, *past))
        return Learned(tuple(weights), tuple(momenta))


def _plus_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x + a b of each head."""
    return torch.baddbmm(x.flatten(0, 1), a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, x.shape[:2])


def _sum(x: Tensor, y: Tensor, *past: Tensor) -> Tensor:
    """x^T y + the sum of past matrices times their factors.

    Args:
        past: a matrix B H E F, its factor B H 1 1, the next matrix, and so on.
    """
    found: Tensor = _Sum.apply(x, y, *past)
    return found


class _Sum(torch.autograd.Function):
    """As many readings of the matrices as there are matrices, and one more to write the sum; autograd takes three times as many."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, *past: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, *past)
        total = past[0] * past[1]
        for matrix, factor in zip(past[2::2], past[3::2], strict=True):
            total.addcmul_(matrix, factor)
        heads = total.flatten(0, 1)
        torch.baddbmm(heads, x.flatten(0, 1).mT, y.flatten(0, 1), out=heads)  # the form in place is not counted as FLOP
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, y, *past = ctx.saved_tensors
        of_past = []
        for matrix, factor in zip(past[::2], past[1::2], strict=True):
            of_past += [gradient * factor, (gradient * matrix).sum((-2, -1), keepdim=True)]
        return y @ gradient.mT, x @ gradient, *of_past


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
    clips: bool
    """Whether long gradients are shortened."""

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
        a_token += self.clips * (self.hidden + self.size)  # gradients before and after
        chunks = -(-length // self.chunk)
        return length * (a_token + between * self.chunk) + chunks * moved * self.weights
