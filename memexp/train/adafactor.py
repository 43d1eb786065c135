"""Adafactor as published: second moments of matrices as rows and columns, steps relative to the size of the weights."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from memexp.ranks.sharding import here, norms, own_rows, whole

FLOOR = 1e-30
"""Is added to squared gradients, so that a mean over weights without a gradient is not 0."""

SMALLEST_WEIGHTS = 1e-3
"""Weights whose root mean square is smaller are moved as if it was this, so that weights of 0 move at all."""

LARGEST_UPDATE = 1.0
"""The largest root mean square of an update, before it is scaled."""

MEANS = ("rows", "columns")
"""The averages of a factored parameter."""

AT_ONCE = 1 << 26
"""Most numbers of parameters that are moved together, if they are several: a step holds two copies of them."""

DECAY = 0.8
"""At step t an average of squared gradients keeps 1 - t^-DECAY of what it was."""


class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) with a given learning rate, as in the code of the papers.

    At step t, for a parameter p with the gradient g:
        b = 1 - t^-0.8
        v <- b v + (1 - b) (g^2 + 1e-30)            the average of squared gradients
        u = g / sqrt(v);  u <- u / max(1, rms u)
        u <- rate * max(1e-3, rms p) * u
        m <- momentum * m + (1 - momentum) * u      only with momentum; not corrected for its start at 0
        p <- (1 - rate * weight_decay) p - u        with m instead of u if there is momentum
    Of a factored parameter only the means of v along its two largest sides are kept, and v is their outer product, divided
    by the mean of v. The step never waits for the device: all that depends on tensors is computed there. Where processes have a
    part of the rows of a parameter each, all have the whole of these means, and numbers are those of the whole parameter.

    Differs from the paper: the rate is given, and has no limit of its own. Weight decay is PyTorch's, decoupled. Differs
    from `torch.optim.Adafactor`, which has another floor, limits the rate to 1 / sqrt(t), and has no momentum.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        factor_from: int = 1,
    ) -> None:
        """`factor_from`: a parameter is factored if its two largest sides are at least this long."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "factor_from": factor_from}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for together in _parts(sorted(moving, key=lambda parameter: parameter.shape)):
                self._move(group, together, self._scaled(together, group["factor_from"]))
        return loss

    def _scaled(self, parameters: list[Tensor], factor_from: int) -> list[Tensor]:
        """The gradients, each number divided by the root of its average square; those that are alike are computed as one tensor."""
        kept = [self._advance(parameter) for parameter in parameters]
        sides = [factored_sides(parameter.shape, factor_from) for parameter in parameters]
        alike: dict[Any, list[int]] = {}
        for number, (parameter, pair) in enumerate(zip(parameters, sides, strict=True)):
            alone = pair is not None and parameter is not here(parameter)
            like = number if alone else pair and (parameter.shape, parameter.device, kept[number])
            alike.setdefault(like, []).append(number)
        scaled: dict[int, Tensor] = {}
        for like, numbers in alike.items():
            some, pair, share = [parameters[number] for number in numbers], sides[numbers[0]], kept[numbers[0]]
            if pair is None:
                found = self._scaled_whole(some, [kept[number] for number in numbers])
            elif isinstance(like, int):
                found = [self._scaled_own_rows(some[0], *pair, share)]
            else:
                found = self._scaled_factored(some, *pair, share)
            scaled |= dict(zip(numbers, found, strict=True))
        return [scaled[number] for number in range(len(parameters))]

    def _scaled_whole(self, parameters: list[Tensor], kept: list[float]) -> list[Tensor]:
        """Of parameters whose average squares are kept whole."""
        gradients = [here(_gradient(parameter)) for parameter in parameters]
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_add_(squares, FLOOR)
        averages = [here(self._average(parameter, "squares", parameter)) for parameter in parameters]
        torch._foreach_mul_(averages, kept)
        torch._foreach_mul_(squares, [1 - share for share in kept])
        torch._foreach_add_(averages, squares)
        scaled = torch._foreach_sqrt(averages)
        torch._foreach_reciprocal_(scaled)
        torch._foreach_mul_(scaled, gradients)
        return list(scaled)

    def _scaled_factored(self, parameters: list[Tensor], short: int, long: int, kept: float) -> list[Tensor]:
        """Of factored parameters of one shape, of which each process has the whole.

        The factors are applied one after the other: their product may be too small for fp32.
        """
        gradients = torch.stack(
            [_gradient(parameter) for parameter in parameters]
        )  # of all parameters along the first axis
        squares = gradients.square().add_(FLOOR)
        factors = []
        for name, along in zip(MEANS, (long, short), strict=True):
            means = squares.mean(dim=along + 1, keepdim=True)
            averages = [self._average(parameter, name, mean) for parameter, mean in zip(parameters, means, strict=True)]
            torch._foreach_lerp_(averages, list(means), 1 - kept)
            factors.append(torch.stack(averages))
        rows, columns = factors
        scaled = torch.mul(gradients, rows.div_(rows.mean(dim=short + 1, keepdim=True)).rsqrt_(), out=squares)
        return list(scaled.mul_(columns.rsqrt_()))

    def _scaled_own_rows(self, parameter: Tensor, short: int, long: int, kept: float) -> Tensor:
        """As `_scaled_factored`, of a parameter of which each process has some rows, and of its means all."""
        gradient = _gradient(parameter)
        squares = gradient.square().add_(FLOOR)
        means = []
        for name, along in zip(MEANS, (long, short), strict=True):
            mean = whole(squares.sum(dim=along, keepdim=True)).div_(parameter.shape[along])
            means.append(self._average(parameter, name, mean).mul_(kept).add_(mean.mul_(1 - kept)))
        rows, columns = means
        factors = [(rows / rows.mean(dim=short, keepdim=True)).rsqrt_(), columns.rsqrt()]
        factors = [factor if len(factor) == 1 else factor[own_rows(len(factor))] for factor in factors]
        scaled = torch.mul(here(gradient), factors[0], out=here(squares))
        return scaled.mul_(factors[1])

    def _move(self, group: dict[str, Any], parameters: list[Tensor], updates: list[Tensor]) -> None:
        """Clip, scale and average the updates, in place, and subtract them from the parameters.

        Args:
            updates: of the rows that this process has.
        """
        rate, momentum = group["lr"], group["momentum"]
        roots = [1 / math.sqrt(max(1, parameter.numel())) for parameter in parameters]
        own = [here(parameter) for parameter in parameters]
        factors = norms(own, parameters)
        torch._foreach_mul_(factors, roots)
        torch._foreach_clamp_min_(factors, SMALLEST_WEIGHTS)
        sizes = norms(updates, parameters)
        torch._foreach_mul_(sizes, [root / LARGEST_UPDATE for root in roots])
        torch._foreach_clamp_min_(sizes, 1.0)
        torch._foreach_div_(factors, sizes)
        torch._foreach_mul_(factors, rate)
        torch._foreach_mul_(updates, factors)
        if group["weight_decay"]:
            torch._foreach_mul_(own, 1 - rate * group["weight_decay"])
        if momentum:
            averages = [here(self._average(parameter, "momentum", parameter)) for parameter in parameters]
            torch._foreach_mul_(averages, momentum)
            torch._foreach_add_(averages, updates, alpha=1 - momentum)
            updates = averages
        torch._foreach_sub_(own, updates)

    def _advance(self, parameter: Tensor) -> float:
        """Count a step of the parameter; the share that its averages keep at this step."""
        state = self.state[parameter]
        state["step"] = int(state.get("step", 0)) + 1
        return 1.0 - state["step"] ** -DECAY

    def _average(self, parameter: Tensor, name: str, like: Tensor) -> Tensor:
        """The running average of this name, of the shape of another tensor; 0 at first."""
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(like)
        average: Tensor = state[name]
        return average


def _parts(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters that are moved together: as few parts as hold `AT_ONCE` numbers each at most, or one parameter."""
    some: list[Tensor] = []
    for parameter in parameters:
        if some and sum(here(each).numel() for each in (*some, parameter)) > AT_ONCE:
            yield some
            some = []
        some.append(parameter)
    if some:
        yield some


def factored_sides(shape: torch.Size, factor_from: int) -> tuple[int, int] | None:
    """The dimensions of the second largest and the largest side of what is factored; None: squares are kept whole."""
    if len(shape) < 2:
        return None
    short, long = sorted(range(len(shape)), key=lambda side: shape[side])[-2:]
    return (short, long) if shape[short] >= factor_from else None


def state_numbers(shape: torch.Size, *, factor_from: int, momentum: float, own: int) -> int:
    """How many numbers a process keeps for a parameter of this shape.

    Args:
        own: how many numbers of the parameter it has.
    """
    sides = factored_sides(shape, factor_from)
    squares = own if sides is None else sum(shape.numel() // shape[side] for side in sides)
    return squares + (own if momentum else 0)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
