"""What is read ahead is never seen in what a run saves."""

import numpy as np
import pytest
import torch

from memexp.data.lanes import TrainingLanes
from memexp.train.loader import Reader

from .test_update import documents

CPU = torch.device("cpu")


def lanes() -> TrainingLanes:
    return TrainingLanes(documents(5, 12, 20, 37, 41), lanes=3, segment=8, seed=1, max_document=16)


def test_reading_ahead_changes_neither_order_nor_position() -> None:
    plain, ahead = (Reader(lanes(), segments=2, device=CPU, ahead=value) for value in (False, True))
    by_hand = lanes()
    for _ in range(12):
        steps = plain.take(), ahead.take()
        ahead.read_ahead()
        expected = [next(by_hand) for _ in range(2)]
        for step in steps:
            for found, batch in zip(step.batches, expected, strict=True):
                assert np.array_equal(found.tokens_BT.numpy(), batch.tokens_BT)
            assert step.scored == sum(int(batch.weight_BT.sum()) for batch in expected)
        assert plain.state() == ahead.state() == by_hand.state()
        assert plain.epoch == ahead.epoch == by_hand.epoch
    assert plain.epoch > 0


def test_what_was_read_ahead_is_read_again_after_going_back() -> None:
    reader = Reader(lanes(), segments=2, device=CPU, ahead=True)
    reader.take()
    reader.read_ahead()
    position = reader.state()
    first = reader.take().batches[0].tokens_BT
    reader.read_ahead()
    reader.restore(position)
    assert reader.state() == position
    other = Reader(lanes(), segments=2, device=CPU)
    other.restore(position)
    assert torch.equal(reader.take().batches[0].tokens_BT, first)
    assert torch.equal(other.take().batches[0].tokens_BT, first)


@pytest.mark.gpu
def test_copies_arrive_on_the_device() -> None:
    reader, expected = Reader(lanes(), segments=2, device=torch.device("cuda")), lanes()
    for _ in range(5):
        step = reader.take()
        reader.read_ahead()
        for found in step.batches:
            assert np.array_equal(found.tokens_BT.cpu().numpy(), next(expected).tokens_BT)
