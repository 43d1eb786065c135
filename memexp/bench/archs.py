"""Every architecture at equal width: time and arithmetic a token, parameters, and what a lane carries."""

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
    """The time of a training step of one segment a lane, beside that of the baseline; caches and rings are full.

    Args:
        archs: the settings of each architecture, of which only its options and `mem` are taken.
    """
    settings = {name: settings_of(each.arch, mem=each.mem, work=work) for name, each in archs.items()}
    say("warming up")
    steps = {name: step_of(each, work) for name, each in settings.items()}
    found = in_turn({name: timed(step) for name, step in steps.items()}, repeats=config.repeats, say=say)
    return [
        Figure(
            what=f"step of {name}, mem={settings[name].mem:,}",
            ours=name,
            other=BASELINE,
            unit="s",
            ours_measured=found[name],
            other_measured=found[BASELINE],
            facts=_facts(settings[name], work, steps[name])
            | {"microseconds a token, trained": median(found[name]) / (work.lanes * work.segment) * 1e6},
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
    # the CPU's kernels, which PyTorch does not count
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Flops(TorchDispatchMode):
    """Counts multiplications and additions of matrix products and convolutions, forward and backward.

    PyTorch's own FlopCounterMode also follows which module they are in, which fails where one is called without gradient.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=found))
        return found
