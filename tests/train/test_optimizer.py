"""Schedules against numbers worked out by hand, and which parameter gets what."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from memexp.config.groups import Optim
from memexp.model.build import build_model
from memexp.train.optimizer import build_optimizer, build_schedule, rate_factor

from ..tiny import configure
from .conftest import Train, weights


def factors(config: Optim, updates: list[int], *, steps: int) -> list[float]:
    """The factor at updates that are counted from 1."""
    return [rate_factor(update - 1, config, steps=steps) for update in updates]


HAND = [
    ("cosine", [1, 2, 4, 6, 8, 10, 12], [0.25, 0.5, 1.0, 0.1 + 0.9 * (1 + 0.5**0.5) / 2, 0.55, 0.1 + 0.9 * (1 - 0.5**0.5) / 2, 0.1]),
    ("linear", [1, 3, 4, 6, 8, 12], [0.25, 0.75, 1.0, 0.775, 0.55, 0.1]),
    ("constant", [1, 4, 5, 12], [0.25, 1.0, 1.0, 1.0]),
    ("rsqrt", [1, 2, 4, 9, 16], [0.125, 0.25, 0.5, 1 / 3, 0.25]),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "updates", "expected"), HAND, ids=[row[0] for row in HAND])
def test_schedules(schedule: str, updates: list[int], expected: list[float]) -> None:
    config = Optim(schedule=schedule, warmup=4, floor=0.1)
    assert factors(config, updates, steps=12) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "rsqrt"])
def test_without_warm_up_the_first_update_is_not_zero(schedule: str) -> None:
    config = Optim(schedule=schedule, warmup=0, floor=0.0)
    first, last = factors(config, [1, 1], steps=1)[0], factors(config, [10], steps=10)[0]
    assert first == (1.0 if schedule in ("constant", "rsqrt") else 0.0)  # one step alone is the last one
    assert last == pytest.approx({"constant": 1.0, "rsqrt": 10**-0.5}.get(schedule, 0.0))


def test_the_papers_rate_is_at_most_a_thirtieth() -> None:
    config = configure("optim=adafactor").optim
    peak = max(factors(config, list(range(1, 3001)), steps=3000))
    assert config.rate * peak == pytest.approx(1 / math.sqrt(1000))


def test_the_schedule_multiplies_every_group_from_the_first_update_on() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 1.0}, {"params": [model.bias], "lr": 0.5}])
    schedule = build_schedule(optimizer, Optim(schedule="constant", warmup=4), steps=10)
    seen = []
    for _ in range(5):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert seen == [[0.25, 0.125], [0.5, 0.25], [0.75, 0.375], [1.0, 0.5], [1.0, 0.5]]


@pytest.mark.parametrize("arch", ["vanilla", "xl", "knn"])
@pytest.mark.parametrize("position", ["t5", "xl"])
def test_matrices_decay_and_nothing_else(arch: str, position: str) -> None:
    config = configure(f"arch={arch}", f"arch.position={position}", "arch.key_smear=true", "optim.gate_rate=0.1")
    model = build_model(config, vocabulary=30)
    groups = build_optimizer(model, config.optim).param_groups
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    decaying = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    decaying.add(id(model.head.embedding_VD))
    own = {id(layer.attention.scale_H) for layer in model.layers}
    own |= {id(parameter) for name, parameter in model.named_parameters() if name.endswith(".gate_H")}
    assert len(found) == len(list(model.parameters()))  # each exactly once
    for name, parameter in model.named_parameters():
        rate, decay = found[id(parameter)]
        assert decay == (0.01 if id(parameter) in decaying else 0.0), name
        assert rate == pytest.approx(1e-3 if id(parameter) in own else 1e-2), name
    names = {name.rsplit(".", 1)[-1] for name, parameter in model.named_parameters() if found[id(parameter)][1] == 0.0}
    assert {"scale_H", "smear_D", "weight"} <= names  # the weights are the norms' gains
    assert ("bias_HR" if position == "t5" else "place_H1K") in names


@pytest.mark.parametrize("arch", ["vanilla", "xl", "knn"])
def test_adafactor_runs(arch: str, run: Train) -> None:
    short = run(f"arch={arch}", "optim=adafactor", "steps=1", "log_every=1")
    longer = run(f"arch={arch}", "optim=adafactor", "steps=3", "log_every=1")
    assert longer.metrics[0]["loss"] == short.metrics[0]["loss"]
    moved = {name for name, tensor in weights(longer).items() if not torch.equal(tensor, weights(short)[name])}
    assert "head.embedding_VD" in moved
    assert "layers.0.attention.keys.weight" in moved
    assert [line["rate"] for line in longer.metrics] == pytest.approx([n / 1000 / math.sqrt(1000) for n in (1, 2, 3)])


def test_the_gate_of_what_rewrites_the_slots_never_decays() -> None:
    model = build_model(configure("arch=thought"), vocabulary=20)
    groups = build_optimizer(model, Optim(gate_rate=3.0)).param_groups
    [rate] = {group["lr"] for group in groups if any(each is model.updater.gate_DF for each in group["params"])}
    assert rate == pytest.approx(3 * Optim().rate)


def stepped(optimizer: torch.optim.Optimizer, model: nn.Module, steps: range) -> dict[str, torch.Tensor]:
    """The weights after steps with gradients that depend on the step alone."""
    for step in steps:
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_adamw_is_the_plain_one_to_rounding_and_goes_on_from_its_states() -> None:
    """Fused is how it is computed, not what."""
    config = configure("arch=vanilla", "optim=adamw")
    models = []
    for _ in range(3):
        torch.manual_seed(0)
        models.append(build_model(config, vocabulary=20))
    ours, plain, going_on = (build_optimizer(model, config.optim) for model in models)
    for group in plain.param_groups:
        group["fused"] = False
    found, expected = stepped(ours, models[0], range(5)), stepped(plain, models[1], range(5))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6, msg=name)
    models[2].load_state_dict(models[1].state_dict())
    going_on.load_state_dict(deepcopy(plain.state_dict()))  # as a checkpoint of before has it
    after, again = stepped(plain, models[1], range(5, 8)), stepped(going_on, models[2], range(5, 8))
    assert all(torch.equal(again[name], weight) for name, weight in after.items())
    assert not torch.equal(after["head.embedding_VD"], expected["head.embedding_VD"])
