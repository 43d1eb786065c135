"""Thought-and-memory against plain loops, and which loss trains which part of it."""

import math

import pytest
import torch
from torch import Tensor

from memexp.config.checks import check
from memexp.errors import UserError
from memexp.model.slot_memory.recall import (
    composition,
    even_cuts,
    random_cuts,
    recalled_embeddings,
)
from memexp.model.thought import Thought
from memexp.model.vanilla import Vanilla

from ..messages import says
from ..tiny import configure
from .make import make
from .slot_memory.slots import LANES, LENGTH, SHAPE, SLOTS, memory_and_states, parts
from .small import COMMON, gain, randomise, unit

OWN = {
    "updater_layers": 2, "recall": 0.5, "recall_target": "tokens", "composition": 0.125, "variance": 1.0,
    "covariance": 0.04, "faithful": False,
}  # fmt: skip

FAITHFUL = {"faithful": True, "recall_target": "embeddings"}


def thought(mem: int = SLOTS, position: str = "t5", **changes: object) -> Thought:
    model = randomise(make(Thought, SHAPE, mem=mem, position=position, **{**COMMON, **OWN, **changes}))
    assert isinstance(model, Thought)
    return model


def text() -> tuple[Tensor, Tensor]:
    """Tokens, all of them valid."""
    torch.manual_seed(5)
    tokens = torch.randint(SHAPE.vocabulary, (LANES, LENGTH))
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


# The predictor


@pytest.mark.parametrize("position", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
@pytest.mark.parametrize("smear", [False, True])
def test_without_slots_it_is_the_plain_decoder(position: str, smear: bool) -> None:
    model = thought(mem=0, position=position, key_smear=smear)
    vanilla = make(Vanilla, SHAPE, mem=0, position=position, **{**COMMON, "key_smear": smear}).double()
    vanilla.load_state_dict(model.state_dict())
    tokens, valid = text()
    output = model(tokens, valid, model.init_state(LANES), valid[:, 0])
    expected = vanilla(tokens, valid, vanilla.init_state(LANES), valid[:, 0]).hidden_BTD
    torch.testing.assert_close(output.hidden_BTD, expected)
    assert output.aux == {}
    assert output.gauges == {}


@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("position", ["none", "t5"])
def test_the_predictor_is_one_decoder_over_slots_and_tokens(position: str, smear: bool) -> None:
    """Head by head and query by query: slots see slots, tokens see slots and the past, places are the tokens' alone."""
    model = thought(position=position, key_smear=smear)
    tokens, valid = text()
    x = torch.cat([model.initial_MD.expand(LANES, -1, -1), model.head.embedding_VD[tokens]], dim=1).detach()
    for layer in range(2):
        own = parts(model, f"layers.{layer}.")
        y = gain(x, own["attention_norm.weight"])
        queries, values = (y @ own["attention.queries_values.weight"].T).split(16, dim=-1)
        z = y.clone()
        if smear:
            mix = own["attention.smear_D"].sigmoid()
            for i in range(SLOTS, SLOTS + LENGTH):
                z[:, i] = mix * y[:, i] + (1 - mix) * (y[:, i - 1] if i > SLOTS else 0)
        keys = z @ own["attention.keys.weight"].T
        heads = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            rows = []
            for i in range(SLOTS + LENGTH):
                seen = SLOTS if i < SLOTS else i + 1
                scores = (unit(keys[:, :seen, part]) @ unit(queries[:, i, part])[..., None]).squeeze(-1)
                scores = scores * own["attention.scale_H"][head].abs()
                if position == "t5" and i >= SLOTS:
                    scores[:, SLOTS:] += own["attention.position.bias_HR"][head, [i - j for j in range(SLOTS, seen)]]
                rows.append((scores.softmax(-1)[..., None] * values[:, :seen, part]).sum(1))
            heads.append(torch.stack(rows, 1))
        x = x + torch.cat(heads, -1) @ own["attention.output.weight"].T
        y = gain(x, own["feedforward_norm.weight"])
        x = x + (y @ own["feedforward.rise.weight"].T).relu() @ own["feedforward.fall.weight"].T
    found = model(tokens, valid, model.init_state(LANES), valid[:, 0]).hidden_BTD
    torch.testing.assert_close(found, x[:, SLOTS:])


@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("position", ["t5", "rotary"])
def test_pieces_of_a_segment_read_as_the_whole(position: str, smear: bool) -> None:
    model = thought(position=position, key_smear=smear)
    tokens, valid = text()
    state = model.init_state(LANES)
    kept, pieces = None, []
    for piece in tokens.split([1, 4, 4], dim=1):
        hidden, kept = model.extend(piece, state, kept)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.step(tokens, valid, state).hidden_BTD)
    assert kept is not None
    assert kept[1].layers[0].keys_BGCK.shape[2] == LENGTH


