"""The Block-Recurrent Transformer against its equations written out, and against itself cut another way."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from memexp.errors import UserError
from memexp.model.block import Block
from memexp.model.segment import SegmentOutput
from memexp.model.state import State, detach
from memexp.model.transformer.shape import Shape

from ..messages import says
from ..tiny import configure
from .make import make

VOCABULARY, LANES, LENGTH, WINDOW, WIDTH, HEADS, HEAD_SIZE, SLOTS = 40, 2, 32, 4, 10, 2, 6, 3
SHAPE = Shape(
    vocabulary=VOCABULARY,
    layers=2,
    width=WIDTH,
    heads=HEADS,
    head_size=HEAD_SIZE,
    feedforward=7,
    segment=LENGTH,
    bptt_segments=0,
)
OPTIONS = {
    "mem": SLOTS, "window": WINDOW, "recurrent_layers": [2], "gate_kind": "fixed", "gates": "skip", "feedback": False,
    "state_dropout": 0.0, "cache_dropout": 0.0, "shared_values": False, "position": "t5", "normalise": True, "scale": 3.0,
    "dropout": 0.0, "key_smear": False, "keys_as_queries": False,
}  # fmt: skip


def build(*, layers: int = 2, **options: Any) -> Block:
    """In double precision, with random weights everywhere."""
    torch.manual_seed(6)
    model = make(Block, replace(SHAPE, layers=layers), **OPTIONS | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.double()


def text(length: int = LENGTH) -> Tensor:
    torch.manual_seed(5)
    return torch.randint(VOCABULARY, (LANES, length))


def step(model: Block, tokens: Tensor, state: State | None = None, valid: Tensor | None = None) -> SegmentOutput:
    state = model.init_state(len(tokens)) if state is None else state
    return model.step(tokens, torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid, state)


def read(model: Block, tokens: Tensor, *, segment: int, horizon: int = LENGTH) -> tuple[Tensor, State]:
    """A document a lane, cut into segments, detached every `horizon` tokens as the trainer does."""
    state, hidden = model.init_state(len(tokens)), []
    for index, part in enumerate(tokens.split(segment, dim=1)):
        if index and index * segment % horizon == 0:
            state = detach(state)
        output = step(model, part, state)
        state = output.state
        hidden.append(output.hidden_BTD)
    return torch.cat(hidden, dim=1), state


# ------------------------------------------------------------------------------------------------ the equations


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def heads_of(x: Tensor, weight: Tensor) -> Tensor:
    """N (heads K) of inputs N D, as N heads K."""
    return (x @ weight.T).view(len(x), -1, HEAD_SIZE)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def reading(queries: Tensor, scale: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """One query, H K, head by head over keys and values S G K; the result is H K."""
    found = []
    for head in range(HEADS):
        own = head % keys.shape[1]
        scores = unit(keys[:, own]) @ unit(queries[head]) * scale[head].abs()
        weights = (scores if bias is None else scores + bias[head]).softmax(-1)
        found.append(weights @ values[:, own])
    return torch.stack(found)


def gate(own: dict[str, Tensor], name: str, kind: str, old: Tensor, read: Tensor) -> Tensor:
    """Number by number: fixed c' = c g + z (1 - g); lstm c' = c f + tanh(z) i, with f at +1 and i at -1."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def affine(weight: Tensor, bias: Tensor) -> float:
        return sum(float(w) * float(x) for w, x in zip(weight, read, strict=True)) + float(bias)

    new = []
    for d in range(WIDTH):
        z = affine(own[f"{name}candidate.weight"][d], own[f"{name}candidate.bias"][d])
        if kind == "fixed":
            g = sigmoid(float(own[f"{name}gate_D"][d]))
            new.append(float(old[d]) * g + z * (1 - g))
        else:
            f = sigmoid(affine(own[f"{name}gate_keep_DF"][d], own[f"{name}gate_keep_D"][d]) + 1)
            i = sigmoid(affine(own[f"{name}gate_write_DF"][d], own[f"{name}gate_write_D"][d]) - 1)
            new.append(float(old[d]) * f + math.tanh(z) * i)
    return torch.tensor(new, dtype=old.dtype)


