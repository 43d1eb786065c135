"""Our Transformer-XL with published weights against the outputs of the published code, segment by segment."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from memexp.model.segment import SegmentModel
from memexp.model.xl import Xl

from .transformer_xl import BY_DESIGN, GRADIENTS, OUTPUTS, Arrays, build, differ, load, read, step


@cache
def arrays() -> Arrays:
    return load("transformer_xl")


def model() -> SegmentModel:
    return build(Xl, arrays(), mem=int(arrays()["const.mem_len"]))


def test_activations_and_losses_are_those_of_the_published_code() -> None:
    """Two documents in each lane; the cache is longer than a segment. Waves and heads are of different widths."""
    ours = read(model(), arrays())
    assert differ(ours.hidden_NBTD, arrays()["hidden"]) < OUTPUTS
    assert differ(ours.nats_NBT, arrays()["nats"]) < OUTPUTS
    assert ours.cached_N.tolist() == arrays()["mem_lengths_after"].tolist()


def gradients(segment: int) -> dict[str, Tensor]:
    """Gradients of the sum of a segment's nats by their published names.

    A published LayerNorm takes the mean over channels away, so that its gradient of what is written to the residual stream has
    mean 0 there. Of ours, that mean is taken away here.
    """
    ours: Any = model()
    state = ours.init_state(int(arrays()["const.lanes"]))
    for earlier in range(segment):
        with torch.no_grad():
            _, _, state = step(ours, arrays(), earlier, state)
    _, nats_BT, _ = step(ours, arrays(), segment, state)
    nats_BT.sum().backward()
    found = {
        "r_w_bias": sum(layer.attention.position.content_H1K.grad for layer in ours.layers)[:, 0],
        "r_r_bias": sum(layer.attention.position.place_H1K.grad for layer in ours.layers)[:, 0],
    }
    found = {name: gradient * ours.shape.head_size**-0.5 for name, gradient in found.items()}
    embedding = ours.head.embedding_VD.grad
    found["word_emb.emb_layers.0.weight"] = (embedding - embedding.mean(1, keepdim=True)) * arrays()["const.emb_scale"]
    for number, layer in enumerate(ours.layers):
        attention, feedforward = layer.attention, layer.feedforward
        queries, values = attention.queries_values.weight.grad.chunk(2)
        output, fall = attention.output.weight.grad, feedforward.fall.weight.grad
        own = {
            "dec_attn.qkv_net.weight": torch.cat([queries, attention.keys.weight.grad, values]),
            "dec_attn.o_net.weight": output - output.mean(0),
            "dec_attn.r_net.weight": attention.position.project.weight.grad,
            "dec_attn.layer_norm.weight": layer.attention_norm.weight.grad,
            "pos_ff.layer_norm.weight": layer.feedforward_norm.weight.grad,
            "pos_ff.CoreNet.0.weight": feedforward.rise.weight.grad,
            "pos_ff.CoreNet.3.weight": fall - fall.mean(0),
        }
        found |= {f"layers.{number}.{name}": gradient for name, gradient in own.items()}
    return found


def relative(ours: Tensor, published: Tensor) -> float:
    return ((ours - published).norm() / published.norm()).item()


@pytest.mark.parametrize("segment", [0, 3])
def test_gradients_are_those_of_the_published_code(segment: int) -> None:
    """Segment 0 has no cache. For segment 3 the published code was changed so that cached tokens give the weights no gradient.

    It projects cached activations again; we keep keys and values, as Memorizing Transformers does.
    """
    for name, ours in gradients(segment).items():
        changed = arrays().get(f"grad_segment{segment}_patched.{name}")
        published = arrays()[f"grad_segment{segment}.{name}"] if changed is None else changed
        assert relative(ours, published) < GRADIENTS, name


def test_cached_tokens_teach_the_published_weights_and_not_ours() -> None:
    """The difference by design: gradients of keys, values and the norm before them, where the cache is full."""
    ours = gradients(3)
    for layer in range(3):
        for name in (f"layers.{layer}.dec_attn.qkv_net.weight", f"layers.{layer}.dec_attn.layer_norm.weight"):
            assert relative(ours[name], arrays()[f"grad_segment3.{name}"]) > BY_DESIGN, name
        queries = slice(0, 16)
        name = f"layers.{layer}.dec_attn.qkv_net.weight"
        assert relative(ours[name][queries], arrays()[f"grad_segment3.{name}"][queries]) < GRADIENTS, name


def test_normalised_queries_and_keys_are_another_attention() -> None:
    """The default, `normalise=true`, is the attention of Memorizing Transformers."""
    ours = build(Xl, arrays(), mem=int(arrays()["const.mem_len"]), normalise=True)
    assert differ(read(ours, arrays()).nats_NBT, arrays()["nats"]) > BY_DESIGN
