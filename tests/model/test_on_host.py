"""Values of tensors that the host knows without waiting for a device."""

import gc

import numpy as np
import pytest
import torch

from memexp.model import on_host


def test_only_what_the_host_does_not_know_is_fetched() -> None:
    """A tensor on `meta` has no values that could be fetched."""
    tokens, array = torch.empty(3, 2, dtype=torch.long, device="meta"), np.arange(6).reshape(3, 2)
    assert on_host.remember(tokens, array) is tokens
    assert on_host.values_of(tokens) is array
    with pytest.raises(NotImplementedError):
        on_host.values_of(tokens.flatten())
    assert on_host.values_of(torch.tensor([4, 5])).tolist() == [4, 5]


def test_nothing_is_kept_of_tensors_that_are_gone() -> None:
    before = len(on_host._known)
    tokens = on_host.remember(torch.empty(3, device="meta"), np.zeros(3))
    assert len(on_host._known) == before + 1
    del tokens
    gc.collect()
    assert len(on_host._known) == before