def rewritten(own: dict[str, Tensor], old: Tensor, read: Tensor, kind: str, gates: str) -> Tensor:
    if gates == "skip":
        return gate(own, "cell.", kind, old, read)
    if gates == "single":
        return gate(own, "cell.gate.", kind, old, (own["cell.rise.weight"] @ read).relu())
    middle = gate(own, "cell.attention_gate.", kind, old, read)
    hidden = own["cell.rise.weight"] @ normed(middle, own["cell.norm.weight"])
    return gate(own, "cell.gate.", kind, middle, hidden.relu())


def below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def by_hand(model: Block, tokens: Tensor, *, gate_kind: str, gates: str, feedback: bool) -> tuple[Tensor, Tensor]:
    """One lane: hidden states L D and the second layer's state vectors M D, token by token and vector by vector."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    own = below(weights, "vectors.0.")
    vectors, stored = own["initial_MD"], len(own["values.weight"])
    keys: list[list[Tensor]] = [[], []]
    values: list[list[Tensor]] = [[], []]
    hidden = []
    for start in range(0, len(tokens), WINDOW):
        x = weights["head.embedding_VD"][tokens[start : start + WINDOW]]
        inputs = normed(vectors, own["norm.weight"]) + own["ids_MD"]
        state_keys, state_values = heads_of(inputs, own["keys.weight"]), heads_of(inputs, own["values.weight"])
        for layer in range(2):
            attention = below(weights, f"layers.{layer}.attention.")
            reader = below(weights, f"readers.{layer}.")
            y = normed(x, weights[f"layers.{layer}.attention_norm.weight"])
            queries = heads_of(y, attention["queries_values.weight"][: HEADS * HEAD_SIZE])
            values[layer] += list(heads_of(y, attention["queries_values.weight"][-stored:]))
            keys[layer] += list(heads_of(y, attention["keys.weight"]))
            added = []
            for t in range(len(x)):
                first, last = max(0, start + t - WINDOW), start + t
                near = slice(first, last + 1)
                bias = attention["position.bias_HR"][:, [last - s for s in range(first, last + 1)]]  # exact up to 15
                local = reading(
                    queries[t],
                    attention["scale_H"],
                    torch.stack(keys[layer][near]),
                    torch.stack(values[layer][near]),
                    bias,
                )
                output = attention["output.weight"]
                together = local.flatten()
                if feedback or layer == 1:
                    question = (reader["attention.queries.weight"] @ y[t]).view(HEADS, HEAD_SIZE)
                    remote = reading(question, reader["attention.scale_H"], state_keys, state_values)
                    together = torch.cat([together, remote.flatten()])
                    output = torch.cat([output, reader["output.weight"]], dim=1)
                added.append(output @ together)
            seen = slice(max(0, start - WINDOW), start + len(x))
            if layer == 1:
                new = []
                for m in range(SLOTS):
                    question = (own["over_vectors.queries.weight"] @ inputs[m]).view(HEADS, HEAD_SIZE)
                    mine = reading(question, own["over_vectors.scale_H"], state_keys, state_values)
                    question = (own["over_tokens.queries.weight"] @ inputs[m]).view(HEADS, HEAD_SIZE)
                    told = reading(
                        question, own["over_tokens.scale_H"], torch.stack(keys[1][seen]), torch.stack(values[1][seen])
                    )
                    both = torch.cat([mine.flatten(), told.flatten()])
                    new.append(rewritten(own, vectors[m], both, gate_kind, gates))
            x = x + torch.stack(added)
            y = normed(x, weights[f"layers.{layer}.feedforward_norm.weight"])
            feedforward = below(weights, f"layers.{layer}.feedforward.")
            x = x + (y @ feedforward["rise.weight"].T).relu() @ feedforward["fall.weight"].T
        vectors = torch.stack(new)
        hidden.append(x)
    return torch.cat(hidden), vectors


@pytest.mark.parametrize("gate_kind", ["fixed", "lstm"])
@pytest.mark.parametrize("gates", ["dual", "single", "skip"])
@pytest.mark.parametrize("other", [{}, {"feedback": True}, {"shared_values": True}], ids=lambda other: "".join(other))
def test_it_is_the_papers_equations(gate_kind: str, gates: str, other: dict[str, bool]) -> None:
    """Three windows and a half, which is long enough for a cache that is full and for vectors that have been rewritten."""
    model, tokens = build(gate_kind=gate_kind, gates=gates, **other), text(14)
    hidden, state = read(model, tokens, segment=14)
    for lane in range(LANES):
        expected, vectors = by_hand(model, tokens[lane], gate_kind=gate_kind, gates=gates, feedback="feedback" in other)
        torch.testing.assert_close(hidden[lane], expected)
        torch.testing.assert_close(state.memory[0][lane], vectors)


# -------------------------------------------------------------------------------------------------- the windows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_smear": True, "position": "rotary"},
        {"gate_kind": "lstm", "gates": "dual", "recurrent_layers": [1, 2]},
        {"feedback": True},
        {"mem": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("horizon", [8, 16, 32])
def test_losses_and_gradients_do_not_depend_on_the_cut(options: dict[str, Any], horizon: int) -> None:
    """Segments of one, two and as many windows as the horizon holds; the trainer detaches at the same places."""
    model, tokens, results = build(**options), text(), []
    for segment in sorted({WINDOW, 2 * WINDOW, horizon}):
        model.zero_grad()
        hidden, _ = read(model, tokens, segment=segment, horizon=horizon)
        model.head.nats(hidden, tokens).sum().backward()
        results.append([hidden.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "options", [{}, {"gate_kind": "lstm", "gates": "dual"}, {"mem": 0, "key_smear": True}], ids=str
)
def test_gradients_inside_the_horizon_are_whole(options: dict[str, Any]) -> None:
    """The slope of the loss along a random direction, by finite differences: nothing between windows is detached."""
    model, tokens = build(**options), text()

    def loss() -> Tensor:
        return model.head.logits(read(model, tokens, segment=2 * WINDOW)[0]).sin().mean()

    loss().backward()
    torch.manual_seed(8)
    along = [torch.randn_like(parameter) for parameter in model.parameters()]
    slope = sum((p.grad * d).sum() for p, d in zip(model.parameters(), along, strict=True))
    with torch.no_grad():
        ends = []
        for size in (1e-6, -2e-6):
            for parameter, direction in zip(model.parameters(), along, strict=True):
                parameter += size * direction
            ends.append(loss())
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def test_a_token_sees_itself_and_exactly_a_window_before_it() -> None:
    """By gradient: with one layer and no state vectors, which of the embeddings a token's hidden state depends on."""
    model, tokens = build(layers=1, mem=0, recurrent_layers=[1]), torch.arange(24)[None]
    hidden, _ = read(model, tokens, segment=24)
    for t in range(24):
        (gradient,) = torch.autograd.grad(hidden[0, t].square().sum(), [model.head.embedding_VD], retain_graph=True)
        seen = gradient.abs().sum(-1).nonzero().flatten().tolist()
        assert seen == list(range(max(0, t - WINDOW), t + 1))


