"""A published checkpoint becomes a head and layers, and is compared with transformers' own attention each time it is loaded.

Shapes: B lanes, T tokens, V vocabulary.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memexp.config.checkpoints import checksum, find_folder
from memexp.config.groups import Size
from memexp.errors import UserError
from memexp.model.pretrained.layers import (
    NAME,
    PretrainedAttention,
    PretrainedHead,
    PretrainedLayers,
    PretrainedRotary,
    attention,
)
from memexp.model.transformer.attention import Attention, empty_cache
from memexp.model.transformer.numerics import full_precision
from memexp.model.transformer.position import NoPosition, Position
from memexp.model.transformer.shape import Network, Shape
from memexp.terminal import warn

PROBE = 24
"""Tokens of a segment with which a checkpoint is tried; there are two."""

SHORT = 16
"""What every longer length in a checkpoint's config is for a second trial, in which it thus counts."""

LENGTHS = ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")
"""Settings of checkpoints from which on attention reads less, or positions are others."""

BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions that depend on how many tokens there are."""

SAID = 200
"""Signs of what a package says of a checkpoint that it cannot read."""

CLOSE = 1e-3
"""The largest difference of logits, as a share of their standard deviation, that rounding in fp32 explains."""


def load(size: Size) -> Network:
    """The checkpoint of these settings, in fp32; on the meta device without its weights.

    Raises:
        UserError: it is not on this machine or has changed, memexp cannot read it, or a package is missing.
    """
    if size.weights and size.revision is None and not Path(str(size.checkpoint)).is_dir():
        raise UserError(
            f"{size.checkpoint} is no folder; expected the checkpoint {size.weights[:8]} there. If it was moved, repeat the command that "
            "trained the run with size.checkpoint=NEW, which finds the run and notes the new place"
        )
    folder = find_folder(str(size.checkpoint), size.revision, ask=False).path
    transformers = _library()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the package raises anything, some of it of classes of its own
        raise _unreadable(
            f"{folder / 'config.json'}", error, "that of a model which this version of transformers knows"
        ) from error
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"{folder} holds a model of the family {config.model_type}; expected a decoder that predicts text"
        )
    if torch.empty(0).device.type == "meta":
        try:
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        except Exception as error:
            raise _unreadable(f"{folder / 'config.json'}", error, "settings that fit together") from error
    else:
        if size.weights and checksum(folder) != size.weights:
            raise UserError(
                f"{folder} has other weights than when the settings were made (its checksum is {checksum(folder)[:8]}); expected "
                f"{size.weights[:8]}. Likely cause: the checkpoint was replaced"
            )
        model = _read(transformers, folder, config)
    network = adapt(model)
    _refuse_another_shape(network, size, folder)
    return network


def _refuse_another_shape(network: Network, size: Size, folder: Path) -> None:
    """Refuse a config.json that transformers completes in another way than we do.

    Raises:
        UserError: names the first setting that differs.
    """
    first: Attention = network.layers.attentions[0]
    seen = {
        "layers": len(network.layers.attentions),
        "heads": first.heads,
        "head_size": first.head_size,
        "groups": first.stored // first.head_size,
        "width": network.head.embedding_VD.shape[1],
    }
    for name, number in seen.items():
        if number != getattr(size, name):
            raise UserError(
                f"size.{name} is {getattr(size, name)}, as {folder / 'config.json'} says, but transformers reads {number}; expected the same. "
                "Likely cause: the file leaves it out"
            )


def _library() -> Any:
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(
            f"size=checkpoint needs a package that is not installed ({error.name}); expected `pip install 'memexp[pretrained]'`"
        ) from error
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return transformers


def _read(transformers: Any, folder: Path, config: Any) -> Any:
    """Read the weights, from `.safetensors` files alone."""
    try:
        model, seen = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32,
            attn_implementation="eager", output_loading_info=True,
        )  # fmt: skip
    except Exception as error:
        raise _unreadable(f"the weights in {folder}", error, "those of its config.json") from error
    if missing := sorted(map(str, seen["missing_keys"])) + sorted(str(each[0]) for each in seen["mismatched_keys"]):
        raise UserError(
            f"the weights in {folder} lack {missing[0]} ({len(missing)} of all); expected those of its config.json"
        )
    if unused := sorted(map(str, seen["unexpected_keys"])):
        warn(
            f"{len(unused)} of the weights in {folder}, such as {unused[0]}, are in no layer that its config.json describes"
        )
    return model


def _unreadable(what: str, error: Exception, expected: str) -> UserError:
    if isinstance(error, MemoryError):
        raise error
    seen = " ".join(str(error).split())[:SAID] or type(error).__name__
    return UserError(f"cannot read {what}: {seen}; expected {expected}")


def adapt(model: Any) -> Network:
    """A decoder of transformers as a head and layers.

    Raises:
        UserError: its family is none that memexp can read exactly.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    model.eval()
    family = model.config.model_type
    meta = model.get_input_embeddings().weight.device.type == "meta"
    tokens_BT = _probe(model.config.get_text_config().vocab_size)
    try:
        reference_BTV, short_BTV = None, None
        if not meta:
            reference_BTV = _reference(model, tokens_BT)
            with _shortened(model) as shorter:
                short_BTV = _reference(model, tokens_BT) if shorter else None
        network, shape = _taken_apart(model)
        if short_BTV is not None:
            with _shortened(model):
                verified(network, shape, short_BTV, tokens_BT)
        if reference_BTV is not None:  # last, because layers keep the reach of their last pass
            verified(network, shape, reference_BTV, tokens_BT)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise _refused(family, f"its model does not have what memexp needs ({_line(error)})") from error
    return network


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _refused(family: str, why: str) -> UserError:
    return UserError(
        f"memexp cannot put a memory into a checkpoint of the family {family}: {why}; expected one with rotary positions and plain "
        "attention in each layer, such as Llama, Mistral, Qwen, Gemma, Phi, OLMo or SmolLM"
    )


