"""A benchmark of a size that takes no time."""

import pytest

from memexp.bench import suite
from memexp.bench.workload import Work

MINIATURE = Work(
    vocabulary=11, layers=2, width=8, heads=2, head_size=4, feedforward=16, segment=8, lanes=2, neighbours=4
)


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> Work:
    """What the benches then measure."""
    monkeypatch.setattr(suite, "WORK", MINIATURE)
    return MINIATURE
