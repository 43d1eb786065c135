"""bf16 copies of the weights give what autocast gives, and are cast once a step."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memexp.model.build import build_model
from memexp.train import session as session_module
from memexp.train.loop import update
from memexp.train.precision import slow_here
from memexp.train.session import Session, _prepare

from ..contract.conftest import ARCHS
from ..messages import says
from ..tiny import configure
from .conftest import Train
from .test_update import SEGMENT, VOCABULARY, documents, open_session

MORE = [
    "vanilla arch.position=dynamic arch.key_smear=true", "xl arch.position=xl", "compressive mem=3",
    "knn mem=20 arch.neighbours=4 arch.combine=joint", "rmt mem=3 bptt_segments=1", "block mem=3 arch.window=4 bptt_segments=1",
    "thought mem=3 arch.faithful=true arch.recall_target=embeddings",
]  # fmt: skip


def opened(arch: str, *settings: str, tmp_path: Any) -> Session:
    config = configure(
        *f"arch={arch}".split(), f"segment={SEGMENT}", "lanes=3", "accumulate=4", "size.attention.scale=4", "precision=bf16",
        "optim.clip=0", "size.memory=40", *settings,
    )  # fmt: skip
    torch.manual_seed(0)
    return open_session(config, build_model(config, vocabulary=VOCABULARY), documents(100, 70, 50, 90), tmp_path)


def gradients(session: Session) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    update(session)
    with torch.no_grad():
        for each in session.model.parameters():
            each.mul_(1.1)  # what an optimizer does
    update(session)
    return {name: each.grad.clone() for name, each in session.model.named_parameters() if each.grad is not None}


class Autocast:
    """In the place of copies: none, so that autocast makes its own."""

    def __init__(self, model: Any) -> None:
        pass

    def refresh(self) -> None:
        pass

    def leaves(self) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize("recompute", ["recompute=false", pytest.param("recompute=true", marks=pytest.mark.hard)])
@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[] if arch in ("knn", "delta") else pytest.mark.hard) for arch in (*ARCHS, *MORE)]
)
def test_the_gradients_are_autocasts(arch: str, recompute: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gradients(opened(arch, recompute, tmp_path=tmp_path))
    monkeypatch.setattr(session_module, "HalfWeights", Autocast)
    expected = gradients(opened(arch, recompute, tmp_path=tmp_path))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


class Casts(TorchDispatchMode):
    """Counts how often a matrix of a shape is cast to bf16."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten._to_copy and found.dtype == torch.bfloat16:
            self.count += found.shape == self.shape
        if func._overloadpacket is torch.ops.aten._foreach_copy_:
            self.count += sum(each.shape == self.shape and each.dtype == torch.bfloat16 for each in args[0])
        return found


@pytest.mark.parametrize("recompute", ["recompute=false", "recompute=true"])
def test_a_matrix_is_cast_once_a_step(recompute: str, tmp_path: Any) -> None:
    session = opened("vanilla", recompute, "size.feedforward=88", tmp_path=tmp_path)
    with Casts((88, session.spec.config.size.width)) as casts:
        update(session)
    assert casts.count == session.spec.config.size.layers


def test_where_bf16_is_slow_a_line_says_so(
    run: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False}, raising=False)
    run("precision=bf16", "steps=1")
    assert "precision=bf16: this CPU has no instructions for it" in capsys.readouterr().err
    run("precision=fp32", "steps=1")
    assert "no instructions" not in capsys.readouterr().err
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": True})
    assert not slow_here(torch.device("cpu"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # torch before 2.9
    assert not slow_here(torch.device("cpu"))


@pytest.mark.parametrize(("capability", "slow"), [((7, 0), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_where_a_gpu_imitates_bf16_a_line_says_so(
    capability: tuple[int, int], slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V100 and T4 have none of its instructions."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config = configure("arch=vanilla", "precision=bf16")
    notes = _prepare(build_model(config, vocabulary=30), config, torch.device("cuda"))
    assert [says("precision=bf16", "this GPU has no instructions")(note) for note in notes] == [True] * slow
