"""From settings to a model, and from batches to what it reads."""

from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from memexp.config import TrainConfig
from memexp.data.lanes import Batch
from memexp.errors import UserError
from memexp.instantiate import instantiate
from memexp.model.segment import SegmentModel, Shape

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


def pick_device(name: str) -> torch.device:
    """The device that `device=` asks for.

    Raises:
        UserError: CUDA is asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device is cuda, but torch sees no CUDA device; expected a GPU and a CUDA build of torch "
            f"(this is {torch.__version__}), or device=cpu"
        )
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


class Fed(NamedTuple):
    """One batch as the model reads it; the fields are those of `memexp.data.lanes.Batch`."""

    tokens_BT: Tensor
    targets_BT: Tensor
    valid_BT: Tensor
    weight_BT: Tensor
    reset_B: Tensor


def feed(batch: Batch, device: torch.device) -> Fed:
    """A batch on the device."""
    return Fed(*(torch.from_numpy(array).to(device, non_blocking=True) for array in batch[: len(Fed._fields)]))
