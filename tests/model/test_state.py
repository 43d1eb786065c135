"""A state becomes a list of tensors for a file, and a state again."""

import pytest
import torch

from memexp.model.state import State, pack, unpack


def test_what_has_storage_of_its_own_is_not_copied() -> None:
    """It may be as large as the memory that is left. A view would bring all that it is a part of."""
    ring, whole, zeros = torch.randn(2, 5), torch.randn(2, 7), torch.zeros(2)
    learned = torch.nn.Parameter(torch.randn(3)).expand(2, -1)
    state = State(cache=(whole[:, 2:4], zeros, zeros), memory=(ring, learned))
    packed = pack(state)
    for found, expected in zip(packed, [whole[:, 2:4], zeros, zeros, ring, learned], strict=True):
        assert torch.equal(found, expected)
        assert found.untyped_storage().nbytes() == 4 * found.numel()
        assert not found.requires_grad
    assert [leaf.data_ptr() for leaf in packed].count(zeros.data_ptr()) == 0
    assert packed[3].data_ptr() == ring.data_ptr()


def test_one_lane_shows_what_form_a_state_must_have() -> None:
    leaves, like = [torch.randn(3, 5), torch.zeros(3)], State(cache=torch.zeros(1, 5), memory=torch.zeros(1))
    found = unpack(leaves, like, lanes=3)
    assert torch.equal(found.cache, leaves[0])
    assert torch.equal(found.memory, leaves[1])
    with pytest.raises(ValueError, match=r"tensor 1 is \(\(3, 5\).* and \(\(2, 5\)"):
        unpack(leaves, like, lanes=2)
