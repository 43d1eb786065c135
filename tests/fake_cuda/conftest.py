"""A process with a CUDA device that is not there; a stub, once loaded, would stay in the process of the other tests."""

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from . import stub

P = ParamSpec("P")
T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        pytest.skip("this torch is built for a GPU; the stub is for a CPU build")
    if shutil.which("g++") is None:
        pytest.skip("no g++, which compiles the stub")
    built = stub.build()
    sys.path.insert(0, str(CHECKOUT))  # the process gets this path, and finds these tests there
    try:
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=stub.load, initargs=(built,)) as executor:
            yield executor
    finally:
        sys.path.remove(str(CHECKOUT))


@pytest.fixture
def there(pool: ProcessPoolExecutor) -> Callable[..., object]:
    """Calls a function there and gives its result."""

    def call(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        return pool.submit(function, *args, **options).result()

    return call
