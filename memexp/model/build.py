"""Build a model from its settings."""

import importlib

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
    """The model class that `arch._target_` names.

    Settings can come from another person's run folder, so anything that is not a model is refused.
    """
    module, _, name = arch._target_.rpartition(".")
    if module.startswith("memexp.model."):
        try:
            model = getattr(importlib.import_module(module), name, None)
        except ImportError:
            model = None
        if isinstance(model, type) and issubclass(model, SegmentModel):
            return model
    raise UserError(
        f"arch._target_ is {arch._target_!r}; expected the class of an architecture, such as memexp.model.xl.Xl. Likely cause: "
        "the settings come from another version of memexp, or were edited"
    )
