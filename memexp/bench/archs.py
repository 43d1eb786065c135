"""Every architecture at equal width: time, FLOPs and bytes moved per token, parameters, and the bytes of state in a lane."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from memexp.bench.measurement import Figure, Say, in_turn, timed
from memexp.bench.workload import Work, settings_of, step_of
from memexp.config.commands import BenchConfig
from memexp.config.train import TrainConfig
from memexp.model.build import build_model
from memexp.model.state import state_bytes

BASELINE = "vanilla"


def measure(config: BenchConfig, work: Work, say: Say, archs: Mapping[str, TrainConfig]) -> list[Figure]:
    """The time of a training step on one segment per lane, beside the baseline's; caches and rings are full.

    Args:
        archs: the settings of each architecture; only its options and `mem` are used.
    """
    settings = {name: settings_of(given.arch, mem=given.mem, work=work) for name, given in archs.items()}
    say("warming up")
    steps = {name: step_of(run, work) for name, run in settings.items()}
    seconds = in_turn({name: timed(step) for name, step in steps.items()}, repeats=config.repeats, say=say)
    return [
        Figure(
            what=f"step of {name}, mem={settings[name].mem:,}",
            ours=name,
            other=BASELINE,
            unit="s",
            ours_measured=seconds[name],
            other_measured=seconds[BASELINE],
            facts=_facts(settings[name], work, steps[name])
            | {"microseconds a token, trained": median(seconds[name]) / (work.lanes * work.segment) * 1e6},
        )
        for name in settings
    ]


def _facts(config: TrainConfig, work: Work, step: Callable[[], None]) -> dict[str, float]:
    with torch.device("meta"):
        model = build_model(config, vocabulary=work.vocabulary)
        state = state_bytes(model.init_state(1))
    with _Work() as counter:
        step()
    tokens = work.lanes * work.segment
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state bytes a lane": state,
        "MFLOP a token, trained": counter.flops / tokens / 1e6,
        "kilobytes moved a token, trained": counter.moved / tokens / 1e3,
    }


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


def _solved(_: Tensor, right: Tensor, *, out_val: Tensor, **__: Any) -> int:
    """Each row needs half of the rows before it, on average."""
    return out_val.numel() * right.shape[-2]


_COUNTS: dict[Any, Callable[..., Any]] = {
    **flop_registry,
    # what PyTorch does not count
    torch.ops.aten.linalg_solve_triangular: _solved,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


_CHOOSE = {torch.ops.aten.gather, torch.ops.aten.index, torch.ops.aten.index_select, torch.ops.aten.embedding}
"""Operations that read only as many entries of their first tensor as they make."""


class _Work(TorchDispatchMode):
    """Counts what a step does, forward and backward, operation by operation.

    PyTorch's FlopCounterMode also tracks modules, and fails if a module is called without gradient.
    """

    flops = 0
    """Of matrix products, convolutions and triangular systems."""
    moved = 0
    """Bytes that operations read, once each, and write."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **kwargs, out_val=result))
        if not func.is_view:
            made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
            read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.moved += sum(map(_size, made)) + sum(map(_size, made if func._overloadpacket in _CHOOSE else read))
        return result


def _size(tensor: Tensor) -> int:
    """Bytes; entries that are one in memory count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
