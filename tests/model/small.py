"""A small shape and a text for architectures, and formulas written out that more than one test compares with."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape

Module = TypeVar("Module", bound=nn.Module)

VOCABULARY, LANES, LENGTH = 30, 2, 48

COMMON = {"normalise": True, "scale": 3.0, "dropout": 0.0, "key_smear": False, "keys_as_queries": False}


def shape(*, segment: int, layers: int = 2) -> Shape:
    return Shape(vocabulary=VOCABULARY, layers=layers, width=24, heads=2, head_size=8, feedforward=40, segment=segment)


def tokens() -> Tensor:
    torch.manual_seed(5)
    return torch.randint(VOCABULARY, (LANES, LENGTH))


def randomise(model: Module) -> Module:
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.double()


def read(model: SegmentModel, text: Tensor, *, segment: int) -> Tensor:
    """Hidden states of a text that is one document a lane, read in segments."""
    state, hidden = model.init_state(LANES), []
    for index, part in enumerate(text.split(segment, dim=1)):
        reset = torch.full((LANES,), index == 0)
        output = model(part, torch.ones_like(part, dtype=torch.bool), state, reset)
        state = output.state
        hidden.append(output.hidden_BTD)
    return torch.cat(hidden, dim=1)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def gain(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def t5_bucket(distance: int) -> int:
    """Buckets as the T5 paper describes them: 0 to 15 exact, then logarithmic, all from 128 on in the last."""
    if distance < 16:
        return distance
    return min(31, 16 + math.floor(math.log(distance / 16) / math.log(8) * 16))


def in_window(y: Tensor, layer: dict[str, Tensor], *, reach: int) -> Tensor:
    """Attention of two heads, each token to itself and the `reach` before it, without the output projection."""
    all_q, all_v = (y @ layer["attention.queries_values.weight"].T).split(16, dim=-1)
    all_k, heads = y @ layer["attention.keys.weight"].T, []
    for head in range(2):
        q, k, v = (z[..., 8 * head : 8 * head + 8] for z in (all_q, all_k, all_v))
        q, k = unit(q) * layer["attention.scale_H"][head].abs(), unit(k)
        rows = []
        for i in range(y.shape[1]):
            seen = range(max(0, i - reach), i + 1)
            bias = torch.stack([layer["attention.position.bias_HR"][head, t5_bucket(i - j)] for j in seen])
            scores = torch.stack([(q[:, i] * k[:, j]).sum(-1) for j in seen], -1) + bias
            rows.append((scores.softmax(-1)[..., None] * v[:, seen.start : seen.stop]).sum(1))
        heads.append(torch.stack(rows, 1))
    return torch.cat(heads, -1)
