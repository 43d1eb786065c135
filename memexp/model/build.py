"""Build a model from its settings."""

import importlib
from dataclasses import fields

from memexp.config.arch import Arch
from memexp.config.train import TrainConfig
from memexp.errors import UserError
from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape


def build_model(config: TrainConfig, *, vocabulary: int) -> SegmentModel:
    """Build the model of a configuration on the CPU, with weights drawn from torch's default generator.

    Raises:
        UserError: `arch._target_` is not an architecture of memexp.
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
    model: SegmentModel = _class_of(config.arch)(shape, config.mem, config.arch)
    return model


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
