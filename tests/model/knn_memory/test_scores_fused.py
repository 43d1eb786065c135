"""The kernels of Triton against brute force: on a GPU, or without one in Triton's interpreter.

The interpreter is chosen when Triton is loaded. Without Triton these tests are skipped: it comes with torch for CUDA.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="the package triton is not installed")

from memexp.model.knn_memory import accelerator_search, scores_fused
from memexp.model.knn_memory.accelerator_search import by_scores, fault_of
from memexp.model.knn_memory.ring import Ring
from memexp.model.knn_memory.scores_plain import Groups, Maxima, Rows
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


@pytest.mark.parametrize(("broken", "outputs"), [("maxima_kernel", slice(5, 9)), ("best_kernel", slice(8, 10))])
def test_a_kernel_that_finds_nothing_is_noticed(broken: str, outputs: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        def __getitem__(self, grid: tuple[int, ...]) -> "Idle":
            return self

        def __call__(self, *given: Any, **named: object) -> None:
            for tensor in given[outputs]:
                tensor.zero_()

    monkeypatch.setattr(scores_fused, broken, Idle())
    assert "finds other pairs" in fault_of(scores_fused, DEVICE, torch.float32, 24)


def test_maxima_are_those_of_torch() -> None:
    """The two largest of each group, where the largest is, and the largest of runs."""
    torch.manual_seed(7)
    rows = Rows(torch.randn(2, 300, 24), torch.tensor([400, 310]), torch.tensor([250, 7]))
    queries, groups = torch.randn(2, 3, 24), Groups(4, scores_fused.APART, 300)
    found = maxima_of(queries, rows, groups)
    slots = groups.slots(torch.arange(groups.number)[:, None], torch.arange(groups.size))
    power = torch.ldexp(torch.ones(2, 3), -torch.frexp(queries.abs().amax(-1)).exponent)
    scores = (queries @ rows.keys_NRK.mT * power[..., None]).masked_fill(
        ~rows.readable(torch.arange(300)[None])[:, None], float("-inf")
    )
    members = F.pad(scores, (0, int(slots.max()) - 299), value=float("-inf"))[..., slots].transpose(1, 2)
    two = members.topk(2)
    there = two.values[..., 0] > float("-inf")
    torch.testing.assert_close(found.groups_NGT, two.values[..., 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.seconds_NGT, two.values[..., 1], rtol=1e-5, atol=1e-5)
    assert found.places_NGT is not None
    assert found.places_NGT[there].equal(two.indices[..., 0][there].to(torch.uint8))
    runs = found.groups_NGT.unflatten(1, (-1, STRIDE)).amax(2)
    torch.testing.assert_close(found.runs_NUT, runs, rtol=0, atol=0)


def maxima_of(queries: Tensor, rows: Rows, groups: Groups) -> Maxima:
    found = scores_fused.maxima(scores_fused.factors(queries.to(DEVICE)), on_device(rows), groups)
    return Maxima(*(each.cpu() for each in found if each is not None))


def on_device(rows: Rows) -> Rows:
    return Rows(*(each.to(DEVICE) for each in rows))


def test_a_group_with_one_of_the_best_is_read_for_that_alone() -> None:
    """Group 5 has three of the four best pairs, group 9 the other; every other key has become too large when the best are read."""
    groups = Groups(4, scores_fused.APART, 256)
    of_group = torch.tensor([5, 5, 5, 9, 9, 11, 30])
    slots = groups.slots(of_group, torch.tensor([1, 2, 0, 3, 2, 0, 1]))
    keys = 0.01 * torch.rand(1, 256, 16)
    keys[0, slots] = torch.tensor([7.0, 8, 6, 5, 1, 4, 3])[:, None]
    queries, chosen = torch.ones(1, 1, 16), torch.tensor([[[30, 5, 9, 11]]])
    full = torch.tensor([256])
    largest = scores_fused.maxima(scores_fused.factors(queries.to(DEVICE)), on_device(Rows(keys, full, full)), groups)
    unread = torch.ones(256, dtype=torch.bool)
    unread[groups.slots(torch.tensor(5), torch.arange(4))] = unread[slots[keys[0, slots, 0] > 1]] = False
    keys[:, unread] = 100.0
    rows = on_device(Rows(keys, full, full))
    scores, found = scores_fused.best(queries.to(DEVICE), rows, groups, largest, chosen.to(DEVICE), 4)
    assert scores.flatten().tolist() == [16 * size for size in (8, 7, 6, 5)]
    assert found.flatten().cpu().equal(slots[[1, 0, 2, 3]])


@pytest.mark.parametrize("k", [1, 8, 20])
def test_best_pairs_that_share_few_groups(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All better pairs are in three groups, so that each is read whole, and their pairs are better than the largest of others."""
    monkeypatch.setattr(accelerator_search, "group_size", lambda *given: 32)
    torch.manual_seed(8)
    keys = torch.randn(1, 4100, 16)
    keys[:, torch.arange(4100) % 64 % 20 == 7] += 2
    ring = ring_of(keys, position=5000, count=4000)
    queries = torch.rand(1, 1, 3, 16)
    check(fused(queries, ring, k), queries, ring, k)


def test_more_neighbours_than_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all pairs of all groups are candidates."""
    monkeypatch.setattr(accelerator_search, "group_size", lambda *given: 4)
    torch.manual_seed(9)
    ring, queries = ring_of(torch.randn(1, 150, 16)), torch.randn(1, 1, 1, 16)
    check(fused(queries, ring, 140), queries, ring, 140)


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
    row, maxima = [keys, "*i64", "*i64"], ["*fp32", "*fp32", "*u8"]
    compiled(
        scores_fused.maxima_kernel, ["*fp16", "*fp16", *row, *maxima, "*fp32", "i32", "i32", "i32"], HEAD_SIZE=128, SIZE=64,
        SPLIT=keys == "*fp32", RUN=8, TILE_R=64, TILE_T=128, TILE_K=128,
    )
    compiled(
        scores_fused.best_kernel, ["*fp32", *row, *maxima, "*i64", "*fp32", "*i64", *["i32"] * 5],
        HEAD_SIZE=128, SIZE=64, APART=64, TILE_P=32, TILE_K=32,
    )
"""


@pytest.mark.hard
def test_the_kernels_compile_for_gpus_that_are_not_there(tmp_path: Path) -> None:
    """The interpreter runs what the compiler refuses. Another process, because the interpreter was chosen in this one."""
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    settings |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
