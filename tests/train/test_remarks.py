"""What is said of settings that are not refused: when a run begins, and by a dry run of it, by the same function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memexp.cli.main import main
from memexp.config.introspection import choices_of
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.train import remarks as module

from ..tiny import TINY, configure

Heard = Callable[..., list[str]]

SETTINGS = {
    "arch=xl arch.position=xl arch.normalise=true optim.warmup=9": ["warm", "Transformer-XL's attention"],
    "arch=knn arch.search=auto mem=4k eval.max_document=1k arch.key_smear=true": ["arch.search=auto", "stays empty", "departs"],
    "arch=knn arch.search=faiss_ivf data.max_document=256": ["faiss_ivf", "data.max_document"],
    "arch=block_knn arch.search=faiss_hnsw": ["faiss_hnsw"],
    "arch=rmt precision=bf16": ["no instructions"],
    "arch=vanilla compile=true": ["compile=true has no effect"],
    "arch=xl checkpoint_memory=false": ["checkpoint_memory=false has no effect"],
}  # fmt: skip
"""Settings at tiny size, and what must be said of them."""


@pytest.fixture
def heard(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Runs a command, on a machine without bf16 and without a compiler; returns its warnings and notes."""
    monkeypatch.setattr("memexp.train.remarks.slow_here", lambda device: True)
    monkeypatch.setenv("CXX", "absent++")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> list[str]:
        assert main(["train", *TINY, f"root={root}", "steps=1", *words]) == 0
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        assert all(line.startswith("warning: ") for line in lines)
        assert "warning" not in printed.out
        measured = "% of the"  # how full the memory was is known only after the run
        return [line for line in lines if measured not in line] + [
            line for line in printed.out.splitlines() if line.startswith(("departs", "arch.search="))
        ]

    return call


@pytest.mark.parametrize(
    "settings", [*[*SETTINGS][:1], *(pytest.param(each, marks=pytest.mark.hard) for each in [*SETTINGS][1:])]
)
def test_a_dry_run_says_all_that_the_run_says(settings: str, heard: Heard) -> None:
    said = heard(*settings.split())
    for words in SETTINGS[settings]:
        assert any(words in line for line in said), (words, said)
    assert heard(*settings.split(), "--dry-run") == said


def test_a_dry_run_of_a_sweep_says_all_once(heard: Heard) -> None:
    said = heard(
        "-m",
        "--dry-run",
        "arch=knn",
        "arch.search=faiss_ivf,faiss_hnsw,nope",
        "seed=0,1",
        "mem=4k",
        "eval.max_document=1k",
    )
    assert sum("but eval.max_document cuts" in line for line in said) == 1
    assert sum("faiss_ivf" in line for line in said) == 1
    assert sum("faiss_hnsw" in line for line in said) == 1


def test_a_dry_run_for_another_machine_needs_no_gpu(heard: Heard) -> None:
    assert heard("--dry-run", "arch=knn", "device=cuda", "precision=bf16", "optim.warmup=0")


@pytest.mark.parametrize("arch", choices_of("arch"))
def test_every_architecture_is_built_without_its_weights(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[SegmentModel] = []

    def build(*given: Any, **options: Any) -> SegmentModel:
        built.append(build_model(*given, **options))
        return built[-1]

    monkeypatch.setattr(module, "build_model", build)
    module._of_a_model_of.cache_clear()  # another test may have asked for the same settings
    module.remarks(configure(f"arch={arch}"))
    (model,) = built
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