# ---------------------------------------------------------------------------------------------- the state vectors


@pytest.mark.parametrize("name", ["readers.1.attention", "vectors.0.over_vectors", "vectors.0.over_tokens"])
def test_every_scale_is_used(name: str) -> None:
    """A scale that goes nowhere leaves attention over unit-norm keys next to uniform for ever."""
    model, tokens = build(), text()
    before, _ = read(model, tokens, segment=LENGTH)
    with torch.no_grad():
        model.get_parameter(f"{name}.scale_H").mul_(4)
    after, _ = read(model, tokens, segment=LENGTH)
    assert (after - before)[:, -1].abs().max() > 1e-3


def test_ids_keep_the_state_vectors_apart() -> None:
    """Vectors that begin alike stay alike without ids, and differ after one window with them."""
    model, tokens = build(), text()
    with torch.no_grad():
        model.vectors[0].initial_MD.copy_(model.vectors[0].initial_MD[:1].clone().expand(SLOTS, -1))

    def closest() -> float:
        vectors = step(model, tokens[:, :WINDOW]).state.memory[0].detach()
        distances = torch.cdist(vectors, vectors) + torch.eye(SLOTS) * 1e9
        return float(distances.min())

    assert closest() > 0.1
    with torch.no_grad():
        model.vectors[0].ids_MD.zero_()
    assert closest() < 1e-12


