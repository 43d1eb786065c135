"""Weights of Google's Block-Recurrent and Memorizing Transformer code in our models, and outputs segment by segment.

Shapes: S segments, B lanes, T tokens, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from memexp.model.slot_memory.gates import DualCell, FixedGate, LstmGate
from memexp.model.slot_memory.vectors import StateAttention, StateVectors
from memexp.model.state import State
from memexp.model.transformer.decoder import DecoderLayer, DecoderModel
from memexp.model.transformer.shape import Shape

from .arrays import Published, Weights

OPTIONS = {
    "position": "t5", "normalise": True, "scale": 1.0, "dropout": 0.0, "key_smear": False, "keys_as_queries": False,
}  # fmt: skip


def shape(published: Published) -> Shape:
    """The sizes of the network; segments are those of the file."""
    return Shape(
        vocabulary=published.const("vocabulary"),
        layers=published.const("layers"),
        width=published.const("embedding_size"),
        heads=published.const("heads"),
        head_size=published.const("head_size"),
        feedforward=published.const("ffn_hidden"),
        segment=published.const("sequence_length"),
    )


@torch.no_grad()
def fill_head(model: DecoderModel, published: Published) -> None:
    """Set the embedding and the final norm, whose published logits are divided by the root of the vocabulary."""
    model.head.embedding_VD.copy_(published["weight.embed.embedding"])
    model.head.norm.weight.copy_(published["weight.final_layernorm.scale"])


@torch.no_grad()
def fill_layer(layer: DecoderLayer, weights: Weights) -> None:
    """Set a layer; what is left in `weights` is not part of a plain layer."""
    attention, inner = layer.attention, layer.attention.heads * layer.attention.head_size
    base = "tbase._kvq"
    queries, values = (weights.kernel(f"{base}.{name}_layer") for name in ("queries", "values"))
    attention.queries_values.weight.copy_(torch.cat([queries, values]))
    attention.keys.weight.copy_(weights.kernel(f"{base}.keys_layer"))
    scale_H = weights.pop(f"{base}.attention_scale")
    attention.scale_H.copy_(scale_H)
    # their scale multiplies the bias too
    attention.position.bias_HR.copy_(weights.pop("relative_positions.rel_embedding") * scale_H[:, None])
    output = weights.kernel("tbase.post_attn_mlp.output_layer")
    attention.output.weight.copy_(output[:, :inner])
    if output.shape[1] > inner:
        weights["from_states"] = output[:, inner:]
    layer.attention_norm.weight.copy_(weights.pop(f"{base}.pre_attn_layernorm.scale"))
    layer.feedforward_norm.weight.copy_(weights.pop("tbase.pre_ffn_layernorm.scale"))
    layer.feedforward.rise.weight.copy_(weights.kernel("tbase.ffn.hidden0"))
    layer.feedforward.fall.weight.copy_(weights.kernel("tbase.ffn.output_layer"))


@torch.no_grad()
def fill_state_attention(attention: StateAttention, queries: Tensor, scale_H: Tensor) -> None:
    """Set the queries and the scale of an attention from or to state vectors."""
    attention.queries.weight.copy_(queries)
    attention.scale_H.copy_(scale_H)


@torch.no_grad()
def fill_vectors(vectors: StateVectors, weights: Weights) -> None:
    """Set the state vectors of a recurrent layer, whose weights are named `recurrent_...`."""
    vectors.initial_MD.copy_(weights.pop("initial_state"))
    own = weights.below("tbase._kvq.")
    vectors.ids_MD.copy_(own.pop("position_embeddings"))
    vectors.norm.weight.copy_(own.pop("pre_attn_layernorm.scale"))
    vectors.keys.weight.copy_(own.kernel("keys_layer"))
    vectors.values.weight.copy_(own.kernel("values_layer"))
    fill_state_attention(vectors.over_vectors, own.kernel("queries_layer"), own.pop("attention_scale"))
    fill_state_attention(vectors.over_tokens, own.kernel("queries2_layer"), weights.pop("tbase.attention_scale2"))
    assert not own
    cell = vectors.cell
    if isinstance(cell, DualCell):
        fill_gate(cell.attention_gate, weights.below("tbase.post_attn_mlp."))
        cell.norm.weight.copy_(weights.pop("tbase.pre_ffn_layernorm.scale"))
        cell.rise.weight.copy_(weights.kernel("tbase.ffn.hidden0"))
        fill_gate(cell.gate, weights.below("tbase.ffn."))
    else:
        fill_gate(cell, weights.below("tbase.post_attn_mlp."))
    assert not weights


@torch.no_grad()
def fill_gate(gate: FixedGate | LstmGate, weights: Weights) -> None:
    """Set a gate; the published candidate has no bias."""
    gate.candidate.weight.copy_(weights.kernel("output_layer"))
    gate.candidate.bias.zero_()
    if isinstance(gate, FixedGate):
        gate.gate_D.copy_(weights.pop("gate_bias"))
    else:
        gate.gate_keep_DF.copy_(weights.kernel("forget_gate"))
        gate.gate_keep_D.copy_(weights.pop("forget_gate.bias"))
        gate.gate_write_DF.copy_(weights.kernel("input_gate"))
        gate.gate_write_D.copy_(weights.pop("input_gate.bias"))
    assert not weights


class Outputs(NamedTuple):
    """Logits as published, S B T V, and the state after each segment."""

    logits: Tensor
    states: list[State]


@torch.no_grad()
def read(model: DecoderModel, published: Published) -> Outputs:
    """Read all segments in double precision, with the resets of the file."""
    shape, tokens = model.shape, published["tokens"].long()
    state, logits, states = model.init_state(len(tokens)), [], []
    for segment, reset_B in zip(tokens.split(shape.segment, dim=1), published["starts"], strict=True):
        output = model(segment, torch.ones_like(segment, dtype=torch.bool), state, reset_B)
        state = output.state
        logits.append(model.head.logits(output.hidden_BTD) * (shape.width / shape.vocabulary) ** 0.5)
        states.append(state)
    return Outputs(torch.stack(logits), states)
