"""Infini-attention against its equations written out, and against the plain decoder where both must agree."""

import pytest
import torch
from torch import Tensor

from memexp.config.groups import Optim
from memexp.model.infini import GATE_RATE, Infini
from memexp.model.segment import SegmentModel
from memexp.model.vanilla import Vanilla
from memexp.train.optimizer import build_optimizer

from .make import make
from .small import COMMON, gain, randomise, read, shape, t5_bucket, tokens, unit


def infini(*, segment: int, layers: int = 2, mem: int = 1, **options: object) -> SegmentModel:
    merged = {**COMMON, "position": "t5", **options}
    return randomise(make(Infini, shape(segment=segment, layers=layers), mem=mem, **merged))  # type: ignore[arg-type]


def set_gates(model: SegmentModel, value: float) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate_H"):
                parameter.fill_(value)


def phi(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, x.exp())


@pytest.mark.parametrize("write", ["linear", "delta"])
@pytest.mark.parametrize("normalise", [True, False])
def test_layers_are_their_equations_written_out(write: str, normalise: bool) -> None:
    """Head by head and query by query, from the weights by name. The linear read is attention over all earlier segments."""
    segment, options = 6, {} if normalise else {"normalise": False, "scale": 1.0}
    model = infini(segment=segment, write=write, **options)
    own, text = dict(model.named_parameters()), tokens()[:, : 4 * segment]
    past: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}  # of layer and head: phi(k), v of every earlier token
    matrices: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    hidden = []
    for part in text.split(segment, dim=1):
        x = own["head.embedding_VD"][part]
        for number in (0, 1):
            layer = {key.removeprefix(f"layers.{number}."): value for key, value in own.items()}
            y = gain(x, layer["attention_norm.weight"])
            all_q, all_v = (y @ layer["attention.queries_values.weight"].T).split(16, dim=-1)
            all_k, heads = y @ layer["attention.keys.weight"].T, []
            for head in range(2):
                q, k, v = (z[..., 8 * head : 8 * head + 8] for z in (all_q, all_k, all_v))
                local_q, local_k = q / 8**0.5, k
                if normalise:
                    q, k = unit(q) * 8**0.5, unit(k) * 8**0.5
                    local_q, local_k = q / 8**0.5 * layer["attention.scale_H"][head].abs(), k / 8**0.5
                rows = []
                for i in range(segment):
                    bias = [layer["attention.position.bias_HR"][head, t5_bucket(i - j)] for j in range(i + 1)]
                    scores = (local_k[:, : i + 1] * local_q[:, i : i + 1]).sum(-1) + torch.stack(bias)
                    local = (scores.softmax(-1)[..., None] * v[:, : i + 1]).sum(1)
                    recalled = torch.zeros_like(local)
                    place = (number, head)
                    if write == "linear" and place in past:
                        weights = [(phi(q[:, i]) * key).sum(-1, keepdim=True) for key, _ in past[place]]
                        sums = zip(weights, past[place], strict=True)
                        recalled = sum(w * value for w, (_, value) in sums) / sum(weights)  # type: ignore[assignment]
                    elif place in matrices:
                        matrix, total = matrices[place]
                        recalled = torch.einsum("bk,bkv->bv", phi(q[:, i]), matrix) / (phi(q[:, i]) * total).sum(
                            -1, keepdim=True
                        )
                    gate = own[f"memories.{number}.gate_H"][head].sigmoid()
                    rows.append(gate * recalled + (1 - gate) * local)
                heads.append(torch.stack(rows, 1))
                past.setdefault(place, []).extend((phi(k[:, j]), v[:, j]) for j in range(segment))
                matrix, total = matrices.get(place, (torch.zeros(2, 8, 8).double(), torch.zeros(2, 8).double()))
                new, new_total = matrix.clone(), total.clone()
                for j in range(segment):
                    f = phi(k[:, j])
                    known = torch.einsum("bk,bkv->bv", f, matrix) / (f * total).sum(-1, keepdim=True).clamp_min(1e-9)
                    new = new + f[:, :, None] * (v[:, j] - known)[:, None]
                    new_total = new_total + f
                matrices[place] = new, new_total
            x = x + torch.cat(heads, -1) @ layer["attention.output.weight"].T
            y = gain(x, layer["feedforward_norm.weight"])
            x = x + (y @ layer["feedforward.rise.weight"].T).relu() @ layer["feedforward.fall.weight"].T
        hidden.append(x)
    torch.testing.assert_close(read(model, text, segment=segment), torch.cat(hidden, dim=1))


