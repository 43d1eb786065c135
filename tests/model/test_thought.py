"""Thought-and-memory against plain loops, and which loss trains which part of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from memexp.config.arch import ThoughtArch
from memexp.config.checks import check
from memexp.errors import UserError
from memexp.model.slot_memory.gauges import effective_rank
from memexp.model.slot_memory.recall import (
    PublishedQueries,
    composition,
    even_cuts,
    published_separation,
    random_cuts,
    recalled_embeddings,
    separation,
)
from memexp.model.slot_memory.updater import AdditiveUpdater, GatedUpdater, Updater, Written
from memexp.model.thought import Thought
from memexp.model.transformer.shape import Shape
from memexp.model.vanilla import Vanilla

from ..tiny import configure
from .make import make

COMMON = {"normalise": True, "scale": 3.0, "dropout": 0.0, "key_smear": False, "keys_as_queries": False}
OWN = {
    "updater_layers": 2, "recall": 0.5, "recall_target": "tokens", "composition": 0.125, "variance": 1.0,
    "covariance": 0.04, "faithful": False,
}  # fmt: skip
FAITHFUL = {"faithful": True, "recall_target": "embeddings"}
LANES, LENGTH, SLOTS = 3, 9, 4
SHAPE = Shape(vocabulary=30, layers=2, width=24, heads=2, head_size=8, feedforward=40, segment=LENGTH)
OPTIONS = ThoughtArch(position="none", scale=3.0)


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.double()


def thought(mem: int = SLOTS, position: str = "t5", **changes: object) -> Thought:
    model = randomise(make(Thought, SHAPE, mem=mem, position=position, **{**COMMON, **OWN, **changes}))
    assert isinstance(model, Thought)
    return model


def text() -> tuple[Tensor, Tensor]:
    """Tokens, all of them valid."""
    torch.manual_seed(5)
    tokens = torch.randint(SHAPE.vocabulary, (LANES, LENGTH))
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def memory_and_states() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(8)
    memory, states = torch.randn(LANES, SLOTS, SHAPE.width), torch.randn(LANES, LENGTH, SHAPE.width) * 2
    return memory.double(), states.double(), torch.ones(LANES, LENGTH, dtype=torch.bool)


def gain(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def parts(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in module.state_dict().items() if key.startswith(prefix)}


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


# The updaters


def turned(key: Tensor, place: int) -> Tensor:
    """Rotary: channel c and c + K/2 as a plane, turned by place / 10000^(2c/K)."""
    half = len(key) // 2
    turned = key.clone()
    for c in range(half):
        angle = place / 10_000 ** (2 * c / len(key))
        turned[c] = key[c] * math.cos(angle) - key[c + half] * math.sin(angle)
        turned[c + half] = key[c + half] * math.cos(angle) + key[c] * math.sin(angle)
    return turned


@pytest.mark.parametrize("start", [0, 5])
def test_the_gated_updater_is_its_formula(start: int) -> None:
    """Lane by lane, head by head and slot by slot, with only some tokens there."""
    updater = randomise(GatedUpdater(SHAPE, OPTIONS, mem=SLOTS, layers=2))
    memory, states, valid = memory_and_states()
    valid[1, 6:] = False
    found = updater(memory, states, valid, start=start)
    own, gates = parts(updater, ""), []
    for lane in range(LANES):
        x = gain(memory[lane]) + own["ids_MD"]
        read = gain(states[lane], own["text_norm.weight"])[valid[lane]]
        for layer in range(2):
            one = parts(updater, f"layers.{layer}.")
            y = gain(x, one["attention_norm.weight"])
            queries, values = (y @ one["attention.queries_values.weight"].T).split(16, dim=-1)
            x = x + looked(queries, y @ one["attention.keys.weight"].T, values, one["attention.scale_H"]) @ (
                one["attention.output.weight"].T
            )
            queries = gain(x, one["cross_norm.weight"]) @ one["cross.queries.weight"].T
            keys, values = (read @ one["cross.keys_values.weight"].T).split(16, dim=-1)
            turns = [[turned(keys[t, p : p + 8], start + t) for t in range(len(keys))] for p in (0, 8)]
            keys = torch.cat([torch.stack(head) for head in turns], dim=-1)
            x = x + looked(queries, keys, values, one["cross.scale_H"]) @ one["cross.output.weight"].T
            y = gain(x, one["feedforward_norm.weight"])
            x = x + (y @ one["feedforward.rise.weight"].T).relu() @ one["feedforward.fall.weight"].T
        x = gain(x)
        gate = (torch.cat([memory[lane], x], dim=-1) @ own["gate_DF"].T + own["gate_D"]).sigmoid()
        gates.append(gate.mean())
        torch.testing.assert_close(found.memory_BMD[lane], gain(gate * memory[lane] + (1 - gate) * x))
    torch.testing.assert_close(found.gauges["gate"], torch.stack(gates).mean())


def looked(queries: Tensor, keys: Tensor, values: Tensor, scale_H: Tensor) -> Tensor:
    """Attention of one lane, two heads of 8, unit-norm queries and keys."""
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        rows = [
            ((unit(keys[:, part]) @ unit(query[part])) * scale_H[head].abs()).softmax(0) @ values[:, part]
            for query in queries
        ]
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=-1)


def test_the_additive_updater_is_the_published_formula() -> None:
    updater = randomise(AdditiveUpdater(SHAPE, OPTIONS, layers=2))
    memory, states, valid = memory_and_states()
    valid[1, 6:] = False
    found = updater(memory, states, valid).memory_BMD
    slopes = [2 ** (-8 / 2), 2 ** (-8 / 1)]
    for lane in range(LANES):
        x, read = memory[lane], states[lane][valid[lane]]
        for layer in range(2):
            one = parts(updater, f"layers.{layer}.")
            y = nn.functional.layer_norm(x, (24,), one["cross_norm.weight"], one["cross_norm.bias"])
            queries = y @ one["cross.queries.weight"].T
            keys, values = (read @ one["cross.keys_values.weight"].T).split(16, dim=-1)
            heads = []
            for head in range(2):
                part = slice(8 * head, 8 * head + 8)
                rows = []
                for i in range(SLOTS):
                    far = torch.tensor([abs(i - j) for j in range(len(read))])
                    scores = keys[:, part] @ queries[i, part] / math.sqrt(8) - slopes[head] * far
                    rows.append(scores.softmax(0) @ values[:, part])
                heads.append(torch.stack(rows))
            x = x + torch.cat(heads, dim=-1) @ one["cross.output.weight"].T
            y = nn.functional.layer_norm(x, (24,), one["feedforward.0.weight"], one["feedforward.0.bias"])
            y = nn.functional.gelu(y @ one["feedforward.1.weight"].T + one["feedforward.1.bias"])
            x = x + y @ one["feedforward.4.weight"].T + one["feedforward.4.bias"]
        torch.testing.assert_close(found[lane], x)


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
    """Slots in front see slots, queries see slots and one another; against the same written out, one head at a time."""
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
                    if i < SLOTS <= j:
                        scores[:, i, j] = -math.inf
                    elif changes and i >= SLOTS:
                        scores[:, i, j] -= slopes[head] * abs(i - j)
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


def test_published_queries_differ_by_their_distances_alone() -> None:
    queries = PublishedQueries(SHAPE)
    asked = queries(LANES, LENGTH)
    assert torch.equal(asked[:, 1], asked[:, 8])
    assert not torch.equal(asked[:, 0], asked[:, 1])
    bias = queries.bias(SLOTS, LENGTH)
    assert bias[0, 1, 8, 0] == -(2**-8) * (SLOTS + 8)
    assert bias[0, 0, 2, SLOTS + 5] == -(2**-4) * 3


# Composition


class Sum(Updater):
    """Every token adds a vector of its own to every slot, so reading in pieces is reading at once."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.factor = nn.Parameter(torch.ones(()))

    def write(self, memory_BMD: Tensor, text_BTD: Tensor, mask_B11T: Tensor, *, start: int) -> Written:
        mask_BT1 = mask_B11T[:, 0, 0, :, None]
        return Written(memory_BMD + self.factor * (text_BTD.tanh() * mask_BT1).sum(1, keepdim=True), {})


