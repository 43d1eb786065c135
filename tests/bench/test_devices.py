"""Several devices beside one, as two processes on the CPU."""

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
        raise RuntimeError("arch=rmt: ValueError: no")

    monkeypatch.setattr(devices, "compared", compared)
    figures = devices.measure(BenchConfig(what=["devices"]), None, lambda what: None)  # type: ignore[arg-type]
    assert [(figure.what, figure.unmeasured, figure.met) for figure in figures] == [
        ("losses", "not today", None), ("what follows losses", "failed: arch=rmt: ValueError: no", False),
    ]  # fmt: skip


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
