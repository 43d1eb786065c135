"""On a GPU: losses, gradients, scores and texts are those of the CPU, with every setting that `fake_cuda` walks through.

`fake_cuda` finds without a GPU what has the wrong device, type or shape. These tests find what has the wrong value.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memexp.cli.main import main
from memexp.eval.generate import Sampling, generate
from memexp.eval.score import score_documents
from memexp.files import read_json
from memexp.model.knn_memory.exact_search import exact
from memexp.model.knn_memory.retrieved import fetch, weigh
from memexp.model.knn_memory.ring import Ring
from memexp.model.transformer.numerics import Arithmetic
from memexp.train.compilation import missing_compiler
from memexp.train.loop import update
from memexp.train.session import Session, open_session

from ..fake_cuda.cases import ARCHS, CASES, HALF, POSITIONS
from ..fake_cuda.work import VOCABULARY, documents, spec_of
from ..tiny import TINY, configure

pytestmark = pytest.mark.gpu

GPU = "cuda"
CLOSE = {"rtol": 2e-3, "atol": 1e-4}
ROUNDED = {"rtol": 5e-2, "atol": 5e-2}
"""With bf16: both devices round, but not the same sums."""


class Result(NamedTuple):
    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]
    """Of the first step."""
    nats: np.ndarray
    drawn: list[float]
    """Nats of the likeliest continuation."""


def fixed(case: tuple[str, ...]) -> tuple[str, ...]:
    """The case without dropout, whose random numbers are the device's own."""
    return tuple(word for word in case if "dropout" not in word)


def session_on(device: str, folder: Path, *case: str) -> Session:
    config = configure(f"device={device}", "size.attention.scale=4", *fixed(case))
    long = config.segment * config.accumulate * 6 + 5
    (folder / device).mkdir(exist_ok=True)
    return open_session(spec_of(config, folder / device, vocabulary=VOCABULARY, long=long))


def result(device: str, folder: Path, *case: str) -> Result:
    """Two steps, then scores and a text; the second step moves on from a first that rounding has touched."""
    session = session_on(device, folder, *case)
    config, half = session.spec.config, HALF in case
    torch.manual_seed(7)
    first = update(session)
    gradients = {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in session.model.named_parameters()
        if parameter.grad is not None
    }
    second = update(session)
    texts = documents(VOCABULARY, config.segment * 5 + 3, config.segment * 2)
    nats = score_documents(session.model, texts, lanes=2, max_document=0, arithmetic=Arithmetic(half)).nats
    prompt = np.arange(2 * config.segment - 2) % VOCABULARY
    drawn = generate(
        session.model, prompt, tokens=1, lanes=1, sampling=Sampling(temperature=0), seed=0, arithmetic=Arithmetic(half)
    )
    return Result(
        [first.loss, second.loss],
        [first.grad_norm, second.grad_norm],
        gradients,
        nats,
        [float(each.nats_B[0]) for each in drawn],
    )


def assert_same(found: Result, expected: Result, *, half: bool) -> None:
    close = ROUNDED if half else CLOSE
    assert found.losses == pytest.approx(expected.losses, rel=close["rtol"])
    assert found.norms == pytest.approx(expected.norms, rel=close["rtol"] * 2)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        error, size = (found.gradients[name] - gradient).norm(), gradient.norm()
        assert error <= (0.2 if half else 2e-3) * size + 1e-4, name
    np.testing.assert_allclose(found.nats, expected.nats, **({"rtol": 0.1, "atol": 0.2} if half else close))
    assert found.drawn == pytest.approx(expected.drawn, rel=close["rtol"] * 2, abs=1e-3)


