"""Published checkpoints under our architectures, against the package transformers with the same random weights.

Shapes: B lanes, T tokens, S keys in sight, M memory tokens, D width, V vocabulary.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from memexp.errors import UserError
from memexp.model.armt import Armt
from memexp.model.infini import Infini
from memexp.model.knn import Knn
from memexp.model.pretrained.load import adapt
from memexp.model.rmt import Rmt
from memexp.model.segment import SegmentModel
from memexp.model.transformer.attention import Cache
from memexp.model.transformer.shape import Shape
from memexp.model.vanilla import Vanilla
from memexp.model.xl import Xl

from ..checkpoints import GROUPED, SIZES, with_random_weights
from ..model.make import make
from .packages import differ, package

transformers = package("transformers")

CLOSE = 1e-4
"""Largest difference of logits, in single precision; logits are up to 30."""

ROPE = {"rope_theta": 10_000.0, "original_max_position_embeddings": 64}
YARN = ROPE | {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = ROPE | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOWED = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("Apertus", {}),
    "arcee": ("Arcee", {}),
    "bitnet": ("BitNet", {}),
    "cohere": ("Cohere", {}),
    "ernie-4.5": ("Ernie4_5", {}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma-2-without-cap": ("Gemma2", {"head_dim": 16, "sliding_window": 16, "attn_logit_softcapping": None}),
    "gemma-3": ("Gemma3Text", {"head_dim": 16, **WINDOWED}),
    "glm": ("Glm", {"head_dim": 8}),
    "glm-4": ("Glm4", {"head_dim": 8}),
    "gpt-neox": ("GPTNeoX", {"num_key_value_heads": None}),
    "granite": ("Granite", {}),
    "granite-moe": ("GraniteMoe", {"num_local_experts": 4}),
    "helium": ("Helium", {"head_dim": 8}),
    "hunyuan": ("HunYuanDenseV1", {"head_dim": 8}),
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-of-one-group": ("Llama", {"num_key_value_heads": 1}),
    "llama-3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "ministral": ("Ministral", {"head_dim": 8, "sliding_window": 16}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "mistral-of-a-longer-window-than-a-trial": ("Mistral", {"sliding_window": 56}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "nanochat": ("NanoChat", {}),
    "olmo": ("Olmo", {}),
    "olmo-2": ("Olmo2", {}),
    "olmo-3": ("Olmo3", WINDOWED),
    "phi": ("Phi", {}),
    "phi-3": ("Phi3", {}),
    "qwen-2": ("Qwen2", {}),
    "qwen-2-moe": ("Qwen2Moe", {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}),
    "qwen-3": ("Qwen3", {"head_dim": 16}),
    "seed-oss": ("SeedOss", {"head_dim": 8}),
    "smollm-3": ("SmolLM3", {"no_rope_layers": [1, 0]}),
    "starcoder-2": ("Starcoder2", {"sliding_window": 16}),
}
"""The families that are held against transformers: the name of their config, and what it says besides sizes."""

IN_ONE_SEGMENT = {
    "gpt-2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 48}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "biogpt": ("BioGpt", {}),
}
"""Those that add positions to embeddings, so that no cache continues a text."""

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("Bloom", {"n_layer": 2, "n_head": 4}, "0 of its 2 layers have attention"),
    "cohere-2": ("Cohere2", WINDOWED, "differ by"),
    "deepseek-3": ("DeepseekV3", {}, "does not have what memexp needs"),
    "exaone-4": ("Exaone4", {"head_dim": 8, **WINDOWED}, "differ by"),
    "falcon": ("Falcon", {}, "0 of the 2 layers"),
    "gemma-2": ("Gemma2", {"head_dim": 16, "sliding_window": 16}, "needs softcap"),
    "gpt-j": ("GPTJ", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}, "does not have what memexp needs"),
    "gpt-neo": (
        "GPTNeo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        "0 of its 2",
    ),
    "gpt-oss": ("GptOss", {"head_dim": 16, "num_local_experts": 4, "sliding_window": 16}, "needs s_aux"),
    "mamba": ("Mamba", {}, "0 of its 2 layers have attention"),
    # these attend to less, or otherwise, only beyond a length that a first trial does not reach
    "ministral-3": (
        "Ministral3",
        {"head_dim": 8, "rope_parameters": YARN | {"llama_4_scaling_beta": 0.1}},
        "differ by",
    ),
    "olmoe-windowed": ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}, "differ by"),
    "phi-moe-windowed": ("Phimoe", {"num_local_experts": 4, "sliding_window": 64}, "differ by"),
    "qwen-2-moe-windowed": (
        "Qwen2Moe",
        {"num_experts": 4, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 64},
        "differ by",
    ),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4}, "0 of its 2 layers have attention"),
    "nemotron": ("Nemotron", {}, "do not pass on what they are told"),
    "stablelm": ("StableLm", {}, "do not pass on what they are told"),
}
"""The families that cannot be read exactly, and a part of the reason that is given."""

SEGMENT, LANES, LENGTH = 12, 2, 60


def published(family: str, said: dict[str, Any]) -> Any:
    """A decoder of transformers with random weights."""
    return with_random_weights(getattr(transformers, f"{family}Config")(**{**GROUPED, **said}))


def ours(model: Any, *, segment: int = SEGMENT) -> Shape:
    """The shape that puts its layers into our architectures."""
    config, network = model.config, adapt(model)
    groups = network.layers.attentions[0].stored // network.layers.attentions[0].head_size
    return Shape(
        network.head.vocabulary, len(network.layers.attentions), config.hidden_size, network.layers.attentions[0].heads,
        network.layers.attentions[0].head_size, 48, segment, groups=groups, pretrained=network,
    )  # fmt: skip


NOTHING = Cache((), torch.zeros(LANES, dtype=torch.long))
"""An empty cache without layers."""

PLAIN = {"position": "none", "normalise": False}


def built(kind: type[SegmentModel], shape: Shape, **options: Any) -> SegmentModel:
    return make(kind, shape, **{**PLAIN, **options}).eval()


def text() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(5, SIZES["vocab_size"], (LANES, LENGTH), generator=generator)


@torch.no_grad()
def logits(model: SegmentModel, tokens_BT: Tensor) -> Tensor:
    """Of one document a lane, read in segments."""
    state, found = model.init_state(LANES), []
    for index, part in enumerate(tokens_BT.split(model.shape.segment, dim=1)):
        output = model(part, torch.ones_like(part, dtype=torch.bool), state, torch.full((LANES,), index == 0))
        state = output.state
        found.append(model.head.logits(output.hidden_BTD))
    return torch.cat(found, dim=1)


@torch.no_grad()
def theirs(model: Any, tokens_BT: Tensor) -> Tensor:
    return model(tokens_BT, use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_holds_everything_is_one_pass_of_transformers(family: str) -> None:
    model = published(*FAMILIES[family])
    expected, shape = theirs(model, text()), ours(model)
    assert differ(logits(built(Xl, shape, mem=LENGTH), text()), expected) < CLOSE
    assert differ(logits(built(Xl, shape, mem=LENGTH, sinks=4), text()), expected) < CLOSE
    assert differ(logits(built(Xl, shape, mem=8), text()), expected) > 100 * CLOSE
    assert differ(logits(built(Rmt, shape, mem=0, cache=LENGTH), text()), expected) < CLOSE
    if "mistral" not in family and "ministral" not in family and "starcoder" not in family:  # windows in all layers
        alone = replace(shape, segment=LENGTH)
        assert differ(logits(built(Vanilla, alone, mem=0), text()), expected) < CLOSE


@pytest.mark.parametrize("family", IN_ONE_SEGMENT)
def test_positions_in_embeddings_are_exact_in_one_segment(family: str) -> None:
    name, said = IN_ONE_SEGMENT[family]
    model = published(name, said | {"num_key_value_heads": None})
    expected, shape = theirs(model, text()), ours(model, segment=LENGTH)
    assert shape.pretrained.places
    vanilla = built(Vanilla, shape, mem=0)
    assert differ(logits(vanilla, text()), expected) < CLOSE
    kept, found = None, []
    with torch.no_grad():
        for piece in text().split(7, dim=1):  # as text is generated
            extension = vanilla.extend(piece, vanilla.init_state(LANES), kept)
            kept = extension.kept
            found.append(vanilla.head.logits(extension.hidden_BTD))
    assert differ(torch.cat(found, dim=1), expected) < CLOSE


@pytest.mark.parametrize("family", ["gemma", "gemma-3", "granite", "llama"])
@torch.no_grad()
def test_memory_vectors_start_as_large_as_what_enters_the_first_layer(family: str) -> None:
    """Gemma's embedding multiplies the vectors of its words."""
    name, said = FAMILIES[family]
    network = adapt(published(name, said))
    entering = network.head.embed(torch.arange(SIZES["vocab_size"])[None]).square().mean().sqrt()
    assert network.unit == pytest.approx(float(entering), rel=0.05)