def test_composition_of_what_composes_is_exact() -> None:
    memory, states, valid = memory_and_states()
    valid[1, 5:] = False
    composed = composition(Sum().double(), memory, states, valid, [2, 3, 7])
    assert composed.error < 1e-24
    assert composed.relative < 1e-24
    torch.testing.assert_close(composed.whole_BMD, memory + (states.tanh() * valid[..., None]).sum(1, keepdim=True))


@pytest.mark.parametrize("gated", [True, False])
def test_composition_is_the_plain_loop(gated: bool) -> None:
    updater = randomise(
        GatedUpdater(SHAPE, OPTIONS, mem=SLOTS, layers=1) if gated else AdditiveUpdater(SHAPE, OPTIONS, layers=1)
    )
    memory, states, valid = memory_and_states()
    composed = composition(updater, memory, states, valid, [1, 6])
    once = updater(memory, states, valid).memory_BMD
    pieces = memory
    for start, stop in ((0, 1), (1, 6), (6, LENGTH)):
        pieces = updater(pieces, states[:, start:stop], valid[:, start:stop], start=start).memory_BMD
    errors, changes = (
        [
            sum((a - b) ** 2 for a, b in zip(*pair, strict=True))
            for pair in zip(each.flatten(1).tolist(), once.flatten(1).tolist(), strict=True)
        ]
        for each in (pieces, memory)
    )
    assert composed.error.item() == pytest.approx(sum(errors) / memory.numel())
    relative = [error / change for error, change in zip(errors, changes, strict=True)]
    assert composed.relative.item() == pytest.approx(sum(relative) / LANES)
    assert composed.error.requires_grad
    assert not composed.whole_BMD.requires_grad
    # a gated updater is told where a piece begins, the published one never knew
    moved = updater(memory, states, valid, start=3).memory_BMD
    assert torch.allclose(moved, once) != gated


