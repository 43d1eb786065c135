"""The device that is chosen: its name and memory, or why it is no GPU."""

import json
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memexp.device import describe, pick_device, why_no_gpu
from memexp.errors import UserError

from .messages import says

REASONS = {
    "a CPU build": (None, None, {}, "is a CPU build"),
    "an old driver": (
        "13.0",
        RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver.\nMore."
        ),
        {},
        "the NVIDIA driver is too old for CUDA 13.0",
    ),
    "no driver": (
        "13.0",
        RuntimeError("Found no NVIDIA driver on your system. Please check."),
        {},
        "Found no NVIDIA driver",
    ),
    "no device": ("13.0", RuntimeError("No CUDA GPUs are available"), {}, "no device is visible"),
    "a hidden device": (
        "13.0",
        RuntimeError("No CUDA GPUs are available"),
        {"CUDA_VISIBLE_DEVICES": ""},
        "CUDA_VISIBLE_DEVICES is ''",
    ),
    "another fault": ("13.0", AssertionError("Torch not compiled with CUDA enabled"), {}, "Torch not compiled"),
    "nothing to say": ("13.0", None, {}, "no device is visible"),
}


@pytest.fixture(params=REASONS)
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine without a GPU that torch can use; what is said about it."""
    version, error, environment, words = REASONS[request.param]

    def unavailable() -> bool:
        warnings.warn("CUDA initialization: a warning\nof several lines", UserWarning, stacklevel=1)
        return False

    def fail() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return words


def test_why_there_is_no_gpu_is_said(lacking: str) -> None:
    assert says(lacking)(why_no_gpu())
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    assert says("no GPU: ", lacking)(str(describe(pick_device("auto"), asked="auto")))
    assert "no GPU" not in str(describe(pick_device("cpu"), asked="cpu"))
    for name in ("cuda", "cuda:0", "cuda:7"):
        with pytest.raises(UserError, check=says(f"device is {name}", lacking, "expected", "device=cpu")):
            pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1e1", "CUDA", "mps", "", "cuda:1 "])
def test_a_name_of_no_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, check=says(f"device is {name!r}", "expected auto, cpu, cuda or cuda:N")):
        pick_device(name)


def test_the_number_of_a_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [pick_device(f"cuda:{number}") for number in (0, 1)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(UserError, check=says("device is cuda:2", "2 CUDA devices", "expected a number below 2")):
        pick_device("cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with pytest.raises(UserError, check=says("Likely cause: CUDA_VISIBLE_DEVICES is '3,4'")):
        pick_device("cuda:3")


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150_754_820_096)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert why_no_gpu() == ""
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    found = describe(pick_device("auto"), asked="auto")
    assert str(found) == "NVIDIA H200, 151 GB"
    assert found.record == {"name": "NVIDIA H200", "memory_bytes": 150_754_820_096}


def test_a_record_is_json_and_says_why(lacking: str) -> None:
    record: dict[str, Any] = json.loads(json.dumps(describe(torch.device("cpu"), asked="auto").record))
    assert record.keys() == {"name", "memory_bytes", "reason"}
    assert lacking in record["reason"]
    assert record["memory_bytes"] > 1e8
