"""What all tests share: one thread a process, and those marked `gpu` are skipped where there is no CUDA device."""

import os
import random
import signal

import hypothesis
import pytest

# The tests' tensors are tiny and two processes share two cores: more threads would only wait for each other. Set before
# torch is imported, and for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def chance() -> random.Random:
    """Random moments. A test that fails shows the seed, and MEMEXP_TEST_SEED sets it."""
    seed = int(os.environ.get("MEMEXP_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MEMEXP_TEST_SEED={seed}")
    return random.Random(seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
