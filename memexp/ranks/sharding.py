"""Weights, gradients and the optimizer's averages shared out over processes (PyTorch's FSDP2), so that a large model fits.

Each matrix of a linear layer is gathered when it is multiplied and dropped afterwards. Everything else (embeddings and output layers
that are the same, norms, gates, scales, initial states) is one group that is gathered for a whole pass. So no layer has to be called as a module, and no model
knows of this.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from memexp.ranks.exchange import rank, ranks


def move_all_but_matrices(whole: nn.Module, device: torch.device) -> None:
    """Move to the device what is gathered for a whole pass. `shard` moves the rest, a matrix at a time, so that all never are there."""
    alone = gathered_alone(whole)
    for module in whole.modules():
        if module not in alone:
            module._apply(lambda x: x.to(device), recurse=False)


def shard(whole: nn.Module, device: torch.device, *, bf16: bool) -> None:
    """Share out the parameters of all that a call of `whole` reads; their optimizer is built afterwards.

    Args:
        whole: of which all but the matrices are on the device.
        bf16: whether linear layers multiply in bf16; gradients are summed in fp32 nevertheless.
    """
    marks = {name: dict(vars(parameter)) for name, parameter in whole.named_parameters()}
    mesh = init_device_mesh(device.type, (ranks(),))
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else MixedPrecisionPolicy()
    )
    for module in gathered_alone(whole):
        module.to(device)
        fully_shard(module, mesh=mesh, mp_policy=policy)
        module.register_forward_hook(_drop_what_was_gathered_again)
        # of the instance, because hooks must be those of `fully_shard`
        module.forward = partial(_product, module)  # type: ignore[method-assign]
    fully_shard(whole, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    # of views among the results of `whole`, which nothing changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for shared in _sharded(whole):
        shared.set_gradient_divide_factor(1.0)  # losses are divided by what all processes score
        shared.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    # they are other objects now, and the optimizer reads what they are for
    for name, parameter in whole.named_parameters():
        vars(parameter).update(marks[name])


def gathered_alone(whole: nn.Module) -> list[nn.Linear]:
    """The modules whose parameters are gathered when they are called; all other parameters are gathered together.

    So is an output layer that is the embedding too: a group of its own would make two parameters of one.
    """
    owners = Counter(id(parameter) for module in whole.modules() for parameter in module.parameters(recurse=False))
    return [
        module
        for module in whole.modules()
        if isinstance(module, nn.Linear) and all(owners[id(each)] == 1 for each in module.parameters(recurse=False))
    ]


def _product(module: nn.Linear, x: Tensor) -> Tensor:
    """What a linear layer computes, with its gradient added up at once, after each segment."""
    weight, bias = (each if each is None else _Apart.apply(each) for each in (module.weight, module.bias))
    return F.linear(x, weight, bias)


class _Apart(torch.autograd.Function):
    """A gathered parameter as this one call reads it.

    If all calls of a gradient window read the parameter itself, autograd would first sum the gradients of all of them, in the
    precision of products, and FSDP2 would hold whole gradients of all matrices until then.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        ctx.parameter = parameter
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        before = ctx.parameter.grad
        ctx.parameter.grad = gradient if before is None else before + gradient


def _drop_what_was_gathered_again(module: nn.Module, *_: Any) -> None:
    """After a forward pass that is made again during the backward pass (`recompute`), FSDP2 itself would keep all matrices."""
    if torch._C._current_graph_task_id() != -1:  # within a backward pass, as FSDP2 asks
        assert isinstance(module, FSDPModule)
        module.reshard()


@contextmanager
def gathered_weights(whole: nn.Module) -> Iterator[None]:
    """All parameters are as in one process inside, so that each process may read as much as it likes; nothing without sharing."""
    modules = _sharded(whole)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(isinstance(module, nn.Linear), recurse=False)
            module.reshard()


def _sharded(whole: nn.Module) -> list[FSDPModule]:
    return [module for module in whole.modules() if isinstance(module, FSDPModule)]


def here(x: Tensor) -> Tensor:
    """The part of a tensor that this process has."""
    return x.to_local() if isinstance(x, DTensor) else x


def shared_like(local: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of this process's rows as what is shared out like a parameter; unchanged if that is not."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def whole(x: Tensor) -> Tensor:
    """All of a tensor, in every process."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def norms(parts: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """The norms of tensors of which each process has the rows that it has of a parameter.

    Args:
        parts: of this process.
        parameters: that of each; either all of them are shared out, or none.
    """
    found = list(torch._foreach_norm(parts))
    if isinstance(parameters[0], DTensor):
        squares = torch.stack(found).square_()
        dist.all_reduce(squares)
        found = list(squares.sqrt_().unbind())
    return found


def rows(count: int, number: int, parts: int) -> slice:
    """Which of `count` rows one of several processes has: as many as the others, but the last ones may have fewer."""
    each = -(-count // parts)
    return slice(min(count, number * each), min(count, (number + 1) * each))


def own_rows(count: int) -> slice:
    """Which rows of a parameter that is shared out this process has."""
    return rows(count, rank(), ranks())
