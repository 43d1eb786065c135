"""Transformer-XL's published weights in our models, and texts that are read segment by segment.

The code of Recurrent Memory Transformer is built on that of Transformer-XL, so its weights have the same names.
Shapes: N segments, B lanes, T tokens, V vocabulary, D width, M memory tokens, H heads, K head size.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.model.segment import SegmentModel
from memexp.model.state import State
from memexp.model.transformer.shape import Shape

from ..model.make import make

OUTPUTS = 1e-10
"""Largest absolute difference of outputs in float64."""

GRADIENTS = 1e-6
"""Largest difference of a gradient, as a share of its norm; the published gradients are stored in float32."""

BY_DESIGN = 0.1
"""A difference that is meant to be there is larger than this."""

Arrays = dict[str, Tensor]


class Reading(NamedTuple):
    """What a model makes of a text; memory is there only with memory tokens."""

    hidden_NBTD: Tensor
    nats_NBT: Tensor
    memory_NBMD: Tensor
    cached_N: Tensor
    """Tokens in the cache of the first lane after each segment."""


def load(name: str) -> Arrays:
    """The arrays of NAME.npz, floating-point numbers in float64."""
    with np.load(Path(__file__).with_name(f"{name}.npz"), allow_pickle=False) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}


def differ(ours: Tensor, published: Tensor) -> float:
    """The largest absolute difference."""
    assert ours.shape == published.shape
    return (ours - published).abs().max().item()


def build(
    model: type[SegmentModel], arrays: Arrays, *, mem: int, normalise: bool = False, **options: Any
) -> SegmentModel:
    """Our model with the published weights, in float64.

    The published code has no norm before the output layer. It adds u and v before queries are divided by sqrt(K), ours after.
    """
    sizes = {name: int(arrays[f"const.{name}"]) for name in ("vocabulary", "layers", "heads", "tgt_len")}
    shape = Shape(
        vocabulary=sizes["vocabulary"], layers=sizes["layers"], width=int(arrays["const.d_model"]), heads=sizes["heads"],
        head_size=int(arrays["const.d_head"]), feedforward=int(arrays["const.d_inner"]), segment=sizes["tgt_len"],
    )  # fmt: skip
    ours: Any = make(model, shape, mem=mem, position="xl", normalise=normalise, **options).double()
    ours.head.norm = nn.Identity()
    for module in ours.modules():
        if isinstance(module, nn.RMSNorm):
            module.eps = float(arrays["const.layernorm_eps"])
    inner = shape.heads * shape.head_size
    weights = {name.removeprefix("weight."): value for name, value in arrays.items() if name.startswith("weight.")}
    with torch.no_grad():
        ours.head.embedding_VD.copy_(weights["word_emb.emb_layers.0.weight"] * arrays["const.emb_scale"])
        for number, layer in enumerate(ours.layers):
            own = {name.removeprefix(f"layers.{number}."): value for name, value in weights.items()}
            queries, keys, values = own["dec_attn.qkv_net.weight"].split(inner)
            layer.attention.queries_values.weight.copy_(torch.cat([queries, values]))
            layer.attention.keys.weight.copy_(keys)
            layer.attention.output.weight.copy_(own["dec_attn.o_net.weight"])
            layer.attention.position.project.weight.copy_(own["dec_attn.r_net.weight"])
            layer.attention.position.content_H1K.copy_(weights["r_w_bias"][:, None] * shape.head_size**-0.5)
            layer.attention.position.place_H1K.copy_(weights["r_r_bias"][:, None] * shape.head_size**-0.5)
            layer.attention_norm.weight.copy_(own["dec_attn.layer_norm.weight"])
            layer.feedforward_norm.weight.copy_(own["pos_ff.layer_norm.weight"])
            layer.feedforward.rise.weight.copy_(own["pos_ff.CoreNet.0.weight"])
            layer.feedforward.fall.weight.copy_(own["pos_ff.CoreNet.3.weight"])
    return ours  # type: ignore[no-any-return]


def read(model: SegmentModel, arrays: Arrays) -> Reading:
    """Read the text segment by segment; a lane forgets its state where a document begins."""
    state, lanes = model.init_state(int(arrays["const.lanes"])), []
    with torch.no_grad():
        for segment in range(int(arrays["const.segments"])):
            hidden_BTD, nats_BT, state = step(model, arrays, segment, state)
            memory_BMD = state.memory if model.memory_slots else hidden_BTD[:, :0]
            lanes.append((hidden_BTD, nats_BT, memory_BMD, state.cache.count_B[0]))
    return Reading(*(torch.stack(each) for each in zip(*lanes, strict=True)))


def step(model: SegmentModel, arrays: Arrays, segment: int, state: State) -> tuple[Tensor, Tensor, State]:
    """Final activations, nats and the next state of one segment."""
    length = int(arrays["const.tgt_len"])
    here = slice(segment * length, (segment + 1) * length)
    tokens_BT, targets_BT = arrays["tokens"][:, here].long(), arrays["tokens"][:, 1:][:, here].long()
    output = model(tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), state, arrays["starts"][segment])
    # not by `head.nats`, which rounds to float32
    logits_BTV = model.head.logits(output.hidden_BTD)
    nats_BT = F.cross_entropy(logits_BTV.mT, targets_BT, reduction="none")
    return output.hidden_BTD, nats_BT, output.state