@pytest.mark.parametrize(("mem", "gate"), [(0, 1.0), (1, -40.0)])
@pytest.mark.parametrize("position", ["t5", "rotary"])
def test_without_a_memory_or_with_closed_gates_it_is_the_plain_decoder(mem: int, gate: float, position: str) -> None:
    ours = infini(segment=8, mem=mem, position=position)
    set_gates(ours, gate)
    vanilla = make(Vanilla, shape(segment=8), mem=0, **{**COMMON, "position": position}).double()
    vanilla.load_state_dict({name: value for name, value in ours.state_dict().items() if "memories" not in name})
    torch.testing.assert_close(read(ours, tokens(), segment=8), read(vanilla, tokens(), segment=8))


def test_with_open_gates_a_token_sees_no_other_of_its_segment() -> None:
    model, text = infini(segment=8), tokens()
    set_gates(model, 40.0)
    changed = text.clone()
    changed[:, 40:43] = (changed[:, 40:43] + 1) % 30
    before, after = read(model, text, segment=8), read(model, changed, segment=8)
    torch.testing.assert_close(after[:, 43:], before[:, 43:])
    assert not torch.allclose(after[:, 40:43], before[:, 40:43])
    set_gates(model, 0.0)
    assert not torch.allclose(read(model, changed, segment=8)[:, 43:], read(model, text, segment=8)[:, 43:])


def test_in_segments_of_one_token_delta_is_the_rule_token_by_token() -> None:
    """One layer: M and z after each token, from its projections."""
    model, text = infini(segment=1, layers=1), tokens()[:, :12]
    own = dict(model.named_parameters())
    y = gain(own["head.embedding_VD"][text], own["layers.0.attention_norm.weight"])
    values = (y @ own["layers.0.attention.queries_values.weight"].T)[..., 16:].unflatten(-1, (2, 8))
    keys = phi(unit((y @ own["layers.0.attention.keys.weight"].T).unflatten(-1, (2, 8))) * 8**0.5)
    matrix, total, state = torch.zeros(2, 2, 8, 8).double(), torch.zeros(2, 2, 8).double(), model.init_state(2)
    for t in range(12):
        state = model.step(text[:, t : t + 1], torch.ones(2, 1, dtype=torch.bool), state).state
        for b in range(2):
            for h in range(2):
                k = keys[b, t, h]
                known = k @ matrix[b, h] / (k @ total[b, h]) if t else 0
                matrix[b, h] += torch.outer(k, values[b, t, h] - known)
                total[b, h] += k
    torch.testing.assert_close(tuple(state.memory[0]), (matrix, total))


def test_a_memory_has_no_positions() -> None:
    """One layer, linear: the order of the tokens of an earlier segment changes nothing that is read of it."""
    model, text = infini(segment=8, layers=1, write="linear", position="rotary"), tokens()
    shuffled = text.clone()
    shuffled[:, 16:24] = text[:, 16:24].flip(1)
    found, expected = read(model, shuffled, segment=8), read(model, text, segment=8)
    torch.testing.assert_close(found[:, 24:], expected[:, 24:])
    assert not torch.allclose(found[:, 16:24], expected[:, 16:24])


def test_gates_start_at_one_half_and_learn_faster_without_decay() -> None:
    model = make(Infini, shape(segment=8), mem=1)
    groups = build_optimizer(model, Optim(rate=0.1, gate_rate=2.0, weight_decay=0.5)).param_groups
    for name, parameter in model.named_parameters():
        [group] = [group for group in groups if any(each is parameter for each in group["params"])]
        if name.endswith("gate_H"):
            assert parameter.sigmoid().tolist() == [0.5, 0.5]
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.2 * GATE_RATE), 0.0)
        else:
            assert group["lr"] <= 0.2
