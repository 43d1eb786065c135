"""Associative RMT against its equations written out, and against the plain decoder where both must agree."""

import pytest
import torch
from torch import Tensor

from memexp.model.armt import Armt
from memexp.model.segment import SegmentModel
from memexp.model.vanilla import Vanilla

from .make import make
from .small import COMMON, gain, randomise, read, shape, t5_bucket, tokens, unit


def armt(*, mem: int, segment: int = 8, as_built: bool = False, **options: object) -> SegmentModel:
    merged = {**COMMON, "position": "t5", "key_size": 5, **options}
    torch.manual_seed(6)
    model = make(Armt, shape(segment=segment), mem=mem, **merged)  # type: ignore[arg-type]
    return model.double() if as_built else randomise(model)


def plain(model: SegmentModel, **options: object) -> SegmentModel:
    """The plain decoder with the weights of its layers."""
    vanilla = make(Vanilla, shape(segment=8), mem=0, **{**COMMON, "position": "t5", **options}).double()
    shared = {name: value for name, value in model.state_dict().items() if name.startswith(("head.", "layers."))}
    vanilla.load_state_dict(shared)
    return vanilla


@pytest.mark.parametrize("position", ["t5", "rotary", "xl"])
@pytest.mark.parametrize(("mem", "memory"), [(3, "associative"), (0, "associative"), (0, "parallel")])
def test_a_new_model_is_the_plain_decoder(position: str, mem: int, memory: str) -> None:
    """Its W_V is 0, and the tokens do not see the memory tokens. It does learn from there."""
    ours = armt(mem=mem, position=position, memory=memory, as_built=True, key_smear=True)
    vanilla = plain(ours, position=position, key_smear=True)
    torch.testing.assert_close(read(ours, tokens(), segment=8), read(vanilla, tokens(), segment=8))
    if mem:
        read(ours, tokens(), segment=8).square().sum().backward()
        own = {name: parameter for name, parameter in ours.named_parameters() if name.startswith("memories.")}
        values = [parameter for name, parameter in own.items() if name.endswith(".values.weight")]
        assert len(values) == 2  # one for each layer
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in values)


def test_without_what_was_written_it_is_plain_segments() -> None:
    """Unlike RMT: no memory token is read, and each segment starts with the same ones."""
    ours, text = armt(mem=3), tokens()
    parts = [read(ours, part, segment=8) for part in text.split(8, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), read(plain(ours), text, segment=8))
    assert not torch.allclose(read(ours, text, segment=8), read(plain(ours), text, segment=8))


def dpfp(x: Tensor) -> Tensor:
    halves = torch.cat([x.clamp_min(0), (-x).clamp_min(0)], -1)
    size = halves.shape[-1]
    return torch.stack([halves[..., i] * halves[..., (i - s) % size] for s in (1, 2, 3) for i in range(size)], -1)


@pytest.mark.parametrize("memory", ["associative", "parallel"])
def test_layers_are_their_equations_written_out(memory: str) -> None:
    """Position by position, from the weights by name: who sees whom, what is read before a layer and written after it."""
    slots, segment = 3, 6
    model = armt(mem=slots, segment=segment, memory=memory)
    own, text = dict(model.named_parameters()), tokens()[:, : 4 * segment]
    front = slots if memory == "parallel" else 0
    matrix = torch.zeros(2, 2, 30, 24).double()  # layer, lane
    total = torch.zeros(2, 2, 30).double()
    carried = [own["initial_LMD"][number].expand(2, -1, -1) for number in (0, 1)] if front else []
    hidden = []
    for part in text.split(segment, dim=1):
        x = torch.cat([own["head.embedding_VD"][part], own["write_MD"].expand(2, -1, -1)], dim=1)
        if front:
            x = torch.cat([carried[0], x], dim=1)
        for number in (0, 1):
            layer = {key.removeprefix(f"layers.{number}."): value for key, value in own.items()}
            if front:
                x = torch.cat([carried[number], x[:, front:]], dim=1)
            else:
                own_memory = {key.removeprefix(f"memories.{number}."): value for key, value in own.items()}
                q = dpfp(gain(x) @ own_memory["queries.weight"].T)
                divisor = torch.einsum("bpf,bf->bp", q, total[number]).clamp_min(1e-5)
                x = x + torch.einsum("bpf,bfd->bpd", q, matrix[number]) / divisor[..., None]
            y = gain(x, layer["attention_norm.weight"])
            queries, values = (y @ layer["attention.queries_values.weight"].T).split(16, dim=-1)
            keys, heads = y @ layer["attention.keys.weight"].T, []
            for head in range(2):
                here, rows = slice(8 * head, 8 * head + 8), []
                for i in range(x.shape[1]):
                    scores = (unit(keys[:, : i + 1, here]) * unit(queries[:, i : i + 1, here])).sum(-1)
                    bias = [layer["attention.position.bias_HR"][head, t5_bucket(i - j)] for j in range(i + 1)]
                    scores = scores * layer["attention.scale_H"][head].abs() + torch.stack(bias)
                    rows.append((scores.softmax(-1)[..., None] * values[:, : i + 1, here]).sum(1))
                heads.append(torch.stack(rows, 1))
            x = x + torch.cat(heads, -1) @ layer["attention.output.weight"].T
            y = gain(x, layer["feedforward_norm.weight"])
            x = x + (y @ layer["feedforward.rise.weight"].T).relu() @ layer["feedforward.fall.weight"].T
            outputs = x[:, front + segment :]
            if front:
                carried[number] = outputs
                continue
            o = gain(outputs)
            k, v = dpfp(o @ own_memory["keys.weight"].T), o @ own_memory["values.weight"].T
            beta = (o @ own_memory["strength.weight"].T + own_memory["strength_bias"]).sigmoid()[..., 0]
            new_matrix, new_total = matrix.clone(), total.clone()
            for b in range(2):
                for i in range(slots):
                    shared = k[b, i] @ total[number, b]
                    known = k[b, i] @ matrix[number, b] / shared.clamp_min(1e-5)
                    gamma = (1 - shared / k[b, i].square().sum()).clamp(0, 1).detach()
                    new_matrix[number, b] += beta[b, i] * torch.outer(k[b, i], v[b, i] - known)
                    new_total[number, b] += gamma * k[b, i]  # without beta
            matrix, total = new_matrix, new_total
        hidden.append(x[:, front : front + segment])
    torch.testing.assert_close(read(model, text, segment=segment), torch.cat(hidden, dim=1))


def test_a_lane_without_text_writes_nothing() -> None:
    model, text = armt(mem=3), tokens()[:, :8]
    valid = torch.ones_like(text, dtype=torch.bool)
    valid[1] = False
    state = model.step(text, torch.ones_like(valid), model.init_state(2)).state
    again = model.step(text, valid, state).state
    for old, new in zip(state.memory, again.memory, strict=True):
        assert not torch.equal(new.matrix_BFV[0], old.matrix_BFV[0])
        assert all(torch.equal(after[1], before[1]) for after, before in zip(new, old, strict=True))
