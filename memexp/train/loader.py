"""The batches of a step on the device, and the position in the data after the last step taken."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from memexp.data.lanes import Batch, TrainingLanes
from memexp.train.batch import to_device


class Step(NamedTuple):
    """The data of one optimizer step."""

    batches: list[Batch[Tensor]]
    scored: int
    """Number of scored targets, in the lanes of all processes."""
    after: dict[str, Any]
    """`TrainingLanes.state` after these batches."""
    epoch: int


class Reader:
    """Reads the segments of each step from the lanes. `state` and `epoch` count the steps taken, not those read ahead.

    There is no thread: `read_ahead` is called while the device works through its queue and the host would only wait.
    """

    def __init__(self, lanes: TrainingLanes, *, segments: int, device: torch.device, ahead: bool | None = None) -> None:
        """
        Args:
            segments: segments per lane and step.
            ahead: whether `read_ahead` does anything; by default only on a GPU. On a CPU, reading takes 0.01 % of a step,
                and reading ahead would only move that time.
        """
        self._lanes, self._segments, self._device = lanes, segments, device
        self.padding = lanes.padding
        self._ahead = device.type == "cuda" if ahead is None else ahead
        self._next: Step | None = None
        self._after, self.epoch = lanes.state(), lanes.epoch

    def take(self) -> Step:
        """Take the next step."""
        step = self._next or self._read()
        self._next, self._after, self.epoch = None, step.after, step.epoch
        return step

    def read_ahead(self) -> None:
        """Read the next step now, so that `take` need not read it."""
        if self._ahead and self._next is None:
            self._next = self._read()

    def state(self) -> dict[str, Any]:
        """The position in the data after the last step taken."""
        return self._after

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned."""
        self._lanes.restore(state)
        self._next, self._after, self.epoch = None, state, self._lanes.epoch

    def _read(self) -> Step:
        batches, scored = [], 0
        for _ in range(self._segments):
            batches.append(to_device(next(self._lanes), self._device))
            scored += self._lanes.scored
        return Step(batches, scored, self._lanes.state(), self._lanes.epoch)
