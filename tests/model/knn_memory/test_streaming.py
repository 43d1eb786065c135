"""Rows in the host's memory that are carried elsewhere: the same values, whenever the copies happen."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from memexp.model.knn_memory import accelerator_search, scores_plain, streaming
from memexp.model.knn_memory.accelerator_search import by_scores
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.streaming import Copies, InTurn, OnStream, rows_on

from .rings import check

CPU = torch.device("cpu")


class Late:
    """Copies that happen only when something waits for them, and in the order in which they were started."""

    def __init__(self) -> None:
        self.open: list[list[tuple[Tensor, Tensor]]] = []
        self.done = self.buffers = 0

    def buffer(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        self.buffers += 1
        return torch.full(size, float("nan"), dtype=like.dtype)

    def start(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        self.open.append(pairs)
        return partial(self._finish, self.done + len(self.open))

    def require(self) -> None:
        self._finish(self.done + len(self.open))

    def _finish(self, number: int) -> None:
        while self.done < number:
            for to, source in self.open.pop(0):
                to.copy_(source)
            self.done += 1


def some_ring(dtype: torch.dtype = torch.float32) -> Ring:
    """Lanes that are empty, filled in part, around the end and full."""
    torch.manual_seed(0)
    keys, values = torch.randn(2, 4, 3, 50, 8).to(dtype)
    return Ring(keys, values, torch.full((4,), 120), torch.tensor([0, 7, 33, 50]), 50)


@pytest.mark.parametrize("copies", [InTurn, Late])
@pytest.mark.parametrize("piece", [1, 2 * 50 * 8 * 4, 1 << 20])
@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_all_readable_keys_arrive(
    copies: Callable[[], Copies], piece: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PIECE_BYTES", piece)
    ring, first = some_ring(), 0
    for keys_NRK in streaming._carried(copies(), CPU, ring, at_once):
        for number, keys_RK in enumerate(keys_NRK, first):
            lane, head = divmod(number, 3)
            readable = (119 - torch.arange(50)) % 50 < ring.count_B[lane]
            assert torch.equal(keys_RK[readable], ring.keys_BHRK[lane, head, readable])
        first += len(keys_NRK)
    assert first == 12


@pytest.mark.parametrize("copies", [InTurn, Late])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_search_of_carried_keys_is_that_of_all(
    copies: Callable[[], Copies], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[int] = []

    def keys_on(device: torch.device, ring: Ring, at_once: int) -> Any:
        for keys_NRK in streaming._carried(copies(), device, ring, at_once):
            carried.append(len(keys_NRK))
            yield keys_NRK

    monkeypatch.setattr(streaming, "PIECE_BYTES", 5 * 50 * 8 * dtype.itemsize)
    monkeypatch.setattr(accelerator_search, "keys_on", keys_on)
    ring, queries = some_ring(dtype), torch.randn(4, 3, 6, 8)
    check(by_scores(scores_plain, queries, ring, 10), queries, ring, 10)
    assert carried == [5, 5, 2]


@pytest.mark.parametrize("copies", [InTurn, Late])
@pytest.mark.parametrize("piece", [1, 7 * 8 * 4, 1 << 20])
def test_chosen_rows_arrive(copies: Callable[[], Copies], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    used = copies()
    monkeypatch.setattr(streaming, "PIECE_BYTES", piece)
    monkeypatch.setattr(streaming, "copies_to", lambda device: used)
    table, rows = torch.randn(40, 8), torch.randint(40, (30,))
    assert torch.equal(rows_on(CPU, table, rows), table[rows])


def test_a_device_already_with_the_keys_gets_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "copies_to", lambda device: pytest.fail("copied"))
    ring = some_ring()
    pieces = list(streaming.keys_on(CPU, ring, 5))
    assert [piece.data_ptr() for piece in pieces] == [
        ring.keys_BHRK.flatten(0, 1)[row].data_ptr() for row in (0, 5, 10)
    ]


def test_a_stream_waits_for_the_computations_before_it_and_they_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called on CUDA, and in which order."""
    said: list[str] = []

    class Stream(SimpleNamespace):
        def wait_stream(self, other: "Stream") -> None:
            said.append(f"{self.name} waits for {other.name}")

        def record_event(self) -> Any:
            said.append(f"event of {self.name}")
            return SimpleNamespace(synchronize=lambda: said.append("host waits"))

        def __enter__(self) -> None:
            said.append(f"on {self.name}")

        def __exit__(self, *error: object) -> None:
            said.append(f"off {self.name}")

    class Target:
        def copy_(self, source: Any, *, non_blocking: bool) -> None:
            assert non_blocking
            said.append(f"copy of {source}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(name="second"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(name="first"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    copies = OnStream(torch.device("cuda", 0))
    wait = copies.start([(Target(), "a"), (Target(), "b")])  # type: ignore[list-item]
    copies.require()
    wait()
    assert said == [
        "second waits for first", "on second", "copy of a", "copy of b", "off second", "event of second",
        "first waits for second", "host waits",
    ]  # fmt: skip