@pytest.mark.parametrize("changes", [{}, FAITHFUL])
def test_padding_reaches_neither_memory_nor_losses(changes: dict[str, object]) -> None:
    """Also in a lane that has no token left: it keeps its memory and counts nowhere."""
    model = thought(**changes)
    tokens, valid = text()
    valid[1, 4:] = False
    valid[2] = False
    state = model.init_state(LANES)
    outputs = []
    for padded in (tokens, torch.where(valid, tokens, (tokens + 7) % SHAPE.vocabulary)):
        torch.manual_seed(2)
        model.zero_grad()
        output = model.step(padded, valid, state)
        sum(output.aux.values()).backward()  # type: ignore[union-attr]
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        gauges = [
            value for name, value in output.gauges.items() if name != "memory_share"
        ]  # of one query, here padding
        outputs.append([output.state.memory, *output.aux.values(), *gauges, *gradients])
    torch.testing.assert_close(outputs[0], outputs[1])
    assert torch.equal(output.state.memory[2], state.memory[2])
    torch.manual_seed(2)
    shorter = model.step(tokens[:2], valid[:2], model.init_state(2))
    torch.testing.assert_close(shorter.aux, output.aux)


# Which loss trains what


@pytest.mark.parametrize("changes", [{}, FAITHFUL])
def test_each_loss_trains_its_part_alone(changes: dict[str, object]) -> None:
    """Within a segment, and with a memory that a segment before has written, detached as at horizon 0."""
    model = thought(**changes)
    tokens, valid = text()
    first = model(tokens, valid, model.init_state(LANES), valid[:, 0]).state.memory
    state = model.init_state(LANES)._replace(memory=first.detach().requires_grad_())
    output = model.step((tokens + 3) % SHAPE.vocabulary, valid, state)
    losses = {"prediction": model.head.nats(output.hidden_BTD, tokens).mean(), **output.aux}
    assert set(losses) == {"prediction", "recall", "composition", "variance", "covariance"}
    trained = {}
    for name, loss in losses.items():
        model.zero_grad()
        state.memory.grad = None
        loss.backward(retain_graph=True)
        names = {key.split(".")[0] for key, value in model.named_parameters() if value.grad is not None}
        trained[name] = names | ({"memory"} if state.memory.grad is not None else set())
    predictor = {"head", "layers", "memory"}
    assert trained["prediction"] == predictor
    assert trained["recall"] == predictor | {"updater", "recall_queries"}
    assert all(trained[name] == {"updater"} for name in ("composition", "variance", "covariance"))


def test_a_longer_horizon_lets_the_prediction_train_the_updater() -> None:
    model = thought()
    tokens, valid = text()
    first = model(tokens, valid, model.init_state(LANES), valid[:, 0])
    second = model.step(tokens, valid, first.state)
    model.head.nats(second.hidden_BTD, tokens).mean().backward()
    assert model.updater.layers[0].cross.queries.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["recall", "composition", "variance", "covariance"])
def test_a_weight_scales_its_loss_and_none_switches_it_off(name: str) -> None:
    tokens, valid = text()
    found = []
    for weight in (0.0, 0.25, 0.75):
        model = thought(**{name: weight})
        if weight:
            model.load_state_dict(found[-1][0].state_dict(), strict=name != "recall")
        torch.manual_seed(2)
        found.append((model, model(tokens, valid, model.init_state(LANES), valid[:, 0]).aux))
    (_, without), (_, once), (_, thrice) = found
    assert name not in without
    assert set(once) == set(thrice) == {*without, name}
    if name != "recall":  # whose own weights are drawn anew
        torch.testing.assert_close(thrice[name], 3 * once[name])
    model.eval()
    assert model(tokens, valid, model.init_state(LANES), valid[:, 0]).aux == {}


# Recall


@pytest.mark.parametrize("changes", [{}, {"recall_target": "embeddings"}, FAITHFUL])
def test_recall_sees_the_memory_and_nothing_else_of_the_segment(changes: dict[str, object]) -> None:
    model = thought(position="rotary", **changes).eval()
    tokens, valid = text()
    memory, hidden, _ = memory_and_states()
    heard: list[Tensor] = []
    recalled = model.recalled
    model.recalled = lambda head, x, *rest: heard.append(x) or recalled(head, x, *rest)
    for read, slots in ((tokens, memory), ((tokens + 3) % SHAPE.vocabulary, memory), (tokens, memory + 0.1)):
        model._recall(read, valid, hidden, slots)
    assert torch.equal(heard[0], heard[1])
    assert ((heard[0] - heard[2]).abs().amax((0, 2)) > 1e-6).all()