@pytest.fixture(autouse=True)
def in_full_precision() -> Iterator[None]:
    """No TF32, which would round what is compared."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_gpu_trains_scores_and_writes_as_a_cpu_does(case: tuple[str, ...], tmp_path: Path) -> None:
    found, expected = (result(device, tmp_path, *case) for device in (GPU, "cpu"))
    assert_same(found, expected, half=HALF in case)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("precision", ["precision=fp32", HALF])
def test_compiled_layers_do_the_same(arch: str, precision: str, tmp_path: Path) -> None:
    if missing := missing_compiler(torch.device(GPU)):
        pytest.skip(f"no {missing}")
    case = (f"arch={arch}", precision)
    found, expected = (result(GPU, tmp_path, *case, f"compile={compiled}") for compiled in ("true", "false"))
    assert_same(found, expected, half=precision == HALF)


@pytest.mark.parametrize("position", ["t5", *POSITIONS])
def test_a_text_goes_on_in_bf16_with_every_position(position: str, tmp_path: Path) -> None:
    """Piece by piece, over the end of a segment: each token has the nats that a score of the whole text gives it."""
    session = session_on(GPU, tmp_path, "arch=xl", HALF, f"arch.position={position}")
    prompt = np.arange(20) % VOCABULARY
    drawn = list(
        generate(
            session.model,
            prompt,
            tokens=20,
            lanes=1,
            sampling=Sampling(temperature=0),
            seed=0,
            arithmetic=Arithmetic(bf16=True),
        )
    )
    whole = np.concatenate([prompt, [int(each.tokens_B[0]) for each in drawn]]).astype(np.uint16)
    text = documents(VOCABULARY, len(whole))[0]._replace(tokens=whole)
    nats = score_documents(session.model, [text], lanes=1, max_document=0, arithmetic=Arithmetic(bf16=True)).nats
    np.testing.assert_allclose(nats[-20:], [float(each.nats_B[0]) for each in drawn], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("arch", ["knn", "block"])
def test_a_profile_has_the_time_of_the_kernels(arch: str, tmp_path: Path) -> None:
    words = ["train", f"arch={arch}", "profile=true", *TINY, f"device={GPU}", f"root={tmp_path}"]
    assert main(words) == 0
    (path,) = tmp_path.glob("results/profiles/*/profile.json")
    found = read_json(path)
    assert found["device"].startswith(GPU)
    assert sum(each["forward"] + each["backward"] for each in found["parts"] if each["part"] != "rest") > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ring_of_more_than_two_to_the_31_numbers(dtype: torch.dtype) -> None:
    """Its last slots are found, scored and read: no place in it has overflowed."""
    heads, size = 8, 64
    slots = (1 << 31) // (heads * size) + 1024
    like = torch.zeros(1, heads, slots, size, dtype=dtype, device=GPU)
    assert like.numel() > 1 << 31 or GPU == "cpu"
    keys, values = like, torch.zeros_like(like)
    queries = F.normalize(torch.randn(1, heads, 3, size, device=GPU), dim=-1).to(dtype).float()
    planted = torch.tensor([slots - 1, slots // 2, 0], device=GPU)
    keys[:, :, planted] = queries.to(dtype)
    values[:, :, planted] = queries.to(dtype)
    full = torch.tensor([slots], device=GPU)
    ring = Ring(keys, values, full, full.clone(), slots)
    found = exact(queries, ring, 1)
    assert torch.equal(found.slots_BHTk[..., 0], planted.expand(1, heads, 3))
    retrieved = fetch(queries, ring, found)
    torch.testing.assert_close(retrieved.scores_BHTk[..., 0], queries.square().sum(-1), rtol=1e-4, atol=1e-4)
    read = weigh(torch.ones_like(retrieved.scores_BHTk), retrieved)
    torch.testing.assert_close(read, queries)


def test_faiss_for_gpus_is_used_if_it_is_there(tmp_path: Path) -> None:
    if not find_spec("faiss") or not hasattr(pytest.importorskip("faiss"), "StandardGpuResources"):
        pytest.skip("no faiss for GPUs")
    case = ("arch=knn", "arch.search=faiss_flat")
    found, expected = (result(device, tmp_path, *case) for device in (GPU, "cpu"))
    assert_same(found, expected, half=False)
