"""Compressive Transformer against Transformer-XL, and against loops over pairs of tokens."""

import pytest
import torch
from torch import Tensor

from memexp.model import compressive as module
from memexp.model.compressive import Compressive
from memexp.model.transformer import attention
from memexp.model.transformer.attention import Mask, Sight, local_scores
from memexp.model.transformer.flash_cpu import Layout
from memexp.model.transformer.position import T5Bias
from memexp.model.transformer.shape import Shape
from memexp.model.xl import Xl

from .make import make
from .small import COMMON, LANES, LENGTH, gain, randomise, read, shape, t5_bucket, tokens, unit

SCHEMES = ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"]


@pytest.mark.parametrize("position", SCHEMES)
@pytest.mark.parametrize(("segment", "cache", "mem"), [(8, 8, 16), (8, 12, 7), (12, 4, 9), (8, 24, 40)])
def test_one_token_a_slot_is_transformer_xl(position: str, segment: int, cache: int, mem: int) -> None:
    """What leaves the cache uncompressed is as if it had stayed there, at every distance."""
    options = {**COMMON, "position": position, "key_smear": True}
    ours = randomise(
        make(Compressive, shape(segment=segment), mem=mem, cache=cache, factor=1, compress="mean", **options)
    )
    xl = make(Xl, shape(segment=segment), mem=mem + cache, **options).double()
    xl.load_state_dict(ours.state_dict())
    text = tokens()
    torch.testing.assert_close(read(ours, text, segment=segment), read(xl, text, segment=segment))


@pytest.mark.parametrize(("cache", "far"), [(2, False), (6, True)])
def test_slots_are_far_keys_if_all_have_the_same_bias(cache: int, far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are several tokens apart, so a tile of one token a column would give those within T5's range a wrong bias."""
    monkeypatch.setattr(T5Bias, "FARTHEST", 6)
    monkeypatch.setattr(attention, "BLOCK", 2)
    layouts, inner = [], attention.attend_in_blocks
    monkeypatch.setattr(
        attention, "attend_in_blocks", lambda *args, **more: layouts.append(args[3]) or inner(*args, **more)
    )
    model = randomise(
        make(Compressive, shape(segment=8), mem=7, cache=cache, factor=2, compress="mean", **COMMON, position="t5")
    )
    found = read(model, tokens(), segment=8)
    assert {layout.far for layout in layouts if isinstance(layout, Layout)} == {far}
    monkeypatch.setattr(module, "attend", written_out)
    torch.testing.assert_close(found, read(model, tokens(), segment=8))


def written_out(sight: Sight, mask: Mask) -> Tensor:
    """Attention with a bias and a mask for each pair of a query and a key."""
    return local_scores(sight, mask).softmax(-1) @ sight.values_BGSK


@pytest.mark.parametrize("position", ["none", "t5", "alibi"])
@pytest.mark.parametrize("kind", ["mean", "max", "convolution"])
def test_one_layer_written_out(position: str, kind: str) -> None:
    """Query by query: the newest M groups of three that have left the cache, where their middle token stood."""
    segment, cache, mem, factor = 6, 3, 4, 3
    model = randomise(
        make(Compressive, 
            shape(segment=segment, layers=1), mem=mem, cache=cache, factor=factor, compress=kind,
            **{**COMMON, "position": position},
        )
    )  # fmt: skip
    own, text = {key.removeprefix("layers.0."): value for key, value in model.named_parameters()}, tokens()
    x = own["head.embedding_VD"][text]
    y = gain(x, own["attention_norm.weight"])
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        queries = unit((y @ own["attention.queries_values.weight"][:16].T)[..., part])
        values = (y @ own["attention.queries_values.weight"][16:].T)[..., part]
        keys = unit((y @ own["attention.keys.weight"].T)[..., part])
        rows = []
        for t in range(LENGTH):
            first = max(0, t - t % segment - cache)  # of what is in the cache
            groups = range(max(0, first - mem * factor), first, factor)
            seen = [(s, keys[:, s], values[:, s]) for s in range(first, t + 1)]
            for start in groups:
                key = squeeze(keys[:, start : start + factor], kind, own.get("compressors.0.keys.weight"), part)
                value = squeeze(values[:, start : start + factor], kind, own.get("compressors.0.values.weight"), part)
                seen.append((start + 1, unit(key), value))
            scores = torch.stack([(queries[:, t] * key).sum(-1) for _, key, _ in seen], -1)
            scores = scores * own["attention.scale_H"][head].abs()
            if position == "t5":
                scores = scores + torch.stack(
                    [own["attention.position.bias_HR"][head, t5_bucket(t - s)] for s, *_ in seen]
                )
            elif position == "alibi":
                scores = scores - torch.tensor([2.0 ** (-4 * (head + 1)) * (t - s) for s, *_ in seen])
            rows.append((scores.softmax(-1)[..., None] * torch.stack([value for *_, value in seen], 1)).sum(1))
        heads.append(torch.stack(rows, 1))
    x = x + torch.cat(heads, -1) @ own["attention.output.weight"].T
    y = gain(x, own["feedforward_norm.weight"])
    x = x + (y @ own["feedforward.rise.weight"].T).relu() @ own["feedforward.fall.weight"].T
    torch.testing.assert_close(read(model, text, segment=segment), x)


def squeeze(group_BFK: Tensor, kind: str, weight: Tensor | None, part: slice) -> Tensor:
    """One vector of three."""
    if kind == "mean":
        return (group_BFK[:, 0] + group_BFK[:, 1] + group_BFK[:, 2]) / 3
    if kind == "max":
        return torch.maximum(torch.maximum(group_BFK[:, 0], group_BFK[:, 1]), group_BFK[:, 2])
    assert weight is not None
    return sum(group_BFK[:, tap] @ weight[part, :, tap].T for tap in range(3))  # type: ignore[return-value]


def test_each_loss_keeps_to_its_own_parameters() -> None:
    """Reconstruction trains the compressors and nothing else; the nats of the text train everything else and not them."""
    size = Shape(vocabulary=30, layers=2, width=24, heads=2, head_size=8, feedforward=40, segment=8, bptt_segments=5)
    model = make(
        Compressive,
        size,
        mem=8,
        cache=8,
        factor=2,
        compress="convolution",
        **{**COMMON, "position": "t5", "key_smear": True},
    )
    state, aux, hidden = model.init_state(LANES), [], []
    for part in tokens().split(8, dim=1):
        output = model(part, torch.ones_like(part, dtype=torch.bool), state, torch.zeros(LANES, dtype=torch.bool))
        state = output.state
        aux.append(output.aux["reconstruction"])
        hidden.append(output.hidden_BTD.square().mean())
    assert aux[0] == 0
    assert aux[-1] > 0
    for loss, learns in ((torch.stack(aux).sum(), True), (torch.stack(hidden).sum(), False)):
        model.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            if name != "head.norm.weight":
                moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
                assert moved == (name.startswith("compressors.") == learns), name


def test_pooling_has_no_loss_to_train_with_and_still_shows_its_error() -> None:
    model = make(
        Compressive, shape(segment=8), mem=8, cache=8, factor=2, compress="max", **{**COMMON, "position": "t5"}
    )
    state = model.init_state(LANES)
    for part in tokens().split(8, dim=1):
        output = model(part, torch.ones_like(part, dtype=torch.bool), state, torch.zeros(LANES, dtype=torch.bool))
        state = output.state
    assert output.aux == {}
    assert output.gauges["reconstruction"] > 0
    assert output.gauges["memory_fill"] == 1
    assert 0 < output.gauges["memory_share"] < 1