@pytest.mark.parametrize("changes", [{}, FAITHFUL])
def test_recall_is_the_predictor_over_queries_without_a_mask(changes: dict[str, object]) -> None:
    """Queries see slots and one another, slots see slots, and in the published code queries too; one head at a time."""
    model = thought(**changes).eval()
    memory, hidden, valid = memory_and_states()
    tokens, _ = text()
    valid[0, 7:] = False
    queries = model.recall_queries
    if changes:
        first, rest = queries.first_D, queries.mask_D
        x = torch.stack([first, *[rest] * (LENGTH - 1)])
    else:
        x = torch.stack([queries.mask_D + queries.place_TD[t] for t in range(LENGTH)])
    x = torch.cat([memory, x.expand(LANES, -1, -1)], dim=1).detach()
    slopes = [2 ** (-8 / 2), 2 ** (-8 / 1)]
    for layer in range(2):
        own = parts(model, f"layers.{layer}.")
        y = gain(x, own["attention_norm.weight"])
        asked, values = (y @ own["attention.queries_values.weight"].T).split(16, dim=-1)
        keys = y @ own["attention.keys.weight"].T
        heads = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            scores = unit(asked[..., part]) @ unit(keys[..., part]).mT * own["attention.scale_H"][head].abs()
            for i in range(SLOTS + LENGTH):
                for j in range(SLOTS + LENGTH):
                    if changes:
                        scores[:, i, j] -= slopes[head] * abs(i - j)
                    elif i < SLOTS <= j:
                        scores[:, i, j] = -math.inf
            heads.append(scores.softmax(-1) @ values[..., part])
        x = x + torch.cat(heads, -1) @ own["attention.output.weight"].T
        y = gain(x, own["feedforward_norm.weight"])
        x = x + (y @ own["feedforward.rise.weight"].T).relu() @ own["feedforward.fall.weight"].T
    x, scored = x[:, SLOTS:], valid.clone()
    if changes:
        scored[:, 0] = False  # the recall token itself
        errors = (x - hidden).square().mean(-1)
        right = model.head.logits(x).argmax(-1) == model.head.logits(hidden).argmax(-1)
    else:
        logits = model.head.logits(x)
        errors = -logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
        right = logits.argmax(-1) == tokens
    terms, gauges = model._recall(tokens, valid, hidden, memory)
    torch.testing.assert_close(terms["recall"], errors[scored].mean(), check_dtype=False, rtol=1e-5, atol=1e-6)
    of_lanes = [lane[there].double().mean() for lane, there in zip(right, scored, strict=True)]
    torch.testing.assert_close(gauges["recall_accuracy"], torch.stack(of_lanes).mean(), check_dtype=False)


def test_recalled_activations_have_a_target_without_gradient() -> None:
    _, hidden, _ = memory_and_states()
    recalled, target = hidden.clone().requires_grad_(), (hidden * 2).requires_grad_()
    recalled_embeddings(thought().head, recalled, text()[0], target).error_BT.sum().backward()
    assert recalled.grad is not None
    assert target.grad is None


def test_losses_draw_from_torch_s_generator_and_evaluation_does_not() -> None:
    model = thought()
    tokens, valid = text()
    state = model.init_state(LANES)
    generator = torch.get_rng_state()
    first, second = model.step(tokens, valid, state).aux, model.step(tokens, valid, state).aux
    torch.set_rng_state(generator)
    assert torch.equal(model.step(tokens, valid, state).aux["composition"], first["composition"])
    assert not torch.equal(first["composition"], second["composition"])
    generator = torch.get_rng_state()
    gauges = model.eval().step(tokens, valid, state).gauges
    assert torch.equal(torch.get_rng_state(), generator)
    expected = {"gate", "memory_share", "memory_norm", "memory_change", "memory_rank", "memory_between"}
    assert set(gauges) == expected | {"recall_accuracy", "composition_error"}
    composed = composition(model.updater, state.memory, model.step(tokens, valid, state).hidden_BTD, valid, [2, 4, 6])
    torch.testing.assert_close(gauges["composition_error"], composed.gauges["composition_error"])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_segment_is_read_at_once_again_only_to_do_without_dropout(dropout: float) -> None:
    model, calls = thought(dropout=dropout), []
    tokens, valid = text()
    model.updater.register_forward_hook(lambda updater, *_: calls.append(updater.training))
    model.step(tokens, valid, model.init_state(LANES))
    assert calls.count(False) == (dropout > 0)
    calls.clear()
    model.eval().step(tokens, valid, model.init_state(LANES))
    assert len(calls) == 1 + len([0, *even_cuts(LENGTH)])


@pytest.mark.parametrize("faithful", [False, True])
def test_composition_begins_before_the_segment_and_in_the_code_behind_it(faithful: bool) -> None:
    model = thought(**(FAITHFUL if faithful else {}), covariance=0.0, variance=0.0)
    tokens, valid = text()
    state = model.init_state(LANES)
    torch.manual_seed(2)
    output = model.step(tokens, valid, state)
    torch.manual_seed(2)
    cuts = random_cuts(LENGTH)
    origin = output.state.memory if faithful else state.memory
    expected = composition(model.updater, origin, output.hidden_BTD, valid, cuts)
    torch.testing.assert_close(output.aux["composition"], 0.125 * expected.error)


# Settings


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, check=says("arch.recall_target is tokens", "arch.faithful is true", "expected")):
        configure("arch=thought", "arch.faithful=true")
    with pytest.raises(UserError, check=says("size.head_size is 15", "expected an even number")):
        configure("arch=thought", "size.head_size=15")
    check(configure("arch=thought", "size.head_size=15", "mem=0"))
    check(configure("arch=thought", "size.head_size=15", "arch.faithful=true", "arch.recall_target=embeddings"))
