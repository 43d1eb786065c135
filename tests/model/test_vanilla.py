"""The plain decoder against its formula."""

import pytest
import torch

from memexp.model.vanilla import Vanilla

from .make import make
from .small import COMMON, LENGTH, gain, randomise, read, shape, t5_bucket, tokens, unit


@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("position", ["none", "t5"])
def test_vanilla_is_the_decoder_written_out(position: str, smear: bool) -> None:
    """Head by head and query by query, from the weights by name."""
    model = randomise(make(Vanilla, shape(segment=LENGTH), mem=0, position=position, **{**COMMON, "key_smear": smear}))
    weights, text = dict(model.named_parameters()), tokens()
    x = weights["head.embedding_VD"][text]
    for layer in range(2):
        own = {key.removeprefix(f"layers.{layer}."): value for key, value in weights.items()}
        y = gain(x, own["attention_norm.weight"])
        z = y
        if smear:
            mix = own["attention.smear_D"].sigmoid()
            z = torch.stack([mix * y[:, t] + (1 - mix) * (y[:, t - 1] if t else 0) for t in range(LENGTH)], 1)
        queries = y @ own["attention.queries_values.weight"][:16].T
        values = y @ own["attention.queries_values.weight"][16:].T
        keys = z @ own["attention.keys.weight"].T
        heads = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            rows = []
            for t in range(LENGTH):
                scores = unit(keys[:, : t + 1, part]) @ unit(queries[:, t, part])[..., None]
                scores = scores.squeeze(-1) * own["attention.scale_H"][head].abs()
                if position == "t5":
                    bias = [own["attention.position.bias_HR"][head, t5_bucket(t - s)] for s in range(t + 1)]
                    scores = scores + torch.stack(bias)
                rows.append((scores.softmax(-1)[..., None] * values[:, : t + 1, part]).sum(1))
            heads.append(torch.stack(rows, 1))
        x = x + torch.cat(heads, -1) @ own["attention.output.weight"].T
        y = gain(x, own["feedforward_norm.weight"])
        x = x + (y @ own["feedforward.rise.weight"].T).relu() @ own["feedforward.fall.weight"].T
    torch.testing.assert_close(read(model, text, segment=LENGTH), x)
