"""The kernels of Triton against brute force: on a GPU, or without one in Triton's interpreter.

The interpreter is chosen when Triton is loaded. Without Triton these tests are skipped: it comes with torch for CUDA.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="the package triton is not installed")

from memexp.model.knn_memory import accelerator_search, scores_fused, scores_plain
from memexp.model.knn_memory.accelerator_search import by_scores, fault_of
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.scores_plain import Groups, Rows
from memexp.model.knn_memory.selection import STRIDE, Neighbours

from .rings import KINDS, SHAPES, check, keys_of, ring_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.bfloat16)


def fused(queries: Tensor, ring: Ring, k: int) -> Neighbours:
    moved: Ring = pytree.tree_map(lambda leaf: leaf.to(DEVICE), ring)
    found = by_scores(scores_fused, queries.to(DEVICE), moved, k)
    return Neighbours(*pytree.tree_map(lambda leaf: leaf.cpu(), tuple(found)))


@pytest.mark.hard
@pytest.mark.parametrize("keys", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "position", "count"), SHAPES)
def test_kernels_find_the_scores_of_brute_force(
    keys: torch.dtype, kind: str, size: int, position: int, count: int
) -> None:
    ring = ring_of(keys_of(kind, 2, size).to(keys), position=position, count=count)
    queries = torch.randn(1, 2, 5, 16)
    for k in (1, 8):
        check(fused(queries, ring, k), queries, ring, k)


@pytest.mark.hard
@pytest.mark.parametrize("keys", DTYPES)
@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize(("head_size", "length", "capacity"), [
    (5, 1, 37), (16, 17, 64), (24, 3, 2049), (64, 16, 300), (100, 2, 131), (128, 1, 129), (160, 3, 200), (300, 2, 70),
])  # fmt: skip
def test_sizes_that_no_tile_divides(
    keys: torch.dtype, size: int, head_size: int, length: int, capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three lanes: empty, filled in part and around the end of the ring; more neighbours than some of them hold."""
    monkeypatch.setattr(accelerator_search, "group_size", lambda *given: size)
    torch.manual_seed(3)
    stored = torch.randn(3, 1, capacity, head_size).to(keys)
    ring = Ring(stored, stored, torch.full((3,), capacity + 9), torch.tensor([0, capacity // 3, capacity]), capacity)
    queries = torch.randn(3, 1, length, head_size)
    check(fused(queries, ring, 9), queries, ring, 9)


@pytest.mark.parametrize("length", [127, 129, 300])
def test_more_queries_than_a_tile_has(length: int) -> None:
    torch.manual_seed(4)
    ring = ring_of(torch.randn(1, 500, 16), position=700, count=450)
    queries = torch.randn(1, 1, length, 16)
    check(fused(queries, ring, 3), queries, ring, 3)


@pytest.mark.parametrize("keys", DTYPES)
@pytest.mark.parametrize("head_size", [64, 160])
def test_nothing_is_rounded_to_half_precision(keys: torch.dtype, head_size: int) -> None:
    """Maxima are as exact as the rounding of fp32, also of keys and queries far outside the range of fp16."""
    torch.manual_seed(5)
    factors = torch.tensor([1e-12, 1e-6, 1.0, 1e4, 1e12]).repeat(20)[None, :, None]
    stored = (torch.randn(1, 100, head_size) * factors).to(keys)
    queries = torch.randn(1, 6, head_size) * torch.tensor([1e-10, 1e-4, 1.0, 1e3, 1e9, 0.0])[:, None]
    rows = Rows(stored.to(DEVICE), torch.tensor([100], device=DEVICE), torch.tensor([100], device=DEVICE))
    groups = Groups(1, scores_fused.APART, 100)
    largest = scores_fused.maxima(scores_fused.factors(queries.to(DEVICE)), rows, groups)
    found = largest.groups_NGT.cpu().double()[:, :100]
    power = torch.ldexp(torch.ones(6), -torch.frexp(queries.abs().amax(-1)).exponent[0])
    scaled = queries.double() * power[:, None]
    exact = stored.double() @ scaled.mT
    norms = stored.double().norm(dim=-1)[..., None] * scaled.norm(dim=-1)[:, None]
    assert ((found - exact).abs() <= 2**-21 * norms).all()
    assert (largest.groups_NGT[:, 100:] == float("-inf")).all()


def test_what_stands_in_a_void_slot_is_never_found() -> None:
    torch.manual_seed(6)
    keys = torch.randn(1, 1, 203, 16)
    ring = ring_of(keys[0].clone(), position=300, count=60)
    void = (299 - torch.arange(203)) % 203 >= 60
    ring.keys_BHRK[:, :, void] = float("nan")
    queries = torch.randn(1, 1, 3, 16)
    check(fused(queries, ring, 70), queries, ring_of(keys[0], position=300, count=60), 70)


@pytest.mark.parametrize("keys", DTYPES)
def test_a_device_with_the_kernels_passes_its_own_test(keys: torch.dtype) -> None:
    assert fault_of(scores_fused, DEVICE, keys, 24) == ""


@pytest.mark.parametrize("broken", ["maxima_kernel", "members_kernel"])
def test_a_kernel_that_writes_nothing_is_noticed(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        def __getitem__(self, grid: tuple[int, ...]) -> "Idle":
            return self

        def __call__(self, *given: object, **named: object) -> None:
            pass

    monkeypatch.setattr(scores_fused, broken, Idle())
    assert "finds other pairs" in fault_of(scores_fused, DEVICE, torch.float32, 24)


def test_maxima_and_members_are_those_of_torch() -> None:
    """Each group's largest member, and all members of some groups, with the groups of the kernels."""
    torch.manual_seed(7)
    rows = Rows(torch.randn(2, 300, 24), torch.tensor([400, 310]), torch.tensor([250, 7]))
    queries, groups = torch.randn(2, 3, 24), Groups(2, scores_fused.APART, 300)
    chosen = torch.randint(groups.number, (2, 3, 5))
    on_device = Rows(*(each.to(DEVICE) for each in rows))
    own = scores_fused.members(queries.to(DEVICE), on_device, groups, chosen.to(DEVICE)).cpu()
    torch.testing.assert_close(own, scores_plain.members(queries, rows, groups, chosen), rtol=1e-5, atol=1e-5)
    largest = scores_fused.maxima(scores_fused.factors(queries.to(DEVICE)), on_device, groups)
    assert largest.runs_NUT is not None
    torch.testing.assert_close(largest.runs_NUT, largest.groups_NGT.unflatten(1, (-1, STRIDE)).amax(2), rtol=0, atol=0)
    every = torch.arange(groups.number).expand(2, 3, -1)
    power = torch.ldexp(torch.ones(2, 3), -torch.frexp(queries.abs().amax(-1)).exponent)
    expected = scores_plain.members(queries, rows, groups, every).unflatten(-1, (-1, groups.size)).amax(-1)
    expected = (expected * power[..., None]).mT
    torch.testing.assert_close(largest.groups_NGT.cpu(), expected, rtol=1e-5, atol=1e-5)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from memexp.model.knn_memory import scores_fused

def compiled(kernel, types, **sizes):
    signature = dict(zip(kernel.arg_names, types)) | dict.fromkeys(sizes, "constexpr")
    assert list(signature) == kernel.arg_names, (signature, kernel.arg_names)
    source = ASTSource(fn=kernel, signature=signature, constexprs=sizes)
    for generation in (80, 90):
        assert triton.compile(source, target=GPUTarget("cuda", generation, 32), options={"num_warps": 8}).asm["ptx"]

for keys in ("*fp32", "*bf16"):
    row, maxima = [keys, "*i64", "*i64"], ["*fp32", "*fp32"]
    compiled(
        scores_fused.maxima_kernel, ["*fp16", "*fp16", *row, *maxima, "i32", "i32", "i32"], HEAD_SIZE=128, SIZE=8,
        SPLIT=keys == "*fp32", RUN=8, TILE_R=64, TILE_T=128, TILE_K=128,
    )
    compiled(
        scores_fused.members_kernel, ["*fp32", keys, "*i64", "*i64", "*i64", "*fp32", "i32", "i32", "i32"],
        HEAD_SIZE=128, SIZE=8, APART=64, TILE_M=64, TILE_K=128,
    )
"""


@pytest.mark.hard
def test_the_kernels_compile_for_gpus_that_are_not_there(tmp_path: Path) -> None:
    """The interpreter runs what the compiler refuses. Another process, because the interpreter was chosen in this one."""
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    settings |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
