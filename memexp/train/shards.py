"""Weights and the optimizer's averages in a checkpoint: whole, or a part of the rows of each from every process.

Any number of processes reads both: each takes the rows that it has.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from memexp.ranks.exchange import is_first
from memexp.ranks.sharding import here, own_rows, rows, shared_like, whole
from memexp.train.adafactor import MEANS


def common(weights: dict[str, Tensor], optimizer: torch.optim.Optimizer, *, sharded: bool) -> dict[str, Any]:
    """What the checkpoint itself holds: everything, or only what is no tensor if processes write the tensors in parts."""
    if sharded:
        return {"rates": [group["lr"] for group in optimizer.param_groups]}
    return {"model": weights, "optimizer": optimizer.state_dict()}


def local(weights: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What this process has of the weights and averages, by the names of the parameters."""
    averages = {
        name: {key: here(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    return {"model": {name: here(value) for name, value in weights.items()}, "averages": averages}


def whole_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """All weights, in the first process; all processes call this."""
    found = {}
    for name, value in weights.items():
        gathered = whole(value)
        if is_first():
            found[name] = gathered
    return found


def restore(
    weights: dict[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    content: dict[str, Any],
    part: Callable[[int], dict[str, Any]],
    *,
    sharded: bool,
) -> None:
    """Take this process's rows from a checkpoint.

    Args:
        weights: those of the model, which are written to.
        content: the checkpoint.
        part: reads the part of a process that wrote it.

    Raises:
        ValueError: a weight is missing, or has another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied one has two names
    if "model" in content:
        names = {id(parameter): name for name, parameter in parameters.items()}
        order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        saved = content["optimizer"]
        averages = {order[number]: state for number, state in saved["state"].items()}
        rates = [group["lr"] for group in saved["param_groups"]]
        parts, read = 1, lambda number: {"model": content["model"], "averages": averages}
    else:
        parts, read, rates = content["parts"], part, content["rates"]
    pieces: dict[str, list[Tensor]] = {}
    moments: dict[tuple[str, str], list[Any]] = {}
    for number in range(parts):
        written = read(number)
        for name, value in written["model"].items():
            parameter = parameters.get(name)
            if parameter is None:  # a buffer, which all have
                pieces[name] = [value]
                continue
            taken = _taken(len(parameter), number, parts, sharded=sharded)
            pieces.setdefault(name, []).append(value[taken].clone())
            for key, average in written["averages"].get(name, {}).items():
                if _has_rows(key, average):
                    moments.setdefault((name, key), []).append(average[taken].clone())
                else:
                    moments[name, key] = [average]
    with torch.no_grad():
        for name, value in weights.items():
            if name not in pieces:
                raise ValueError(f"it holds no {name}")
            own = torch.cat(pieces[name]) if value.dim() else pieces[name][0]
            if own.shape != here(value).shape:
                raise ValueError(
                    f"{name} has shape {tuple(own.shape)}, but {tuple(here(value).shape)} is expected here"
                )
            here(value).copy_(own)
        for (name, key), found in moments.items():
            parameter, average = parameters[name], found[0]
            if _has_rows(key, average):
                average = shared_like(torch.cat(found).to(parameter.device), parameter)
            elif isinstance(average, Tensor):
                average = average.to(parameter.device)
            optimizer.state[parameter][key] = average
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _has_rows(key: str, average: Any) -> bool:
    """Whether what an optimizer keeps under this key has a row for each row of the parameter; all else is the same in all processes."""
    return key not in MEANS and isinstance(average, Tensor) and average.dim() > 0


def _taken(count: int, number: int, parts: int, *, sharded: bool) -> slice:
    """Which of the rows that one part has this process takes, counted from the first of the part.

    Args:
        count: rows of the whole parameter.
    """
    there, own = rows(count, number, parts), own_rows(count) if sharded else slice(0, count)
    start = min(max(own.start, there.start), there.stop)
    return slice(start - there.start, max(start, min(own.stop, there.stop)) - there.start)
