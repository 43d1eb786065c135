"""Each architecture against something that shares none of its code."""

import math

import pytest
import torch
from torch import Tensor

from memexp.model.knn import Knn
from memexp.model.knn_memory.layer import gated
from memexp.model.knn_memory.retrieved import Retrieved
from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape
from memexp.model.vanilla import Vanilla
from memexp.model.xl import Xl

from .make import make

VOCABULARY, LANES, LENGTH = 30, 2, 48
COMMON = {"normalise": True, "scale": 3.0, "dropout": 0.0, "key_smear": False, "keys_as_queries": False}


def shape(*, segment: int, layers: int = 2) -> Shape:
    return Shape(vocabulary=VOCABULARY, layers=layers, width=24, heads=2, head_size=8, feedforward=40, segment=segment)


def tokens() -> Tensor:
    torch.manual_seed(5)
    return torch.randint(VOCABULARY, (LANES, LENGTH))


def randomise(model: SegmentModel) -> SegmentModel:
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


def gain(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


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


def t5_bucket(distance: int) -> int:
    """Buckets as the T5 paper describes them: 0 to 15 exact, then logarithmic, all from 128 on in the last."""
    if distance < 16:
        return distance
    return min(31, 16 + math.floor(math.log(distance / 16) / math.log(8) * 16))


@pytest.mark.parametrize("position", ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"])
@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("segment", [8, 16, 5])
def test_xl_with_room_for_everything_is_one_long_pass(position: str, smear: bool, segment: int) -> None:
    options = {**COMMON, "position": position, "key_smear": smear}
    xl = randomise(make(Xl, shape(segment=segment), mem=LENGTH, **options))
    vanilla = make(Vanilla, shape(segment=LENGTH), mem=0, **options).double()
    vanilla.load_state_dict(xl.state_dict())
    text = tokens()
    torch.testing.assert_close(read(xl, text, segment=segment), read(vanilla, text, segment=LENGTH))


@pytest.mark.parametrize(("write", "cache"), [("all", 0), ("leaving", 0), ("leaving", 8), ("leaving", 12)])
def test_knn_that_retrieves_everything_is_exact_softmax_attention(write: str, cache: int) -> None:
    """One layer, no positions, joint softmax: memory and local keys together are all keys of the document.

    Writing all pairs is compared without a cache only, for by design what is in the cache is then attended to twice.
    """
    options = {**COMMON, "position": "none"}
    knn = make(Knn, 
        shape(segment=8, layers=1), mem=LENGTH, cache=cache, knn_layers=[1], neighbours=LENGTH, search="exact", stored="fp32", stored_on="device",
        combine="joint", gate=0.0, write=write, knn_position=True, **options,
    )  # fmt: skip
    knn = randomise(knn)
    vanilla = make(Vanilla, shape(segment=LENGTH, layers=1), mem=0, **options).double()
    vanilla.load_state_dict(knn.state_dict())
    text = tokens()
    torch.testing.assert_close(read(knn, text, segment=8), read(vanilla, text, segment=LENGTH))


def test_gated_reading_is_the_paper_s_formula() -> None:
    """V = g softmax(scores) V_m + (1 - g) V_c for each head, and V_c alone where nothing was found."""
    torch.manual_seed(7)
    scores, values = torch.randn(2, 2, 3, 5), torch.randn(2, 2, 3, 5, 4)
    found = torch.ones(2, 2, 3, 5, dtype=torch.bool)
    found[0, :, :, 3:] = False
    found[1, :, 2] = False
    local, gate = torch.randn(2, 2, 3, 4), torch.tensor([0.7, -1.2])
    slots = torch.arange(3 * 5).view(3, 5).expand_as(scores)
    retrieved = Retrieved(slots, found, scores.masked_fill(~found, -math.inf), values.flatten(2, 3), slots)
    read_BHTK = gated(retrieved, local, gate).read_BHTK
    for lane in range(2):
        for head in range(2):
            for t in range(3):
                count = int(found[lane, head, t].sum())
                expected = local[lane, head, t]
                if count:
                    weights = scores[lane, head, t, :count].exp() / scores[lane, head, t, :count].exp().sum()
                    share = 1 / (1 + math.exp(-gate[head]))
                    memory = sum(w * v for w, v in zip(weights, values[lane, head, t, :count], strict=True))
                    expected = share * memory + (1 - share) * expected
                torch.testing.assert_close(read_BHTK[lane, head, t], expected)


def test_gradient_reaches_queries_and_never_the_ring() -> None:
    options = {**COMMON, "position": "none"}
    knn = make(Knn, 
        shape(segment=8, layers=1), mem=40, cache=0, knn_layers=[1], neighbours=4, search="exact", stored="fp32", stored_on="device",
        combine="gate", gate=0.0, write="all", knn_position=True, **options,
    )  # fmt: skip
    text = tokens()
    state = knn.init_state(LANES)
    for part in text.split(8, dim=1):
        output = knn(part, torch.ones_like(part, dtype=torch.bool), state, torch.zeros(LANES, dtype=torch.bool))
        state = output.state
    output.hidden_BTD.sum().backward()
    assert knn.layers[0].attention.queries_values.weight.grad[:16].abs().sum() > 0
    assert state.memory[0].keys_BHRK.grad_fn is None
    assert not state.memory[0].keys_BHRK.requires_grad


def test_inspect_says_how_far_back_a_token_was_read() -> None:
    """A text that repeats itself: with the smear, what a token reads most is its last occurrence's neighbourhood."""
    for write, cache in (("all", 0), ("all", 8), ("leaving", 8)):
        knn = make(Knn, 
            shape(segment=8, layers=1), mem=40, cache=cache, knn_layers=[1], neighbours=1, search="exact", stored="fp32", stored_on="device",
            combine="gate", gate=0.0, write=write, knn_position=True, position="none",
            **{**COMMON, "keys_as_queries": True},
        )  # fmt: skip
        text = torch.arange(24).expand(LANES, -1).clone()
        text[:, 21] = 2  # seen 19 tokens before
        state = knn.init_state(LANES)
        for index, part in enumerate(text.split(8, dim=1)):
            valid, reset = torch.ones_like(part, dtype=torch.bool), torch.full((LANES,), index == 0)
            if index == 2:
                found = knn.inspect(part, valid, state, reset)
            state = knn(part, valid, state, reset).state
        assert (found.ages_BTLHk[:, 5] == 19).all()