def _probe(vocabulary: int) -> Tensor:
    """Two lanes of two segments of different tokens."""
    return torch.arange(4 * PROBE).view(2, -1) * 7919 % max(1, vocabulary - 8) + min(4, vocabulary - 1)


@torch.no_grad()
def _reference(model: Any, tokens_BT: Tensor) -> Tensor:
    with full_precision(torch.device("cpu")):
        logits: Tensor = model(tokens_BT, use_cache=False).logits
    return logits


@contextmanager
def _shortened(model: Any) -> Iterator[bool]:
    """Make all `LENGTHS` of a checkpoint at most `SHORT` while the block runs; yields whether one was longer."""
    holders: list[dict[str, Any]] = [vars(module) for module in model.modules()]
    configs = {id(each): each for each in (model.config, model.config.get_text_config())}.values()
    for config in configs:
        holders.append(vars(config))
        nested = [getattr(config, "rope_parameters", None) or {}]
        nested += [each for each in nested[0].values() if isinstance(each, dict)]
        holders += nested
    before = [
        (holder, name, holder[name])
        for holder in holders
        for name in LENGTHS
        if isinstance(holder.get(name), int) and holder[name] > SHORT
    ]
    try:
        for holder, name, _ in before:
            holder[name] = SHORT
        yield bool(before)
    finally:
        for holder, name, length in before:
            holder[name] = length


