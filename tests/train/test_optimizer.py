"""Schedules against numbers worked out by hand, and which parameter gets what."""

import io
import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from memexp.config.groups import Optim
from memexp.model.build import build_model
from memexp.train import adafactor
from memexp.train.adafactor import Adafactor, factored_sides
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


SHAPES = [(24, 40), (40, 24), (7, 3), (1, 9), (12,), (), (4, 1, 8)]
"""Shapes of parameters; in the last one a side of 1 makes the outer product of means equal to the squares."""


def parameters_of(shapes: Iterable[tuple[int, ...]], *, seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape) / 8) for shape in shapes]


def moved(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> list[torch.Tensor]:
    """The parameters after steps with gradients that depend on the step alone."""
    for step in steps:
        torch.manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def test_adafactor_is_pytorchs_where_gradients_are_of_normal_size() -> None:
    """With rates below 1/sqrt(step), PyTorch's limit. PyTorch factors the last two sides of the parameter with three."""
    shapes = [shape for shape in SHAPES if len(shape) < 3]
    mine, theirs = parameters_of(shapes), parameters_of(shapes)
    for parameter in (mine[0], mine[4], theirs[0], theirs[4]):  # a matrix and a vector that are 0 at first
        nn.init.zeros_(parameter)
    groups = [[{"params": each[:3], "weight_decay": 0.1}, {"params": each[3:], "lr": 0.02}] for each in (mine, theirs)]
    ours = moved(Adafactor(groups[0], lr=0.1), mine, range(30))
    pytorchs = moved(torch.optim.Adafactor(groups[1], lr=0.1), theirs, range(30))
    for parameter, expected in zip(ours, pytorchs, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-6)


def test_what_is_factored_has_its_two_largest_sides_at_least_so_long() -> None:
    sides = {shape: factored_sides(torch.Size(shape), 8) for shape in [*SHAPES, (8, 2, 9), (9, 8, 2)]}
    assert sides == {
        (24, 40): (0, 1), (40, 24): (1, 0), (7, 3): None, (1, 9): None, (12,): None, (): None, (4, 1, 8): None,
        (8, 2, 9): (0, 2), (9, 8, 2): (1, 0),
    }  # fmt: skip


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adafactor_moves_parameters_together_as_each_alone(momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those whose gradient is missing in some steps; all at once, and a few at a time."""
    shapes = [*SHAPES, *SHAPES[:3], (8, 2, 9), (9, 8, 2), (8, 2, 9), SHAPES[0]]

    def trained(groups: Any, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
        optimizer = Adafactor(groups, lr=0.1, momentum=momentum, weight_decay=0.1, factor_from=8)
        for step in range(4):
            torch.manual_seed(step)
            for number, parameter in enumerate(parameters):
                drawn = torch.randn_like(parameter)
                parameter.grad = None if step == 1 and number % 3 == 0 else drawn
            optimizer.step()
        return [parameter.detach().clone() for parameter in parameters]

    apart, together, few = (parameters_of(shapes) for _ in range(3))
    expected = trained([{"params": [each]} for each in apart], apart)
    found = [trained(together, together)]
    monkeypatch.setattr(adafactor, "AT_ONCE", 2000)
    found.append(trained(few, few))
    for each in found:
        for parameter, alone in zip(each, expected, strict=True):
            torch.testing.assert_close(parameter, alone, rtol=1e-6, atol=1e-7)


def test_adafactor_without_any_gradient_moves_nothing() -> None:
    parameters = parameters_of(SHAPES)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = Adafactor(parameters, lr=0.1, momentum=0.9)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert all(torch.equal(parameter, start) for parameter, start in zip(parameters, before, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adafactor_goes_on_from_its_state_bit_by_bit(momentum: float) -> None:
    parameters = parameters_of(SHAPES)
    optimizer = Adafactor(parameters, lr=0.1, momentum=momentum, factor_from=8)
    moved(optimizer, parameters, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    going_on = Adafactor(copies, lr=9.0)
    going_on.load_state_dict(torch.load(file, weights_only=True))
    expected, after = (moved(*each, range(3, 6)) for each in ((optimizer, parameters), (going_on, copies)))
    assert all(torch.equal(*pair) for pair in zip(after, expected, strict=True))


class NoWaits(TorchDispatchMode):
    """Refuses to read a number of a tensor, for which the host would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_of_adafactor_does_not_wait_for_the_device() -> None:
    parameters = parameters_of(SHAPES)
    pytorchs, ours = torch.optim.Adafactor(parameters), Adafactor(parameters, lr=0.1, momentum=0.9, factor_from=8)
    with pytest.raises(AssertionError), NoWaits():
        moved(pytorchs, parameters, range(1))
    with NoWaits():
        moved(ours, parameters, range(2))
