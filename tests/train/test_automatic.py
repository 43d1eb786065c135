"""What the device decides: precision and compilation; and what stays in full precision whatever it decides."""

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import memexp.model
from memexp.config.train import TrainConfig
from memexp.data.corpus import Corpus
from memexp.errors import UserError
from memexp.launch.sweep import Job, print_plan
from memexp.model.build import build_model
from memexp.model.knn_memory import exact_search
from memexp.model.transformer.numerics import Arithmetic, full_precision
from memexp.store.identity import identify
from memexp.train import compilation, session
from memexp.train.precision import arithmetic
from memexp.train.spec import settled_here, specify

from ..contract.conftest import ARCHS
from ..messages import says
from ..tiny import configure

CUDA = torch.device("cuda")
GPUS = {
    "Tesla V100": ((7, 0), "fp32", False),
    "Tesla T4": ((7, 5), "fp32", False),
    "NVIDIA A100": ((8, 0), "bf16", True),
    "NVIDIA GeForce RTX 4090": ((8, 9), "bf16", True),
    "NVIDIA H200": ((9, 0), "bf16", True),
    "NVIDIA B200": ((10, 0), "bf16", True),
}
"""Compute capability, the precision that pays, and whether there is TF32."""

Fake = Callable[[str], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a GPU of this name into the machine."""

    def put(name: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: GPUS[name][0])
        properties = SimpleNamespace(name=name, total_memory=80 * 10**9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return put


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_trains_in_bf16_if_it_has_instructions_for_it(name: str, gpu: Fake) -> None:
    gpu(name)
    _, precision, tf32 = GPUS[name]
    for device in ("auto", "cuda"):
        found = settled_here(configure("precision=auto", f"device={device}"))
        assert found.config.precision == precision
        assert says(f"precision: {precision}, because", name)(found.note.text)
    found = settled_here(configure("precision=auto", "device=cpu"))
    assert found.config.precision == "fp32"
    assert says("precision: fp32, because", "CPU")(found.note.text)
    asked = settled_here(configure("precision=fp32", "tf32=true", "device=cuda"))
    assert says("precision: fp32", "TF32")(asked.note.text)
    assert bool(asked.refusal) != tf32
    assert tf32 or says("tf32 is true", name, "expected", "8.0", "tf32=false")(asked.refusal)


@pytest.mark.parametrize(("architecture", "precision"), [
    ("gfx906:sramecc+:xnack-", "fp32"), ("gfx1030", "fp32"), ("gfx908", "bf16"), ("gfx90a:sramecc+:xnack-", "bf16"),
    ("gfx942", "bf16"), ("gfx950", "bf16"), ("gfx1100", "bf16"), ("gfx1201", "bf16"),
])  # fmt: skip
def test_an_amd_gpu_trains_in_bf16_if_it_has_units_for_matrices(
    architecture: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(name="AMD", total_memory=16 * 10**9, gcnArchName=architecture)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = settled_here(configure("precision=auto", "device=cuda"))
    assert found.config.precision == precision
    assert "many times" not in found.note.text


def test_what_is_computed_is_the_identity_not_the_word(corpus: Corpus, root: Path, gpu: Fake) -> None:
    by_word = specify(configure("precision=auto"), corpus, root)
    assert by_word.config.precision == by_word.identity["precision"] == "fp32"
    assert by_word.identity == specify(configure("precision=fp32"), corpus, root).identity
    assert "tf32" not in by_word.identity  # so runs that had no such setting keep theirs
    gpu("NVIDIA H200")
    there = specify(configure("precision=auto", "device=cuda"), corpus, root)
    assert there.config.precision == there.identity["precision"] == "bf16"
    assert there.identity == specify(configure("precision=bf16"), corpus, root).identity
    rounded = specify(configure("tf32=true", "device=cuda"), corpus, root)
    assert rounded.identity["tf32"] is True
    assert len({by_word.hash, there.hash, rounded.hash}) == 3
    with pytest.raises(ValueError, match="precision=auto"):
        identify(configure("precision=auto"), corpus, root)


def test_another_device_continues_a_run_in_its_precision(corpus: Corpus, root: Path, gpu: Fake) -> None:
    here = specify(configure("precision=auto"), corpus, root)
    here.run.write_config(dataclasses.asdict(here.config))
    gpu("NVIDIA H200")
    asked = configure("precision=auto", "device=cuda")
    continued = specify(asked, corpus, root)
    assert continued.run == here.run
    assert continued.identity == here.identity
    assert continued.config.precision == "fp32"
    assert says("precision: fp32, because", "begun")(continued.notes[0].text)
    other = specify(configure("precision=bf16", "device=cuda"), corpus, root)
    other.run.write_config(dataclasses.asdict(other.config))
    assert specify(asked, corpus, root).run == other.run  # where there are both, the device's own


def test_a_plan_tells_what_is_chosen(capsys: pytest.CaptureFixture[str], gpu: Fake) -> None:
    """A machine with a GPU, and one without for which device=cuda is planned."""
    asked = configure("precision=auto", "device=cuda")
    print_plan([Job(0, [], "", asked)])
    assert says("precision: bf16, because")(" ".join(capsys.readouterr().out.split()))
    gpu("Tesla T4")
    print_plan([Job(0, [], "", asked), Job(1, [], "", dataclasses.replace(asked, tf32=True))])
    both = capsys.readouterr()
    assert says("precision: fp32, because Tesla T4")(" ".join(both.out.split()))
    assert says("would be refused", "tf32", "Tesla T4")(" ".join(both.err.split()))


def test_jobs_that_do_the_same_here_are_one(gpu: Fake) -> None:
    def jobs() -> list[str]:
        words = ("auto", "fp32", "bf16")
        return [Job(0, [f"precision={word}"], "", configure(f"precision={word}", "device=auto")).what for word in words]

    auto, full, half = jobs()
    assert auto == full != half
    gpu("NVIDIA H200")
    auto, full, half = jobs()
    assert auto == half != full


def test_a_device_without_tf32_does_not_train_in_it(corpus: Corpus, root: Path) -> None:
    with pytest.raises(UserError, check=says("tf32 is true", "expected", "tf32=false")):
        specify(configure("tf32=true"), corpus, root)


@pytest.mark.parametrize("arch", ARCHS)
def test_layers_are_compiled_where_it_pays(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "missing_compiler", lambda device: None)
    monkeypatch.setattr("memexp.train.remarks.missing_compiler", lambda device: None)
    compiled: list[Any] = []
    monkeypatch.setattr(session, "compile_layers", lambda model, asked: compiled.append((model, asked)) or 1)

    def compiles(word: str, device: torch.device) -> bool:
        config = configure(f"arch={arch}", f"compile={word}")
        model = build_model(config, vocabulary=30)
        before = len(compiled)
        told = [remark.text for remark in session._prepare(model, config, device)]
        done = len(compiled) > before
        assert done == any(says(f"compile={word}", "at the first step")(text) for text in told)
        return done

    cpu = torch.device("cpu")
    assert [compiles(word, cpu) for word in ("auto", "true", "false")] == [False, True, False]
    varying = arch == "thought"  # its composition loss reads pieces of random lengths
    assert [compiles(word, CUDA) for word in ("auto", "true", "false")] == [not varying, True, False]


def test_a_truth_value_is_still_read() -> None:
    """As older config.yaml files have it, and as Hydra reads it in a sweep."""
    assert [TrainConfig(compile=value).compile for value in (True, False, "auto")] == ["true", "false", "auto"]


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def rounding() -> Iterator[None]:
    """The layers of a model compute in TF32, as in a run with tf32=true."""
    before = flags()
    with Arithmetic(tf32=True).unless_cast(CUDA):
        assert flags() == (True, True)
        yield
    assert flags() == before


@pytest.mark.usefixtures("rounding")
def test_a_search_is_never_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(exact_search, "by_groups", lambda *_: seen.append(flags()))
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells that there is no CUDA
        exact_search.exact(torch.empty(1, 1, 4, 8, device="cuda"), None, 2)  # type: ignore[arg-type]
        with full_precision(CUDA):
            seen.append(flags())
    assert seen == [(False, False)] * 2
    assert flags() == (True, True)


def test_convolutions_are_in_tf32_only_if_asked() -> None:
    """torch's own default for them is TF32."""
    for asked in (False, True):
        with Arithmetic(tf32=asked).unless_cast(CUDA):
            assert flags() == (asked, asked)
        config = dataclasses.replace(configure(), tf32=asked)
        assert arithmetic(config) == Arithmetic(bf16=False, tf32=asked)


def test_whatever_autocast_is_kept_from_tf32_is_kept_from_too() -> None:
    """In every module of a model."""
    loud = [
        path.name
        for path in sorted(Path(memexp.model.__file__).parent.rglob("*.py"))
        if re.search(r"autocast\([^)]*enabled=False", path.read_text(encoding="utf-8"))
    ]
    assert loud == ["numerics.py"]