def _taken_apart(model: Any) -> tuple[Network, Shape]:
    config, base, family = model.config.get_text_config(), model.base_model, model.config.model_type
    base = getattr(base, "language_model", base)  # of a model that also reads images
    base = getattr(base, "decoder", base)  # OPT
    modules = sorted(
        (each for each in base.modules() if hasattr(each, "layer_idx") and hasattr(each, "is_causal")),
        key=lambda each: each.layer_idx,
    )
    if len(modules) != config.num_hidden_layers:
        raise _refused(family, f"{len(modules)} of its {config.num_hidden_layers} layers have attention")
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    rotary = getattr(base, "rotary_emb", None)
    types = config.layer_types if hasattr(rotary, "layer_types") else [None] * len(modules)
    positions = [_position(rotary, module, layer_type) for module, layer_type in zip(modules, types, strict=True)]
    attentions: list[Attention] = [
        PretrainedAttention(heads=heads, groups=groups, head_size=size, position=position) for position in positions
    ]
    model.set_attn_implementation(NAME)
    words = model.get_input_embeddings().weight
    by_embedding = rotary is None
    network = Network(
        PretrainedHead(model),
        PretrainedLayers(base, attentions, by_embedding=by_embedding),
        places=config.max_position_embeddings if by_embedding else None,
        unit=1.0 if words.is_meta else _unit(model),
        remark=_of_positions(rotary, config),
    )
    return network, Shape(
        len(words), len(modules), config.hidden_size, heads, size, 0, PROBE, groups=groups, pretrained=network
    )


@torch.no_grad()
def _unit(model: Any) -> float:
    """Root mean square of what enters the first layer; some embeddings multiply the vectors of their words."""
    embedding = model.get_input_embeddings()
    few_BT = torch.arange(min(PROBE, len(embedding.weight)))[None]
    larger = embedding(few_BT).square().mean() / embedding.weight[few_BT].square().mean()
    return float((embedding.weight.square().mean() * larger).sqrt())


def _of_positions(rotary: Any, config: Any) -> str:
    """What the user should know of positions that depend on how many tokens there are; empty for all others."""
    kinds = getattr(rotary, "rope_type", None)
    if not {*(kinds.values() if isinstance(kinds, dict) else [kinds])} & {*BY_LENGTH}:
        return ""
    said = [getattr(config, "rope_parameters", None) or {}]
    said += [each for each in said[0].values() if isinstance(each, dict)]
    from_on = next((each[LENGTHS[-1]] for each in said if LENGTHS[-1] in each), config.max_position_embeddings)
    return (
        f"positions of this checkpoint are others where more than {from_on:,} tokens can be in sight (its cache or mem, and segment), from a "
        "document's first token on; compare runs on the same side of it"
    )


def _position(rotary: Any, module: Any, layer_type: str | None) -> Position:
    if rotary is None or getattr(module, "use_rope", True) in (False, 0):
        return NoPosition()
    return PretrainedRotary(rotary, sys.modules[type(module).__module__].apply_rotary_pos_emb, layer_type)


@torch.no_grad()
def verified(network: Network, shape: Shape, reference_BTV: Tensor, tokens_BT: Tensor) -> Network:
    """The network, if it gives the logits of transformers' own attention: in one segment, and in two with a cache.

    Raises:
        UserError: it does not.
    """
    limit = CLOSE * float(reference_BTV.std())

    def difference(segment: int, size: int) -> float:
        cache, found = empty_cache(shape, lanes=len(tokens_BT), size=size, like=reference_BTV), []
        for piece_BT in tokens_BT.split(segment, dim=1):
            read = network.layers.read(network.head.embed(piece_BT), cache, size=size)
            cache = read.cache
            found.append(network.head.logits(read.hidden_BTD))
        return float((torch.cat(found, dim=1) - reference_BTV).abs().max())

    with full_precision(torch.device("cpu")):
        whole = difference(2 * PROBE, 0)
        in_two = difference(PROBE, PROBE) if network.places is None else 0.0
    if not max(whole, in_two) <= limit:
        raise UserError(
            f"with memexp's attention the logits of this checkpoint differ by {max(whole, in_two):.1e} from those of transformers; expected "
            f"at most {limit:.1e}. Likely cause: its family does something in attention that memexp does not know"
        )
    return network