@pytest.mark.parametrize(
    ("kind", "more", "from_on"),
    [
        ("longrope", {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}, 64),
        ("dynamic", {"factor": 2.0}, 64),
        ("yarn", {"factor": 4.0}, None),
    ],
)
def test_positions_that_depend_on_the_length_are_told(kind: str, more: dict[str, Any], from_on: int | None) -> None:
    network = adapt(published("Llama", {"rope_parameters": ROPE | more | {"rope_type": kind}}))
    assert network.remark == "" if from_on is None else f"more than {from_on} tokens" in network.remark


def test_a_trial_leaves_the_lengths_of_a_checkpoint_as_they_are() -> None:
    model = published("Mistral", {"sliding_window": 56})
    network = adapt(model)
    assert model.config.sliding_window == 56
    assert {each.reach for each in network.layers.attentions} == {55}


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_read_exactly_is_refused_in_one_line(family: str) -> None:
    name, said, reason = REFUSED[family]
    with pytest.raises(UserError) as caught:
        adapt(published(name, said))
    line = str(caught.value)
    assert reason in line
    assert "expected" in line
    assert "\n" not in line


def test_a_fault_in_our_attention_is_seen_when_a_checkpoint_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are not turned, heads in another order, and a scale that is left out."""
    from memexp.model.pretrained import layers
    from memexp.model.transformer import attention
    from memexp.model.transformer.position import NoPosition

    def interleaved(x_BGSK: Tensor, heads: int) -> Tensor:
        return x_BGSK.repeat(1, heads // x_BGSK.shape[1], 1, 1)

    for what, name, fault in (
        (layers.PretrainedRotary, "forward", NoPosition.forward),
        (attention, "spread", interleaved),
        (layers, "KNOWN", layers.KNOWN - {"scaling"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(what, name, fault)
            with pytest.raises(UserError, match=r"differ by|needs scaling"):
                adapt(published("Llama", {}))
    adapt(published("Llama", {}))


def test_a_memory_of_everything_in_all_layers_is_full_attention() -> None:
    """Where no layer has positions: then a pair is the same in the cache and in the memory."""
    model = published("SmolLM3", {"no_rope_layers": [0, 0]})
    expected, shape = theirs(model, text()), ours(model)
    options = {"combine": "joint", "write": "leaving", "knn_layers": [1, 2], "neighbours": LENGTH, "place": "edge"}
    for cache, sinks in ((SEGMENT, 0), (SEGMENT, 3), (SEGMENT + 5, 2)):
        knn = built(Knn, shape, mem=LENGTH, cache=cache, sinks=sinks, **options)
        assert differ(logits(knn, text()), expected) < CLOSE, (cache, sinks)
    fewer = built(Knn, shape, mem=LENGTH, cache=SEGMENT, **options | {"knn_layers": [1]})
    assert differ(logits(fewer, text()), expected) > 100 * CLOSE


def test_memory_at_the_edge_is_a_key_where_the_cache_begins() -> None:
    """One layer, whose attention is written out: old keys are turned as if at the place before the oldest that is cached."""
    model = published("Llama", {"num_hidden_layers": 1})
    layer, rotary = model.model.layers[0], model.model.rotary_emb
    tokens_BT = text()[:, : 3 * SEGMENT]
    with torch.no_grad():
        x_BTD = model.model.embed_tokens(tokens_BT)
        normed = layer.input_layernorm(x_BTD)
        q, k, v = (
            part(normed).unflatten(-1, (-1, 8)).transpose(1, 2)
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        )
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as turn

        last = slice(2 * SEGMENT, 3 * SEGMENT)
        place_T, place_S = (
            torch.arange(SEGMENT, 2 * SEGMENT),
            torch.cat([torch.zeros(SEGMENT), torch.arange(2 * SEGMENT)]),
        )
        queries = turn(q[:, :, last], q[:, :0, last], *rotary(x_BTD, place_T[None]))[0]
        keys = turn(k, k[:, :0], *rotary(x_BTD, place_S.long()[None]))[0].repeat_interleave(2, 1)
        scores = queries @ keys.mT * 8**-0.5
        index = torch.arange(3 * SEGMENT)
        weights = scores.masked_fill(index > index[last, None], -torch.inf).softmax(-1)
        read = (weights @ v.repeat_interleave(2, 1)).transpose(1, 2).flatten(2)
        x = x_BTD[:, last] + layer.self_attn.o_proj(read)
        expected = model.lm_head(model.model.norm(x + layer.mlp(layer.post_attention_layernorm(x))))
    shape = ours(model)
    options = {"combine": "joint", "write": "leaving", "knn_layers": [1], "neighbours": SEGMENT, "cache": SEGMENT}
    found = logits(built(Knn, shape, mem=SEGMENT, place="edge", **options), tokens_BT)[:, last]
    assert differ(found, expected) < CLOSE
    elsewhere = logits(built(Knn, shape, mem=SEGMENT, place="none", **options), tokens_BT)[:, last]
    assert differ(elsewhere, expected) > 100 * CLOSE


def test_memory_tokens_are_what_a_mask_says() -> None:
    model, slots = published("Llama", {}), 3
    config = model.config
    torch.manual_seed(4)
    shape = ours(model)
    rmt = built(Rmt, shape, mem=slots)
    tokens_BT = text()[:, : 2 * SEGMENT]
    found = logits(rmt, tokens_BT)
    again = with_random_weights(config)
    size = 2 * slots + SEGMENT
    index = torch.arange(size)
    read, write = index < slots, index >= slots + SEGMENT
    sees = torch.where(read[:, None], read, (index <= index[:, None]) | write[:, None])
    mask = torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None].expand(LANES, -1, -1, -1)
    before, expected = rmt.initial_MD.expand(LANES, -1, -1), []
    with torch.no_grad():
        for part in tokens_BT.split(SEGMENT, dim=1):
            words = again.get_input_embeddings()(part)
            strip = torch.cat([before + rmt.read_MD, words, before + rmt.write_MD], 1)
            hidden = again.model(
                inputs_embeds=strip, attention_mask=mask, position_ids=index[None], use_cache=False
            ).last_hidden_state
            expected.append(again.lm_head(hidden[:, slots : slots + SEGMENT]))
            before = rmt.memory_norm(hidden[:, slots + SEGMENT :])
    assert differ(found, torch.cat(expected, 1)) < CLOSE


@pytest.mark.parametrize("family", ["llama", "gemma-3", "gpt-neox", "mistral"])
@torch.no_grad()
def test_memory_tokens_with_new_adapters_change_nothing(family: str) -> None:
    """Also where a window is shorter than the way to the first memory token; and then they do change something."""
    shape = ours(published(*FAMILIES[family]))
    rmt = built(Rmt, shape, mem=20, adapters=True)
    plain = logits(built(Rmt, shape, mem=0), text())
    assert differ(logits(rmt, text()), plain) < CLOSE
    rmt.adapters.gate_LH += 1.0
    changed = logits(rmt, text())
    assert differ(changed[:, :SEGMENT], plain[:, :SEGMENT]) > 100 * CLOSE
    rmt.adapters.written.weight += torch.randn(shape.width, shape.width)
    later = logits(rmt, text())
    assert differ(later[:, :SEGMENT], changed[:, :SEGMENT]) < CLOSE
    assert differ(later[:, SEGMENT:], changed[:, SEGMENT:]) > 100 * CLOSE


IN_LISTS = {name: FAMILIES[name] for name in ("llama", "gemma-3", "gpt-neox", "mixtral")}
IN_LISTS["gpt-2"] = ("GPT2", IN_ONE_SEGMENT["gpt-2"][1] | {"num_key_value_heads": None})


@pytest.mark.parametrize("family", IN_LISTS)
@torch.no_grad()
def test_what_enters_and_leaves_each_layer_is_that_of_transformers(family: str) -> None:
    model = published(*IN_LISTS[family])
    expected = model(text(), use_cache=False, output_hidden_states=True).hidden_states
    network, seen = adapt(model), []
    added = [torch.zeros(())] * len(network.layers.attentions)

    def enter(index: int, x_BTD: Tensor) -> Tensor:
        seen.append(x_BTD)
        return x_BTD + added[index]

    read = partial(network.layers.read, network.head.embed(text()), NOTHING, size=0)

    def left() -> list[Tensor]:
        outputs: list[Tensor] = []
        read(enter=enter, leave=lambda _, output_BTD: outputs.append(output_BTD))
        return outputs

    outputs = left()
    for ours_BTD, theirs_BTD in zip([*seen, outputs[-1]], expected, strict=True):
        assert differ(ours_BTD, theirs_BTD) < CLOSE
    for ours_BTD, theirs_BTD in zip(outputs, expected[1:], strict=True):
        assert differ(ours_BTD, theirs_BTD) < CLOSE
    added[1] = torch.randn(SIZES["hidden_size"])
    assert differ(left()[0], outputs[0]) == 0
    assert differ(read(enter=enter).hidden_BTD, outputs[-1]) > 100 * CLOSE
    assert differ(read().hidden_BTD, outputs[-1]) < CLOSE  # nothing has stayed on the layers


@pytest.mark.parametrize("family", IN_LISTS)
@torch.no_grad()
def test_a_memory_of_matrices_that_says_nothing_is_the_plain_checkpoint(family: str) -> None:
    shape = ours(published(*IN_LISTS[family]))
    plain = logits(built(Vanilla, shape, mem=0), text())
    assert differ(logits(built(Armt, shape, mem=0), text()), plain) < CLOSE
    assert differ(logits(built(Infini, shape, mem=0), text()), plain) < CLOSE
    armt = built(Armt, shape, mem=3, key_size=4)
    assert differ(logits(armt, text()), plain) < CLOSE  # W_V starts at 0
    for memory in armt.memories:
        torch.nn.init.normal_(memory.values.weight)
    assert differ(logits(armt, text())[:, :SEGMENT], plain[:, :SEGMENT]) < CLOSE
    assert differ(logits(armt, text())[:, SEGMENT:], plain[:, SEGMENT:]) > 100 * CLOSE
    infini = built(Infini, shape, mem=1)
    for start, far in ((-40.0, False), (0.0, True)):
        for memory in infini.memories:
            memory.gate_H.fill_(start)
        assert (differ(logits(infini, text()), plain) > 100 * CLOSE) == far


@torch.no_grad()
def test_heads_that_share_keys_read_one_matrix() -> None:
    """As if each head had keys and values of its own that are alike."""
    shared = published("Llama", {"num_key_value_heads": 2})
    apart = published("Llama", {"num_key_value_heads": 4})
    weights = shared.state_dict()
    for name, value in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = value.unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1)
    apart.load_state_dict(weights)
    found = []
    for model in (shared, apart):
        infini = built(Infini, ours(model), mem=1)
        for index, memory in enumerate(infini.memories):
            memory.gate_H.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]) + index)
        found.append(logits(infini, text()))
    assert infini.init_state(1).memory[0].matrix_BFV.shape[1] == 4
    assert differ(*found) < CLOSE
