"""The matrix of keys and values against loops, and what the correction of its divisor is for."""

import pytest
import torch
from torch import Tensor

from memexp.model.matrix_memory.associations import (
    LEAST,
    Associations,
    associate,
    clear,
    dpfp,
    elu_plus_one,
    newness,
    nothing_written,
    recall,
    share_of,
)

DOUBLE = torch.zeros((), dtype=torch.float64)


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_it_is_the_loop_over_segments_lanes_heads_and_tokens(delta: bool, gated: bool) -> None:
    """All tokens of a segment read, correct and extend what was there at its start."""
    torch.manual_seed(2)
    lanes, heads, tokens, features, values = 2, 3, 4, 6, 5
    memory = nothing_written(lanes, heads, features=features, values=values, like=DOUBLE)
    matrix, total = torch.zeros(lanes, heads, features, values).double(), torch.zeros(lanes, heads, features).double()
    for _ in range(3):
        k, v, q = (
            elu_plus_one(drawn(lanes, heads, tokens, features)),
            drawn(lanes, heads, tokens, values),
            drawn(lanes, heads, 1, features).exp(),
        )
        beta, gamma = torch.rand(lanes, heads, tokens).double(), torch.rand(lanes, heads, tokens).double()
        old_matrix, old_total = matrix.clone(), total.clone()
        for b in range(lanes):
            for h in range(heads):
                for n in range(tokens):
                    key, known = k[b, h, n], torch.zeros(values).double()
                    if delta and old_total[b, h].any():
                        known = key @ old_matrix[b, h] / (key @ old_total[b, h])
                    matrix[b, h] += (beta[b, h, n] if gated else 1) * torch.outer(key, v[b, h, n] - known)
                    total[b, h] += (gamma[b, h, n] if gated else 1) * key
        strengths = {"strength_BN": beta, "growth_BN": gamma} if gated else {}
        memory = associate(memory, k, v, delta=delta, **strengths)
        torch.testing.assert_close(memory, Associations(matrix, total))
        read = torch.stack(
            [
                torch.stack([q[b, h, 0] @ matrix[b, h] / (q[b, h, 0] @ total[b, h]) for h in range(heads)])
                for b in range(lanes)
            ]
        )
        torch.testing.assert_close(recall(memory, q)[:, :, 0], read)


@pytest.mark.parametrize("corrected", [True, False])
def test_a_key_that_is_written_fifty_times_reads_its_last_value(corrected: bool) -> None:
    """With gamma. Without it the divisor grows at each write, and what is new counts ever less."""
    torch.manual_seed(3)
    memory, key = nothing_written(1, features=48, values=5, like=DOUBLE), dpfp(drawn(1, 1, 8))
    for _ in range(50):
        value = drawn(1, 1, 5)
        growth = newness(memory, key) if corrected else None
        memory = associate(memory, key, value, delta=True, growth_BN=growth)
    error = (recall(memory, key) - value).abs().max().item()
    assert error < 1e-9 if corrected else error > 0.3


def test_other_keys_keep_their_values_if_they_have_nothing_in_common() -> None:
    memory = nothing_written(1, features=4, values=2, like=DOUBLE)
    keys, values = torch.eye(4, dtype=torch.float64)[None], drawn(1, 4, 2)
    memory = associate(memory, keys, values, delta=True, growth_BN=newness(memory, keys))
    again = drawn(1, 1, 2)
    memory = associate(memory, keys[:, :1], again, delta=True, growth_BN=newness(memory, keys[:, :1]))
    torch.testing.assert_close(recall(memory, keys), torch.cat([again, values[:, 1:]], dim=1))


def test_nothing_is_read_of_an_empty_memory_and_a_key_of_zeros_writes_nothing() -> None:
    memory = nothing_written(2, features=4, values=3, like=torch.zeros(()))
    key = torch.ones(2, 1, 4)
    assert not recall(memory, key).any()
    assert newness(memory, key).eq(1).all()
    same = associate(memory, 0 * key, torch.ones(2, 1, 3), delta=True, growth_BN=newness(memory, 0 * key))
    assert not any(leaf.any() for leaf in same)
    written = associate(memory, key, torch.ones(2, 1, 3), delta=True)
    cleared = clear(written, torch.tensor([True, False]))
    assert [leaf.flatten(1).any(1).tolist() for leaf in cleared] == [[False, True]] * 2


def test_a_faint_query_reads_the_same_as_a_strong_one() -> None:
    memory, key, value = (
        nothing_written(1, features=4, values=3, like=DOUBLE),
        torch.ones(1, 1, 4).double(),
        drawn(1, 1, 3),
    )
    memory = associate(memory, key, value, delta=True)
    for strength in (1e-4, 1.0, 1e4):
        torch.testing.assert_close(recall(memory, strength * key), value)
    assert recall(memory, LEAST / 40 * key).abs().max() < value.abs().max() / 5


def test_half_precision_is_added_up_in_full() -> None:
    """2048 ones that are added one at a time are 256 in bf16."""
    memory, one = (
        nothing_written(1, features=1, values=1, like=torch.zeros(())),
        torch.ones(1, 1, 1, dtype=torch.bfloat16),
    )
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2048):
            memory = associate(memory, one, one, delta=False)
    assert [leaf.item() for leaf in memory] == [2048, 2048]


def test_newness_has_no_gradient_and_the_rest_has() -> None:
    memory = nothing_written(1, features=6, values=2, like=DOUBLE)
    key = drawn(1, 1, 6).exp().requires_grad_()
    memory = associate(memory, key, drawn(1, 1, 2), delta=True)
    assert not newness(memory, key).requires_grad
    assert all(leaf.requires_grad for leaf in memory)


def test_features_are_products_of_neighbours() -> None:
    x = drawn(7)
    halves = [*(max(a, 0.0) for a in x.tolist()), *(max(-a, 0.0) for a in x.tolist())]
    expected = [halves[i] * halves[(i - shift) % 14] for shift in (1, 2, 3) for i in range(14)]
    assert dpfp(x).tolist() == pytest.approx(expected)
    assert dpfp(x.float()).dtype == torch.float32
    torch.testing.assert_close(elu_plus_one(x), torch.where(x > 0, x + 1, x.exp()))


def test_a_share_is_that_of_norms_in_each_lane() -> None:
    read, other = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 15.0], [1.0, 0.0]])
    assert share_of(read, other)[0].item() == pytest.approx((5 / 20 + 0) / 2)
