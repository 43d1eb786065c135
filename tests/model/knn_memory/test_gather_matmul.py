"""Products with chosen rows against copies of these rows, values and gradients."""

import pytest
import torch

from memexp.model.knn_memory.gather_matmul import dot_rows, sum_rows


@pytest.mark.parametrize("stored", [torch.float32, torch.float64, torch.bfloat16])
def test_products_and_gradients_are_those_of_copied_rows(stored: torch.dtype) -> None:
    torch.manual_seed(0)
    kind = torch.promote_types(stored, torch.float32)
    table, places = torch.randn(40, 6, dtype=stored), torch.randint(40, (7, 5))
    rows = table[places].to(kind)
    for function, formula, inputs in (
        (dot_rows, "nk,nmk->nm", torch.randn(7, 6, dtype=kind, requires_grad=True)),
        (sum_rows, "nm,nmk->nk", torch.randn(7, 5, dtype=kind, requires_grad=True)),
    ):
        found, expected = function(inputs, table, places), torch.einsum(formula, inputs, rows)
        torch.testing.assert_close(found, expected)
        down = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad(found, inputs, down), torch.autograd.grad(expected, inputs, down)
        )


def test_other_rows_may_be_written_before_the_backward_pass() -> None:
    """As a ring is, between reading and learning."""
    table, places = torch.randn(10, 4), torch.tensor([[1, 3]])
    queries = torch.randn(1, 4, requires_grad=True)
    expected = table[places].sum(1)
    found = dot_rows(queries, table, places)
    table[5:] = torch.nan
    assert torch.equal(torch.autograd.grad(found.sum(), queries)[0], expected)


def test_known_products_are_not_computed_again() -> None:
    table, places, known = torch.randn(10, 4), torch.randint(10, (3, 2)), torch.randn(3, 2)
    queries, down = torch.randn(3, 4, requires_grad=True), torch.randn(3, 2)
    found = dot_rows(queries, table, places, known_NM=known)
    assert torch.equal(found, known)
    expected = torch.autograd.grad(dot_rows(queries, table, places), queries, down)
    assert torch.equal(*torch.autograd.grad(found, queries, down), *expected)


@pytest.mark.gpu
def test_on_cuda_they_are_those_on_cpu() -> None:
    torch.manual_seed(0)
    table, places = torch.randn(40, 64), torch.randint(40, (7, 5))
    for function, inputs in ((dot_rows, torch.randn(7, 64)), (sum_rows, torch.randn(7, 5))):
        found = function(inputs.cuda(), table.cuda(), places.cuda()).cpu()
        torch.testing.assert_close(found, function(inputs, table, places), rtol=1e-4, atol=1e-4)