def test_they_start_small_and_different() -> None:
    torch.manual_seed(0)
    vectors = make(Block, replace(SHAPE, width=64), **OPTIONS | {"mem": 16}).vectors[0]
    assert 0.08 < vectors.initial_MD.std() < 0.12
    assert 0.9 < vectors.ids_MD.std() < 1.1
    assert torch.linalg.matrix_rank(vectors.initial_MD) == torch.linalg.matrix_rank(vectors.ids_MD) == 16


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_attention_over_state_vectors_does_not_start_uniform(scale: float) -> None:
    """In heads as small as these a scale of 1 would give 0.98 of the greatest entropy there is; in the paper's 0.999."""
    torch.manual_seed(0)
    model = make(Block, replace(SHAPE, width=256), **OPTIONS | {"mem": 64, "scale": scale})
    vectors, reader = model.vectors[0], model.readers["1"].attention
    keys = unit(heads_of(vectors.see(vectors.initial_MD[None]).input_BMD[0], vectors.keys.weight))
    for attention in (reader, vectors.over_vectors):
        queries = unit(heads_of(torch.randn(100, 256), attention.queries.weight)) * attention.scale_H[:, None]
        entropy = torch.special.entr(torch.einsum("nhk,mhk->hnm", queries, keys).softmax(-1)).sum(-1).mean()
        assert entropy / math.log(64) < 0.95
        assert attention.scale_H.tolist() == pytest.approx([max(scale, HEAD_SIZE**0.5)] * HEADS)


def test_padding_is_in_no_state_vector_and_no_gauge() -> None:
    """A document that ends inside its second of three windows leaves what it would without the rest."""
    model, tokens = build(gate_kind="lstm"), text(3 * WINDOW)
    state = step(model, text(2 * WINDOW).flip(1)).state
    valid = torch.arange(3 * WINDOW).expand(LANES, -1) < 2 * WINDOW - 2
    padded = step(model, tokens, state, valid)
    short = step(model, tokens[:, : 2 * WINDOW - 2], state)
    torch.testing.assert_close(padded.state.memory, short.state.memory)
    other = step(model, torch.where(valid, tokens, (tokens + 7) % VOCABULARY), state, valid)
    assert other.gauges == padded.gauges
    of_memory = {"memory_norm", "memory_change", "memory_rank", "memory_between"}
    assert set(padded.gauges) == {"gate", "state_read", "cache_share"} | of_memory


def test_the_gate_s_gauge_is_what_is_kept() -> None:
    """A state without anything to add to it shrinks by the factor that the gauge says."""
    model = build()
    with torch.no_grad():
        model.vectors[0].cell.gate_D.fill_(1.5)
        model.vectors[0].cell.candidate.weight.zero_()
        model.vectors[0].cell.candidate.bias.zero_()
    output = step(model, text(WINDOW))
    expected = 1 / (1 + math.exp(-1.5))
    assert float(output.gauges["gate"]) == pytest.approx(expected)
    torch.testing.assert_close(output.state.memory[0], model.init_state(LANES).memory[0] * expected)


@pytest.mark.parametrize("part", ["state", "cache"])
def test_dropout_is_of_whole_lanes_at_the_start_of_a_segment(part: str) -> None:
    """Each lane is that of a model that forgets, or that of one that does not; about half of each; none when scoring."""
    lanes = 64
    model, tokens = build(**{f"{part}_dropout": 0.5}), text(LENGTH)[:1].expand(lanes, -1)
    model.eval()
    state = step(model, tokens).state
    fresh = model.init_state(lanes)
    forgetful = state._replace(memory=fresh.memory) if part == "state" else state._replace(cache=fresh.cache)
    kept, lost = (step(model, tokens, each).hidden_BTD for each in (state, forgetful))
    hidden = step(model.train(), tokens, state).hidden_BTD
    alike = [[bool(torch.allclose(*pair)) for pair in zip(hidden, other, strict=True)] for other in (kept, lost)]
    assert all(one != other for one, other in zip(*alike, strict=True))
    assert 16 < sum(alike[1]) < 48


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["arch.window=3"], ("segment is 16", "arch.window 3", "multiple")),
        (["arch.window=32"], ("segment is 16", "arch.window 32", "multiple")),
        (["arch.recurrent_layers=[3]"], ("arch.recurrent_layers is [3]", "expected different", "from 1 to 2")),
        (["arch.recurrent_layers=[1,1]"], ("arch.recurrent_layers is [1, 1]", "expected different", "from 1 to 2")),
        (["arch.feedback=true", "mem=0"], ("arch.feedback is true", "mem is 0", "expected arch.feedback=false")),
        (["arch.state_dropout=0.1", "mem=0"], ("arch.state_dropout is 0.1", "mem is 0", "expected")),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, check=says(*words)):
        configure("arch=block", *overrides)


def test_the_default_is_the_papers_placement() -> None:
    found = [
        make(Block, replace(SHAPE, layers=n), **OPTIONS | {"recurrent_layers": []}).recurrent_layers for n in (1, 3, 12)
    ]
    assert found == [[0], [1], [9]]
