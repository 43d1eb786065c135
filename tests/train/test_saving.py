"""A thread writes trees as they were when they were given to it, one after another."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from memexp.errors import UserError
from memexp.machine import JOBS
from memexp.train import checkpoint, loop, saving
from memexp.train import session as session_module
from memexp.train.pinned import pinned_like
from memexp.train.saving import Saving
from memexp.train.session import Session

from ..messages import says
from .conftest import Train

HANG = 60
CPU = torch.device("cpu")


@pytest.fixture
def background() -> Iterator[Saving]:
    found = Saving(CPU, background=True)
    yield found
    found.finish()


def tree() -> dict[str, Any]:
    whole = torch.arange(6.0).view(2, 3)
    return {"weights": {"a": whole}, "state": [whole[:, 1], whole.bfloat16()], "losses": [1.5, None], "step": 3}


def test_what_changes_later_is_not_written(background: Saving) -> None:
    go, seen = Event(), []

    def write(content: Any) -> None:
        assert current_thread() is not main_thread()
        assert go.wait(HANG)
        seen.append(content)

    given = tree()
    background.save(given, write)
    given["weights"]["a"].zero_()
    given["losses"].append(2.5)
    given["step"] = 4
    assert not seen
    go.set()
    background.finish()
    [found], expected = seen, tree()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(leaf.is_contiguous() for leaf in found["state"])


def test_one_is_written_after_another_from_the_same_memory(background: Saving) -> None:
    go, events, places = Event(), [], []

    def write(content: Any) -> None:
        events.append(f"begin {content['step']}")
        assert go.wait(HANG)
        places.append(content["weights"]["a"].data_ptr())
        events.append(f"end {content['step']}")

    for step in range(3):
        if step:
            go.set()  # else the second waits for ever
        background.save(tree() | {"step": step}, write)
    background.finish()
    assert events == [f"{what} {step}" for step in range(3) for what in ("begin", "end")]
    assert len(set(places)) == 1


def test_an_error_is_raised_by_the_next_call_once(background: Saving) -> None:
    def write(content: Any) -> None:
        raise OSError("full")

    background.save(tree(), write)
    with pytest.raises(OSError, match="full"):
        background.save(tree(), write)
    background.finish()


def test_what_comes_after_an_error_is_written_first(background: Saving) -> None:
    seen: list[int] = []

    def write(content: Any) -> None:
        if content["step"] == 1:
            raise OSError("full")
        seen.append(content["step"])

    background.save(tree() | {"step": 1}, write)
    background.wait()
    assert background.failed
    with pytest.raises(OSError, match="full"):
        background.save(tree() | {"step": 2}, write)
    assert seen == [2]
    assert not background.failed


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [(9, 2, "checkpoints/step-0000003.pt"), (3, 2, "weights.pt")],
    ids=["in the middle", "at the end"],
)
def test_a_run_whose_checkpoint_cannot_be_written_ends_at_the_next_step(
    steps: int, every: int, kept: str, run: Train, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is then is written first."""
    taken, plain_save, plain_update = [], checkpoint.save, loop.update

    def save(path: Path, content: dict[str, Any]) -> None:
        if "0000002" in path.name:
            raise OSError("full")
        plain_save(path, content)

    def update(session: Session, **options: Any) -> Any:
        session.saving.wait()
        taken.append(session.step + 1)
        return plain_update(session, **options)

    monkeypatch.setattr(session_module, "Saving", lambda device, background: Saving(device, background=True))
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(OSError, match="full"):
        run("arch=vanilla", f"steps={steps}", f"checkpoint_every={every}")
    assert taken == [1, 2, 3]
    [folder] = (root / "results" / "runs").iterdir()
    assert (folder / kept).exists()


def test_the_last_good_checkpoint_may_be_on_its_way(run: Train, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, plain_save, plain_update = Event(), checkpoint.save, loop.update

    class Slow(Saving):
        """Writes nothing until it is waited for."""

        def wait(self) -> None:
            go.set()
            super().wait()

        def finish(self) -> None:
            go.set()
            super().finish()

    def save(path: Path, content: dict[str, Any]) -> None:
        assert go.wait(HANG)
        plain_save(path, content)

    def update(session: Session, **options: Any) -> Any:
        if session.step == 1:
            next(session.model.parameters()).data.fill_(float("nan"))
        return plain_update(session, **options)

    monkeypatch.setattr(session_module, "Saving", lambda device, background: Slow(device, background=True))
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(UserError, check=says("the loss is nan", "last good checkpoint is", "step-0000001.pt")):
        run("arch=vanilla", "steps=3", "checkpoint_every=1")


def test_a_cpu_waits_for_each_write() -> None:
    """As it is: its tensors are those that were given."""
    given, seen = tree(), []
    Saving(CPU, background=False).save(given, seen.append)
    assert seen[0] is given


@pytest.mark.parametrize(
    ("jobs", "room", "waits"), [("", 1.0, False), ("", 0.9, True), ("8", 8.0, False), ("8", 7.9, True)]
)
def test_copies_of_all_jobs_take_half_of_the_machine(
    jobs: str, room: float, waits: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else training waits, which is said once. Here what is copied is in the host's memory too."""
    given, seen = tree(), []
    size = sum(leaf.nbytes for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))
    own = max(1, int(jobs or 1)) * size
    monkeypatch.setattr(saving, "memory_bytes", lambda: int(2 * room * size) + own)
    monkeypatch.setenv(JOBS, jobs)
    saved = Saving(CPU, background=True)
    for _ in range(2):
        saved.save(given, seen.append)
        saved.finish()
    assert [found is given for found in seen] == [waits] * 2
    lines = capsys.readouterr().err.splitlines()
    assert [says("training waits", "GB", "expected at most", "checkpoint_memory=false")(line) for line in lines] == [
        True
    ] * waits


class _Driver:
    """Pins memory, or refuses to."""

    def __init__(self, answer: int) -> None:
        self.answer, self.pinned, self.released = answer, [], []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.pinned.append(range(address, address + size))
        return self.answer

    def cudaHostUnregister(self, address: int) -> None:
        self.released.append(address)


def test_pinned_memory_is_as_large_as_the_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _Driver(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    given = [
        torch.randn(300_001),
        torch.zeros(0),
        torch.tensor(3),
        torch.randn(5, 70_000).bfloat16(),
        torch.tensor([True]),
    ]
    copies = pinned_like(given)
    assert copies is not None
    for copy, tensor in zip(copies, given, strict=True):
        copy.copy_(tensor)
        if copy.numel():
            assert copy.data_ptr() in driver.pinned[0]
            assert copy.data_ptr() + copy.nbytes - 1 in driver.pinned[0]
    [area] = driver.pinned
    assert len(area) <= sum(tensor.nbytes for tensor in given) + 256 * len(given)
    torch.testing.assert_close(copies, given, rtol=0, atol=0)
    torch.save(copies, tmp_path / "copies.pt")
    assert (tmp_path / "copies.pt").stat().st_size < 1.01 * len(area) + 8192
    torch.testing.assert_close(torch.load(tmp_path / "copies.pt"), given, rtol=0, atol=0)
    assert not driver.released
    del copies, copy
    assert driver.released == [area.start]


def test_memory_that_cannot_be_pinned_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: _Driver(2))
    assert pinned_like([torch.zeros(3)]) is None
