"""Our models against those of the package transformers, with its random weights in ours.

Shapes: N segments, B lanes, T tokens, S keys in sight, D width, H heads, K head size.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memexp.model.transformer.position import build_position, dense, in_order
from memexp.model.vanilla import Vanilla
from memexp.model.xl import Xl
from memexp.train.adafactor import Adafactor

from .packages import (
    BY_DESIGN,
    LANES,
    OUTPUTS,
    SECOND,
    SEGMENTS,
    SHAPE,
    SINGLE,
    build,
    differ,
    double_by_default,
    fill_attention,
    fill_feedforward,
    in_double,
    package,
    random_weights,
    read,
    silence_feedforward,
    text,
)

transformers = package("transformers")
modeling_bloom = package("transformers.models.bloom.modeling_bloom")
modeling_llama = package("transformers.models.llama.modeling_llama")
modeling_t5 = package("transformers.models.t5.modeling_t5")
modeling_xlnet = package("transformers.models.xlnet.modeling_xlnet")

CACHES = [0, 4, 9, SEGMENTS * SHAPE.segment]
"""Tokens of the cache: none, less than a segment, more than a segment, and all of the text."""


@pytest.fixture(params=[True, False], ids=["in double precision", "as published"])
def tolerance(request: pytest.FixtureRequest) -> Iterator[float]:
    """The package rounds to float32 in norms, waves and softmax; with these in float64 the difference must be far smaller."""
    with in_double(modeling_llama, modeling_t5, modeling_xlnet) if request.param else double_by_default():
        yield OUTPUTS if request.param else SINGLE


def ours(mem: int, **options: Any) -> Any:
    """A decoder without a cache for `mem` 0, otherwise Transformer-XL."""
    return build(Xl if mem else Vanilla, mem=mem, normalise=False, **options)


@torch.no_grad()
def read_theirs(theirs: Any, mem: int) -> Tensor:
    """The final activations of the text, N B T D, with a cache of at most `mem` tokens."""
    hidden, cache, place = [], None, 0
    for segment, tokens_BT in enumerate(text()):
        if segment in (0, SECOND) or not mem:
            cache, place = transformers.DynamicCache(config=theirs.config), 0
        options = {}
        if not isinstance(theirs, modeling_t5.T5Stack):
            options["position_ids"] = place + torch.arange(SHAPE.segment).expand(LANES, -1)
        hidden.append(theirs(input_ids=tokens_BT, cache=cache, use_cache=True, **options).last_hidden_state)
        place += SHAPE.segment
        for layer in cache.layers if mem else ():
            layer.keys, layer.values = layer.keys[:, :, -mem:], layer.values[:, :, -mem:]
    return torch.stack(hidden)


def t5() -> Any:
    """A decoder without cross-attention."""
    config = transformers.T5Config(
        vocab_size=SHAPE.vocabulary, d_model=SHAPE.width, d_kv=SHAPE.head_size, d_ff=SHAPE.feedforward,
        num_layers=SHAPE.layers, num_heads=SHAPE.heads, dropout_rate=0.0, is_decoder=True, is_encoder_decoder=False,
        use_cache=True, attn_implementation="eager",
    )  # fmt: skip
    theirs = modeling_t5.T5Stack(config).double().eval()
    random_weights(theirs)
    return theirs


@torch.no_grad()
def with_weights_of_t5(theirs: Any, mem: int, **options: Any) -> Any:
    """Ours divides scores by the root of K, T5 does not. All layers of T5 share one bias."""
    model = ours(mem, position="t5", **options)
    model.head.embedding_VD.copy_(theirs.embed_tokens.weight)
    model.head.norm.weight.copy_(theirs.final_layer_norm.weight)
    [bias_RH] = [
        parameter for name, parameter in theirs.named_parameters() if name.endswith("relative_attention_bias.weight")
    ]
    for layer, block in zip(model.layers, theirs.block, strict=True):
        attention, feedforward = block.layer[0].SelfAttention, block.layer[-1]
        fill_attention(
            layer.attention, queries=attention.q.weight * SHAPE.head_size**0.5, keys=attention.k.weight,
            values=attention.v.weight, output=attention.o.weight,
        )  # fmt: skip
        layer.attention.position.bias_HR.copy_(bias_RH.T)
        layer.attention_norm.weight.copy_(block.layer[0].layer_norm.weight)
        hidden = feedforward.DenseReluDense
        fill_feedforward(layer, gain=feedforward.layer_norm.weight, rise=hidden.wi.weight, fall=hidden.wo.weight)
    return model


@pytest.mark.parametrize("mem", CACHES)
def test_a_stack_of_t5_is_vanilla_and_with_its_keys_kept_xl(tolerance: float, mem: int) -> None:
    """Nothing was changed. Its cache keeps every token; here the newest `mem` stay."""
    theirs = t5()
    model = with_weights_of_t5(theirs, mem)
    assert differ(model.head.norm(read(model)), read_theirs(theirs, mem)) < tolerance


def test_gradients_of_a_stack_of_t5_are_those_of_vanilla() -> None:
    """Of all weights; the package shares one bias among layers, ours has one for each."""
    with in_double(modeling_t5):
        theirs = t5()
        model = with_weights_of_t5(theirs, 0)
        tokens_BT = text()[0]
        there_BT, starts_B = torch.ones_like(tokens_BT, dtype=torch.bool), torch.ones(LANES, dtype=torch.bool)
        hidden_BTD = model(tokens_BT, there_BT, model.init_state(LANES), starts_B).hidden_BTD
        probe_BTD = torch.randn(hidden_BTD.shape, generator=torch.Generator().manual_seed(4))
        (model.head.norm(hidden_BTD) * probe_BTD).sum().backward()
        (theirs(input_ids=tokens_BT).last_hidden_state * probe_BTD).sum().backward()
    published = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}

    def same(found: Tensor, name: str) -> None:
        assert differ(found, published.pop(name)) < OUTPUTS, name

    same(model.head.embedding_VD.grad, "embed_tokens.weight")
    same(model.head.norm.weight.grad, "final_layer_norm.weight")
    same(
        sum(layer.attention.position.bias_HR.grad for layer in model.layers).T,
        "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    )
    for number, layer in enumerate(model.layers):
        first, last = f"block.{number}.layer.0", f"block.{number}.layer.{len(theirs.block[number].layer) - 1}"
        queries, values = layer.attention.queries_values.weight.grad.chunk(2)
        same(queries * SHAPE.head_size**0.5, f"{first}.SelfAttention.q.weight")
        same(layer.attention.keys.weight.grad, f"{first}.SelfAttention.k.weight")
        same(values, f"{first}.SelfAttention.v.weight")
        same(layer.attention.output.weight.grad, f"{first}.SelfAttention.o.weight")
        same(layer.attention_norm.weight.grad, f"{first}.layer_norm.weight")
        same(layer.feedforward.rise.weight.grad, f"{last}.DenseReluDense.wi.weight")
        same(layer.feedforward.fall.weight.grad, f"{last}.DenseReluDense.wo.weight")
        same(layer.feedforward_norm.weight.grad, f"{last}.layer_norm.weight")
    assert not published


def llama() -> Any:
    """Its feed-forward layers are gated; here they are replaced by ours."""
    config = transformers.LlamaConfig(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.width, intermediate_size=SHAPE.feedforward,
        num_hidden_layers=SHAPE.layers, num_attention_heads=SHAPE.heads, num_key_value_heads=SHAPE.heads,
        head_dim=SHAPE.head_size, max_position_embeddings=512, rms_norm_eps=1e-6, use_cache=True,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = modeling_llama.LlamaModel(config).double().eval()
    for layer in theirs.layers:
        layer.mlp = nn.Sequential(
            nn.Linear(SHAPE.width, SHAPE.feedforward, bias=False),
            nn.ReLU(),
            nn.Linear(SHAPE.feedforward, SHAPE.width, bias=False),
        )
    random_weights(theirs)
    return theirs


@pytest.mark.parametrize("mem", [0, SEGMENTS * SHAPE.segment])
def test_attention_of_llama_is_ours_with_rotary_positions(tolerance: float, mem: int) -> None:
    """Whole stacks. Its keys are cached with absolute places, ours without any."""
    theirs, model = llama(), ours(mem, position="rotary")
    with torch.no_grad():
        model.head.embedding_VD.copy_(theirs.embed_tokens.weight)
        model.head.norm.weight.copy_(theirs.norm.weight)
        for layer, own in zip(model.layers, theirs.layers, strict=True):
            fill_attention(
                layer.attention, queries=own.self_attn.q_proj.weight, keys=own.self_attn.k_proj.weight,
                values=own.self_attn.v_proj.weight, output=own.self_attn.o_proj.weight,
            )  # fmt: skip
            layer.attention_norm.weight.copy_(own.input_layernorm.weight)
            fill_feedforward(
                layer, gain=own.post_attention_layernorm.weight, rise=own.mlp[0].weight, fall=own.mlp[2].weight
            )
    assert differ(model.head.norm(read(model)), read_theirs(theirs, mem)) < tolerance


def xlnet(mem: int) -> Any:
    """A model of one layer whose cache holds `mem` tokens."""
    config = transformers.XLNetConfig(
        vocab_size=SHAPE.vocabulary, d_model=SHAPE.width, n_layer=1, n_head=SHAPE.heads, d_inner=SHAPE.feedforward,
        attn_type="uni", bi_data=False, clamp_len=-1, same_length=False, dropout=0.0, mem_len=mem,
    )  # fmt: skip
    theirs = modeling_xlnet.XLNetModel(config).double().eval()
    random_weights(theirs)
    return theirs


@torch.no_grad()
def read_xlnet(theirs: Any, inputs_NBTD: Tensor) -> Tensor:
    """What its attention adds to the residual stream, N B T D.

    Its layers have the norm after the residual connection and ours before attention, so that here its norm is left out.
    """
    attention, added, cached = theirs.layer[0].rel_attn, [], None
    attention.layer_norm = nn.Identity()
    for segment, inputs_BTD in enumerate(inputs_NBTD):
        cached = None if segment == SECOND else cached
        length, past = SHAPE.segment, 0 if cached is None else len(cached)
        inputs_TBD = inputs_BTD.transpose(0, 1)
        waves = theirs.relative_positional_encoding(length, past + length, bsz=LANES)
        hidden_mask = theirs.create_mask(length, past)[:, :, None, None]
        output_TBD, _ = attention(inputs_TBD, None, hidden_mask, None, waves.to(inputs_TBD), None, mems=cached)
        added.append((output_TBD - inputs_TBD).transpose(0, 1))
        cached = theirs.cache_mem(inputs_TBD, cached)
    return torch.stack(added)


@pytest.mark.parametrize("mem", CACHES[1:])
def test_attention_of_xlnet_is_ours_with_the_places_of_transformer_xl(tolerance: float, mem: int) -> None:
    """One layer, because the norms differ. Its cache holds activations, which are projected again."""
    shape = replace(SHAPE, layers=1)
    theirs = xlnet(mem)
    model = build(Xl, mem=mem, shape=shape, position="xl", normalise=False)
    random_weights(model)
    silence_feedforward(model)
    [layer], own = model.layers, theirs.layer[0].rel_attn
    with torch.no_grad():
        fill_attention(
            layer.attention, queries=own.q.flatten(1).T, keys=own.k.flatten(1).T, values=own.v.flatten(1).T,
            output=own.o.flatten(1),
        )  # fmt: skip
        layer.attention.position.project.weight.copy_(own.r.flatten(1).T)
        layer.attention.position.content_H1K.copy_(own.r_w_bias[:, None] * SHAPE.head_size**-0.5)
        layer.attention.position.place_H1K.copy_(own.r_r_bias[:, None] * SHAPE.head_size**-0.5)
    embedded_NBTD = model.head.embed(text(shape))
    added_NBTD = read(model) - embedded_NBTD
    assert differ(added_NBTD, read_xlnet(theirs, layer.attention_norm(embedded_NBTD))) < tolerance


def alibi(heads: int) -> tuple[Tensor, Tensor]:
    """Our bias of six queries and fifteen keys and that of Bloom, each relative to the bias of a query's own token.

    Bloom adds a number that depends on the key alone, which gives the same softmax.
    """
    queries, keys = 6, 15
    nothing = torch.zeros(1, heads, keys, 4, dtype=torch.float64)
    scheme = build_position("alibi", width=4 * heads, heads=heads, head_size=4)
    found = dense(scheme(nothing[:, :, -queries:], nothing, in_order(queries, keys, nothing.device)).bias)
    assert found is not None
    published = modeling_bloom.build_alibi_tensor(torch.ones(1, keys), heads, torch.float64)
    visible_TS = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    biases = found[0].double(), published.expand(-1, queries, -1)
    own_T = torch.arange(keys - queries, keys)[None, :, None]
    ours_HTS, theirs_HTS = (bias - bias.gather(2, own_T.expand(heads, -1, -1)) for bias in biases)
    return ours_HTS[:, visible_TS], theirs_HTS[:, visible_TS]


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])
def test_the_bias_of_bloom_is_ours_with_alibi(heads: int) -> None:
    """To eight heads all slopes are powers of two. For sixteen they are not, and float32 rounds them."""
    assert differ(*alibi(heads)) < (OUTPUTS if heads <= 8 else SINGLE)


@pytest.mark.parametrize("heads", [3, 6, 12])
def test_alibi_differs_by_design_if_the_number_of_heads_is_no_power_of_two(heads: int) -> None:
    """There the first heads have the slopes of the next smaller power of two; here one formula holds for every number."""
    assert differ(*alibi(heads)) > BY_DESIGN


PARAMETERS = {"matrix": (12, 10), "vector": (10,), "embedding": (30, 16), "tall": (5, 40)}


def gradients(name: str) -> Iterator[Tensor]:
    """Of twenty steps. In a step 60 % of the rows of the embedding have none, and the last six never have one."""
    generator = torch.Generator().manual_seed(3)
    for step in range(20):
        gradient = torch.randn(PARAMETERS[name], generator=generator, dtype=torch.float64) / (1 + 7 * (step % 2))
        if name == "embedding":
            gradient[torch.rand(30, generator=generator) < 0.6] = 0
            gradient[-6:] = 0
        yield gradient


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("factor", [1.0, 2.0**-17])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adafactor_is_that_of_transformers(name: str, factor: float, momentum: float) -> None:
    """After each of twenty steps, relative to the largest way that a weight went; with small gradients and with none."""
    start = torch.randn(PARAMETERS[name], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mine, published = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Adafactor([mine], lr=1.0, momentum=momentum),
        transformers.Adafactor(
            [published], lr=1.0, beta1=momentum or None, scale_parameter=True, relative_step=False, warmup_init=False
        ),
    )
    for step, gradient in enumerate(gradients(name), start=1):
        for parameter, optimizer in zip((mine, published), optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.05 / step**0.5
            parameter.grad = gradient * factor
            optimizer.step()
        moved = (published - start).abs().max().item()
        assert moved > 1e-3
        assert differ(mine / moved, published / moved) < 1e-12, step
