"""Build a model from its settings."""

import importlib
from dataclasses import fields, replace
from typing import Any

from memexp.config.arch.base import Arch
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Network, Shape


def build_model(
    config: TrainConfig, *, vocabulary: int, classes: int = 0, network: Network | None = None
) -> SegmentModel:
    """Build the model of a configuration on the CPU, with weights drawn from torch's default generator.

    Args:
        vocabulary: tokens of the corpus, with the classes that its documents end in.
        classes: how many of these are classes, which are the last.
        network: the layers of the checkpoint of these settings, if they were loaded before; models may share them to read.

    Raises:
        UserError: `arch._target_` is not an architecture of memexp; or the checkpoint cannot be read.
    """
    size = config.size
    shape = Shape(
        vocabulary=vocabulary,
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        head_size=size.head_size,
        feedforward=size.feedforward,
        segment=config.segment,
        bptt_segments=config.bptt_segments,
        cutoffs=tuple(cutoff for cutoff in config.cutoffs if cutoff < vocabulary),
        narrowing=size.narrowing,
    )
    build = _class_of(config.arch)
    if size.checkpoint is not None:
        return _on_a_checkpoint(build, shape, config, classes, network)
    model: SegmentModel = build(shape, config.mem, config.arch)
    return model


def _on_a_checkpoint(
    build: type, shape: Shape, config: TrainConfig, classes: int, network: Network | None
) -> SegmentModel:
    """The architecture around the layers of a published checkpoint."""
    from memexp.model.pretrained.load import load
    from memexp.model.pretrained.low_rank import choose_trained

    network = network or load(config.size)
    text = shape.vocabulary - classes
    if text > network.head.vocabulary:
        raise UserError(
            f"the corpus has a vocabulary of {text:,}, but {config.size.checkpoint} has {network.head.vocabulary:,} entries; "
            "expected the checkpoint's own tokenizer"
        )
    if classes:
        network = network._replace(head=network.head.classifying(first=text, classes=classes))
    model: SegmentModel = build(replace(shape, groups=config.size.groups, pretrained=network), config.mem, config.arch)
    if model.cache_tokens and network.places is not None:
        raise UserError(
            f"{config.size.checkpoint} adds positions to its embeddings, so no cache continues its text; expected arch=vanilla, or a "
            "checkpoint with rotary positions"
        )
    if network.places is not None and model.positions > network.places:
        raise UserError(
            f"segment is {config.segment}, which takes {model.positions:,} places with the memory's tokens, but {config.size.checkpoint} knows "
            f"{network.places:,}; expected segment={max(1, network.places - model.positions + config.segment)} or less"
        )
    _refuse_unseen_distances(model, config)
    choose_trained(model, config.optim.train, rank=config.optim.rank)
    return model


def _refuse_unseen_distances(model: SegmentModel, config: TrainConfig) -> None:
    """Refuse a memory of pairs in layers with a sliding window, if it would stand further back than the window reaches.

    Raises:
        UserError: names a layer, and what it sees.
    """
    layers: Any = model.layers
    for number in config.arch.layers_at_edge() if config.mem else ():
        reach = layers.attentions[number - 1].reach
        if reach is not None and model.cache_tokens + config.segment > reach + 1:
            raise UserError(
                f"arch.knn_layers has {number}, a layer of {config.size.checkpoint} that sees {reach + 1:,} tokens, but the memory would stand "
                f"behind {model.cache_tokens:,} tokens of cache and a segment of {config.segment:,}; expected layers without a window in "
                "arch.knn_layers, or a smaller arch.cache and segment"
            )


def _class_of(arch: Arch) -> type:
    """The class that `arch._target_` names."""
    (allowed,) = [item.metadata["choices"] for item in fields(arch) if item.name == "_target_"]
    if arch._target_ not in allowed:
        raise UserError(
            f"arch._target_ is {arch._target_!r}; expected {' or '.join(allowed)}. Likely cause: the settings are of another version "
            "of memexp, or were edited"
        )
    module, _, name = arch._target_.rpartition(".")
    model: type = getattr(importlib.import_module(module), name)
    return model
