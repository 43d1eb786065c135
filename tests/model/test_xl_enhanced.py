"""Enhanced recurrence against a loop over segments, and against Transformer-XL, which it must not be."""

import pytest
import torch
from torch import Tensor

from memexp.model.segment import SegmentModel
from memexp.model.xl import Xl
from memexp.model.xl_enhanced import XlEnhanced

from .make import make
from .small import COMMON, LANES, LENGTH, gain, randomise, read, shape, t5_bucket, tokens, unit


@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("position", ["none", "t5"])
@pytest.mark.parametrize("mem", [8, 5, 20])
def test_two_layers_written_out(mem: int, position: str, smear: bool) -> None:
    """Token by token: keys of this segment's inputs, and of the outputs of the `mem` tokens before the segment."""
    segment = 8
    model = randomise(
        make(XlEnhanced, shape(segment=segment), mem=mem, **{**COMMON, "position": position, "key_smear": smear})
    )
    text, weights = tokens(), dict(model.named_parameters())
    whole = torch.zeros(LANES, LENGTH, 24, dtype=torch.float64)
    made = [torch.zeros_like(whole) for _ in range(2)]  # outputs of each layer so far
    normed_inputs = [torch.zeros_like(whole) for _ in range(2)]
    for start in range(0, LENGTH, segment):
        here = slice(start, start + segment)
        x = weights["head.embedding_VD"][text[:, here]]
        for layer in range(2):
            own = {key.removeprefix(f"layers.{layer}."): value for key, value in weights.items()}
            normed_inputs[layer][:, here] = gain(x, own["attention_norm.weight"])
            outputs = gain(made[layer], own["attention_norm.weight"])

            def key_and_value(source: Tensor, s: int, own: dict[str, Tensor] = own) -> tuple[Tensor, Tensor]:
                mixed = source[:, s]
                if smear:
                    mix = own["attention.smear_D"].sigmoid()
                    mixed = mix * mixed + ((1 - mix) * source[:, s - 1] if s else 0)
                return mixed @ own["attention.keys.weight"].T, source[:, s] @ own["attention.queries_values.weight"][
                    16:
                ].T

            rows = []
            for t in range(start, start + segment):
                query = normed_inputs[layer][:, t] @ own["attention.queries_values.weight"][:16].T
                seen = [(s, *key_and_value(outputs, s)) for s in range(max(0, start - mem), start)]
                seen += [(s, *key_and_value(normed_inputs[layer], s)) for s in range(start, t + 1)]
                heads = []
                for head in range(2):
                    part = slice(8 * head, 8 * head + 8)
                    scores = torch.stack(
                        [(unit(query[:, part]) * unit(key[:, part])).sum(-1) for _, key, _ in seen], -1
                    )
                    scores = scores * own["attention.scale_H"][head].abs()
                    if position == "t5":
                        bias = own["attention.position.bias_HR"][head]
                        scores = scores + torch.stack([bias[t5_bucket(t - s)] for s, *_ in seen])
                    values = torch.stack([value[:, part] for *_, value in seen], 1)
                    heads.append((scores.softmax(-1)[..., None] * values).sum(1))
                rows.append(torch.cat(heads, -1))
            x = x + torch.stack(rows, 1) @ own["attention.output.weight"].T
            y = gain(x, own["feedforward_norm.weight"])
            x = x + (y @ own["feedforward.rise.weight"].T).relu() @ own["feedforward.fall.weight"].T
            made[layer][:, here] = x
        whole[:, here] = x
    torch.testing.assert_close(read(model, text, segment=segment), whole)


def moved(model: SegmentModel) -> bool:
    """Whether the last of six segments depends on the first."""
    text = tokens()
    other = text.clone()
    other[:, :8] = (other[:, :8] + 1) % 30
    return bool((read(model, text, segment=8)[:, -8:] - read(model, other, segment=8)[:, -8:]).abs().max() > 1e-9)


def test_it_reaches_beyond_layers_times_cache_where_xl_ends() -> None:
    """Two layers and a cache of 8: Transformer-XL sees 16 tokens before the segment, and the change is 40 before it."""
    xl = randomise(make(Xl, shape(segment=8), mem=8, **{**COMMON, "position": "t5"}))
    enhanced = make(XlEnhanced, shape(segment=8), mem=8, **{**COMMON, "position": "t5"}).double()
    enhanced.load_state_dict(xl.state_dict())
    assert not moved(xl)
    assert moved(enhanced)
    found, other = read(enhanced, tokens(), segment=8), read(xl, tokens(), segment=8)
    torch.testing.assert_close(found[:, :8], other[:, :8])  # with nothing in the cache they are one
    assert (found[:, 8:16] - other[:, 8:16]).abs().max() > 1e-3
