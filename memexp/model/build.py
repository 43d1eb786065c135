"""From settings to a model, and from batches to what it reads."""

from dataclasses import asdict

from memexp.config.instantiate import instantiate
from memexp.config.train import TrainConfig
from memexp.model.segment import SegmentModel
from memexp.model.transformer.shape import Shape

NOT_OF_THE_MODEL = ("name", "mem_unit", "mem_is")
"""Options of `arch` that describe it to people and never reach the constructor."""


def build_model(config: TrainConfig, *, vocabulary: int) -> SegmentModel:
    """The model of a configuration, with weights drawn from torch's generator, on the CPU."""
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
    options = {name: value for name, value in asdict(config.arch).items() if name not in NOT_OF_THE_MODEL}
    model: SegmentModel = instantiate(options, shape=shape, mem=config.mem)
    return model