def test_the_target_of_composition_has_no_dropout() -> None:
    updater = randomise(GatedUpdater(SHAPE, replace(OPTIONS, dropout=0.5), mem=SLOTS, layers=1)).train()
    memory, states, valid = memory_and_states()
    wholes = [composition(updater, memory, states, valid, [4]) for _ in range(2)]
    assert torch.equal(wholes[0].whole_BMD, wholes[1].whole_BMD)
    assert not torch.allclose(wholes[0].pieces_BMD, wholes[1].pieces_BMD)
    assert all(module.training for module in updater.modules())


def test_cuts_leave_no_piece_empty() -> None:
    torch.manual_seed(0)
    for length in (1, 2, 3, 9, 64):
        drawn = [random_cuts(length) for _ in range(300)]
        assert all(cuts == sorted(set(cuts)) and set(cuts) <= set(range(1, length)) for cuts in drawn)
        counts = {len(cuts) + 1 for cuts in drawn}
        assert counts == set(range(min(2, length), min(8, length) + 1))
        assert even_cuts(length) == sorted(set(even_cuts(length)))
        assert set(even_cuts(length)) <= set(range(1, length))
    assert {cut for _ in range(300) for cut in random_cuts(9)} == set(range(1, 9))
    assert even_cuts(64) == [16, 32, 48]


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
    expected = {"gate", "memory_share", "memory_norm", "memory_change", "memory_rank"}
    assert set(gauges) == expected | {"recall_accuracy", "composition_error"}
    composed = composition(model.updater, state.memory, model.step(tokens, valid, state).hidden_BTD, valid, [2, 4, 6])
    torch.testing.assert_close(gauges["composition_error"], composed.relative)


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


