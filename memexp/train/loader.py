"""Batches of whole steps, on the device, and where to go on after the last one that was taken."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memexp.data.lanes import Batch, TrainingLanes
from memexp.train.batch import to_device


class Step(NamedTuple):
    """What one update reads."""

    batches: list[Batch[Tensor]]
    scored: int
    """Targets that count."""
    after: dict[str, Any]
    """`TrainingLanes.state` behind it."""
    epoch: int


class Reader:
    """Takes a step's segments from the lanes. What it says of itself is about what was taken, not what was read ahead.

    No thread reads: `read_ahead` is called when a step's work waits in the device's queue, and the host has nothing to do.
    """

    def __init__(self, lanes: TrainingLanes, *, segments: int, device: torch.device, ahead: bool | None = None) -> None:
        """
        Args:
            segments: of every lane a step.
            ahead: whether `read_ahead` does anything; by default only beside a device of its own, for on a CPU reading
                is 0.01 % of a step and would only come at another time.
        """
        self._lanes, self._segments, self._device = lanes, segments, device
        self.padding = lanes.padding
        self._ahead = device.type == "cuda" if ahead is None else ahead
        self._next: Step | None = None
        self._after, self.epoch = lanes.state(), lanes.epoch

    def take(self) -> Step:
        """The next step."""
        step = self._next or self._read()
        self._next, self._after, self.epoch = None, step.after, step.epoch
        return step

    def read_ahead(self) -> None:
        """Have the next step ready when it is taken."""
        if self._ahead and self._next is None:
            self._next = self._read()

    def state(self) -> dict[str, Any]:
        """Where the step after the last one taken begins; `epoch` is the lanes' there."""
        return self._after

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken."""
        self._lanes.restore(state)
        self._next, self._after, self.epoch = None, state, self._lanes.epoch

    def _read(self) -> Step:
        batches = [next(self._lanes) for _ in range(self._segments)]
        scored = int(sum(batch.weight_BT.sum() for batch in batches))
        return Step([self._on_device(batch) for batch in batches], scored, self._lanes.state(), self._lanes.epoch)

    def _on_device(self, batch: Batch[np.ndarray]) -> Batch[Tensor]:
        if self._device.type != "cuda":
            return to_device(batch, self._device)
        # only from pinned memory does a copy not wait
        return batch.map(lambda array: torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True))
