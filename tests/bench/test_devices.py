"""Several devices beside one, as two processes on the CPU."""

import os
from collections.abc import Callable
from multiprocessing import Pipe
from threading import Timer
from types import SimpleNamespace

import pytest
import torch

from memexp.bench import devices
from memexp.bench.measurement import Figure
from memexp.config.commands import BenchConfig
from memexp.errors import UserError

from ..messages import says


@pytest.mark.hard
def test_two_processes_are_compared_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choices_of", lambda group: ["rmt"])
    said: list[str] = []
    figures = devices.measure(BenchConfig(what=["devices"]), None, said.append)  # type: ignore[arg-type]
    assert [(figure.what.split(",")[0].split(" of ")[0], figure.met) for figure in figures] == [
        ("losses", True), ("losses", True), ("step", None), ("step", None), ("loss", True),
    ]  # fmt: skip
    assert len(said) == len(figures)
    assert figures[4].ours_measured == [0.0]


def test_a_process_that_fails_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def compared(*given: object) -> object:
        yield Figure.without("losses", "not today")
        raise RuntimeError("arch=rmt: ValueError:\n no")

    monkeypatch.setattr(devices, "compared", compared)
    figures = devices.measure(BenchConfig(what=["devices"]), None, lambda what: None)  # type: ignore[arg-type]
    assert [(figure.what, figure.unmeasured, figure.met) for figure in figures] == [
        ("losses", "not today", None), ("what follows losses", "failed: arch=rmt: ValueError: no", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (lambda pipe, ends: pipe.send("ValueError: no"), "arch=rmt: rank 1: ValueError: no"),
        (lambda pipe, ends: ends(), "arch=rmt: rank 1 of 2 ended with exit code -9"),
        (lambda pipe, ends: pipe.close(), "arch=rmt: rank 1 of 2 ended with exit code -9"),
        (lambda pipe, ends: (pipe.send("ValueError: no"), ends()), "arch=rmt: rank 1: ValueError: no"),
    ],
    ids=["an error", "an end", "a closed pipe", "an error and an end"],
)
def test_nobody_waits_for_the_others_of_one_that_failed(happens: Callable[..., object], said: str) -> None:
    """Rank 0 waits for rank 1, and never answers."""
    (ours, theirs), (sentinels, writers) = (
        zip(*(Pipe() for _ in range(2)), strict=True),
        zip(*(os.pipe() for _ in range(2)), strict=True),
    )
    processes = [SimpleNamespace(sentinel=each, join=lambda seconds: None, exitcode=-9) for each in sentinels]
    late = Timer(20, theirs[0].close)  # only if it waits for rank 0 first
    late.start()
    try:
        happens(theirs[1], lambda: os.write(writers[1], b"x"))
        with pytest.raises(RuntimeError) as error:
            devices._answers(ours, processes, "arch=rmt")  # type: ignore[arg-type]
    finally:
        late.cancel()
        for each in (*sentinels, *writers):
            os.close(each)
    assert str(error.value) == said


def test_answers_of_all_processes_must_agree() -> None:
    ours, theirs = zip(*(Pipe() for _ in range(2)), strict=True)
    sentinels = [Pipe() for _ in range(2)]
    processes = [SimpleNamespace(sentinel=each) for each, _ in sentinels]

    def answers(*losses: float) -> list[float]:
        theirs[1].send(devices.Steps([losses[1]], 1.0))
        Timer(0.05, lambda: theirs[0].send(devices.Steps([losses[0]], 0.0))).start()
        return [each.seconds for each in devices._answers(ours, processes, "arch=rmt")]  # type: ignore[arg-type]

    assert answers(1.0, 1.0) == [0.0, 1.0]
    with pytest.raises(RuntimeError, match=r"arch=rmt: rank 1 has the losses \[2.0\], and rank 0 \[1.0\]"):
        answers(1.0, 2.0)


def test_one_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "why_no_gpu", str)
    monkeypatch.setattr(devices, "visible_cards", lambda: ["0"])
    with pytest.raises(UserError, check=says("there is one GPU", "expected at least two", "CUDA_VISIBLE_DEVICES=")):
        devices.the_devices()


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2])
def test_gpus_train_like_one(count: int) -> None:
    """Over NCCL, which is started for one device, too."""
    if torch.cuda.device_count() < count:
        pytest.skip(f"fewer than {count} GPUs")
    ground = devices.Ground("cuda", 0)
    words = (*ground.small, "arch=knn", "lanes=4", "precision=fp32", "data.max_document=0")
    with devices.group(ground, 1) as alone, devices.group(ground, count) as several:
        assert several(*words, devices.SHARED).losses == pytest.approx(alone(*words).losses, rel=devices.LOSS)