# Separation


def test_separation_is_vicreg() -> None:
    """Three lanes of two slots of three numbers, one lane without a token, against sums by hand."""
    slots = torch.tensor(
        [[[1.0, 0.0, 2.0], [3.0, 1.0, 2.5]], [[9.0, 9.0, 9.0], [8.0, 7.0, 6.0]], [[2.0, 0.5, 2.0], [6.0, -0.5, 2.5]]]
    )
    found = separation(slots, torch.tensor([True, False, True]))
    columns = [[1.0, 3.0, 2.0, 6.0], [0.0, 1.0, 0.5, -0.5], [2.0, 2.5, 2.0, 2.5]]
    centred = [[value - sum(column) / 4 for value in column] for column in columns]
    products = [[sum(a * b for a, b in zip(one, two, strict=True)) / 3 for two in centred] for one in centred]
    hinge = [max(0.0, 1 - math.sqrt(products[j][j] + 1e-4)) for j in range(3)]
    off = sum(products[i][j] ** 2 for i in range(3) for j in range(3) if i != j)
    assert hinge[0] == 0
    assert hinge[1] > 0
    assert found["variance"].item() == pytest.approx(sum(hinge) / 3)
    assert found["covariance"].item() == pytest.approx(off / 3)
    nothing = separation(slots, torch.zeros(3, dtype=torch.bool))
    assert all(torch.isfinite(value) for value in nothing.values())


def test_published_separation_is_the_code_s_formula() -> None:
    rows = torch.tensor([[1.0, 0.0, 2.0], [3.0, 9.0, 2.5], [2.0, 0.5, 2.0], [6.0, -0.5, 2.5]])
    columns = rows.T.tolist()
    centred = [[value - sum(column) / 4 for value in column] for column in columns]
    products = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in centred] for one in centred]
    hinge = [max(0.0, 4 - math.sqrt(products[j][j] / 3 + 1e-5)) for j in range(3)]
    triangle = sum((products[i][j] / 4) ** 2 for i in range(3) for j in range(i, 3))
    found = published_separation(rows)
    assert found["variance"].item() == pytest.approx(sum(hinge) / 3)
    assert found["covariance"].item() == pytest.approx(triangle / 3)


def test_slots_stay_apart_with_separation_and_collapse_without() -> None:
    """Composition alone is content with a memory that forgets what it was: the slots it ends in grow alike."""
    ranks = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        updater = GatedUpdater(SHAPE, OPTIONS, mem=SLOTS, layers=1)
        optimizer = torch.optim.Adam(updater.parameters(), lr=2e-2)
        initial = memory = torch.randn(SLOTS, SHAPE.width).expand(8, -1, -1)
        for _ in range(40):
            states, valid = torch.randn(8, LENGTH, SHAPE.width), torch.ones(8, LENGTH, dtype=torch.bool)
            after = updater(memory, states, valid).memory_BMD
            apart = separation(after, valid[:, 0])
            loss = composition(updater, memory, states, valid, random_cuts(LENGTH)).error
            optimizer.zero_grad()
            (loss + weight * (apart["variance"] + 0.04 * apart["covariance"])).backward()
            optimizer.step()
            memory = after.detach()
        ranks[weight] = effective_rank(memory) - effective_rank(initial)
    assert ranks[0.0] < -0.3
    assert ranks[1.0] > 0


# Settings


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"arch.recall_target is tokens but arch.faithful is true"):
        configure("arch=thought", "arch.faithful=true")
    with pytest.raises(UserError, match=r"size.head_size is 15; expected an even number"):
        configure("arch=thought", "size.head_size=15")
    check(configure("arch=thought", "size.head_size=15", "mem=0"))
    check(configure("arch=thought", "size.head_size=15", "arch.faithful=true", "arch.recall_target=embeddings"))
