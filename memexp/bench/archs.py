"""Every architecture at equal width: time and FLOPs per token, parameters, and the bytes of state in a lane."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor
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
    with _Flops() as counter:
        step()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state bytes a lane": state,
        "MFLOP a token, trained": counter.total / (work.lanes * work.segment) / 1e6,
    }


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


_COUNTS: dict[Any, Callable[..., Any]] = {
    **flop_registry,
    # kernels of the CPU, which PyTorch does not count
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Flops(TorchDispatchMode):
    """Counts the FLOPs of matrix products and convolutions, forward and backward.

    PyTorch's FlopCounterMode also tracks modules, and fails if a module is called without gradient.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=result))
        return result
