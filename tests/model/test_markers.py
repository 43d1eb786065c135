"""What the optimizer knows of a parameter, it knows from the parameter."""

import pytest
import torch
from torch import nn

from memexp.config.arch import ARCHS
from memexp.config.arch.base import AttentionArch
from memexp.config.groups import Optim
from memexp.model.build import build_model
from memexp.model.markers import as_gate, is_gate
from memexp.train.optimizer import build_optimizer

from ..tiny import configure


@pytest.mark.parametrize("arch", ARCHS)
def test_gates_and_scales_are_marked(arch: str) -> None:
    """Against the names that they have in every architecture here."""
    model = build_model(configure(f"arch={arch}"), vocabulary=40)
    marked = {name for name, parameter in model.named_parameters() if is_gate(parameter)}
    begin = ("gate_", "scale_", "rates_", "log_rate_", "step_bias_")
    named = {name for name, _ in model.named_parameters() if name.rpartition(".")[2].startswith(begin)}
    assert marked == named
    assert marked or not issubclass(ARCHS[arch], AttentionArch)


def test_a_gate_of_any_name_never_decays_and_has_its_rate() -> None:
    module = nn.Module()
    module.weight = as_gate(torch.ones(2, 2))
    module.other = nn.Linear(2, 2, bias=False)
    groups = build_optimizer(module, Optim(rate=0.5, gate_rate=3.0, weight_decay=0.1)).param_groups
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert (of[id(module.weight)]["lr"], of[id(module.weight)]["weight_decay"]) == (1.5, 0.0)
    assert (of[id(module.other.weight)]["lr"], of[id(module.other.weight)]["weight_decay"]) == (0.5, 0.1)


def test_the_mark_survives_a_change_of_type() -> None:
    module = nn.Module()
    module.weight = as_gate(torch.ones(2))
    assert is_gate(module.double().weight)
