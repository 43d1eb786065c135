"""Gauges of a memory made of vectors."""

import pytest
import torch

from memexp.model.slot_memory.gauges import memory_gauges, share_between


def test_the_share_between_documents() -> None:
    """0 for equal memories, 1 for unrelated ones, and the shares of both parts where they are added."""
    torch.manual_seed(0)
    common, own = torch.randn(1, 64, 32), torch.randn(8, 64, 32)
    assert share_between(common.expand(8, -1, -1)) == pytest.approx(0, abs=1e-9)
    assert share_between(own) == pytest.approx(1, abs=0.02)
    assert share_between(3 * common + own) == pytest.approx(0.1, abs=0.01)
    assert share_between(7 * (3 * common + own)) == pytest.approx(share_between(3 * common + own).item())


def test_one_document_has_no_share() -> None:
    memory = torch.randn(1, 4, 8)
    assert "memory_between" not in memory_gauges(memory, memory)
    assert "memory_between" in memory_gauges(memory.expand(2, -1, -1), memory.expand(2, -1, -1))
