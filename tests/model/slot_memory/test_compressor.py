"""Compression of pairs against sums written out."""

import pytest
import torch
import torch.nn.functional as F

from memexp.config.arch.slot_memory import CompressiveArch
from memexp.model.slot_memory.compressor import Compressor, Convolution, Pairs, reconstruction

from ..small import shape


def test_an_untrained_convolution_is_the_mean() -> None:
    pairs = Pairs(torch.randn(2, 2, 12, 8), torch.randn(2, 2, 12, 8))
    size = shape(segment=12)
    made = [Compressor(size, CompressiveArch(compress=kind, factor=4))(pairs) for kind in ("convolution", "mean")]
    torch.testing.assert_close(made[0], made[1])


def test_the_product_of_matrices_is_a_convolution_of_each_head() -> None:
    torch.manual_seed(5)
    x = torch.randn(3, 2, 12, 8, dtype=torch.float64)
    convolution = Convolution(shape(segment=12), factor=4).double()
    torch.nn.init.normal_(convolution.weight)
    channels = x.transpose(2, 3).flatten(1, 2)  # B, H K, N
    expected = F.conv1d(channels, convolution.weight, stride=4, groups=2).unflatten(1, (2, -1)).transpose(2, 3)
    found = convolution(x)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, convolution.weight, upstream) for each in (found, expected)))


def test_reconstruction_written_out() -> None:
    """Lane 0 has two groups of which one is void, lane 1 nothing at all, lane 2 padding from its third token on."""
    torch.manual_seed(3)
    queries, keys, values = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 4, 8), torch.randn(3, 2, 4, 8)
    made = Pairs(torch.randn(3, 2, 2, 8), torch.randn(3, 2, 2, 8))
    there = torch.tensor([[False, True], [False, False], [True, True]])
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[2, 2:] = False
    found = reconstruction(queries, Pairs(keys, values), made, there_BP=there, valid_BT=valid).loss
    errors = []
    for lane, groups, length in ((0, [1], 4), (2, [0, 1], 2)):
        whole = [2 * group + member for group in groups for member in range(2)]
        for t in range(length):
            for head in range(2):
                before = (keys[lane, head, whole] @ queries[lane, head, t]).softmax(0) @ values[lane, head, whole]
                after = (made.keys_BHNK[lane, head, groups] @ queries[lane, head, t]).softmax(0) @ made.values_BHNK[
                    lane, head, groups
                ]
                errors += (before - after).square().tolist()
    assert found.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    nothing = reconstruction(queries, Pairs(keys, values), made, there_BP=there & False, valid_BT=valid).loss
    assert nothing == 0
