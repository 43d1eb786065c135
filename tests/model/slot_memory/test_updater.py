"""The updaters against their formulas."""

import math

import pytest
import torch
from torch import Tensor, nn

from memexp.model.slot_memory.updater import AdditiveUpdater, GatedUpdater

from ..small import gain, randomise, unit
from .slots import LANES, OPTIONS, SHAPE, SLOTS, memory_and_states, parts


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
