"""An architecture without softmax attention, built as CONTRIBUTING.md says, passes the contract and is counted in a plan.

It stands for the next one: nothing here may assume keys, a cache or positions.
"""

import inspect
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memexp.config.arch import ARCHS
from memexp.config.arch.base import Arch, class_name
from memexp.config.train import TrainConfig
from memexp.cost import memory, table
from memexp.model import build as model_build
from memexp.model.segment import Activations, Extension, MemoryCost, SegmentOutput
from memexp.model.state import State, Tree, zero_lanes
from memexp.model.transformer.attention import join_heads, linear, split_heads
from memexp.model.transformer.decoder import EmbeddingModel, PreNormLayer
from memexp.model.transformer.kept import FULL
from memexp.model.transformer.numerics import at_least_fp32
from memexp.model.transformer.shape import Shape
from memexp.model.watching import mean_of_layers, watched

from ..tiny import configure
from . import test_contract
from .conftest import SEGMENT, VOCABULARY, Case, Text


@dataclass
class LinearArch(Arch):
    """Linear attention."""

    mem_unit: ClassVar[str] = "states per layer and head: 1 or none"
    most_mem: ClassVar[int | None] = 1
    resizable: ClassVar[bool] = True
    gradient_through_memory: ClassVar[bool] = True

    _target_: str = class_name("linear.Linear")


class Sums(NamedTuple):
    """What a layer has read of a document."""

    values_BHKK: Tensor
    keys_BHK: Tensor


class LinearAttention(nn.Module):
    """Causal attention with the kernel elu(x) + 1 (Katharopoulos et al. 2020, equations 7 and 9 to 12)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.queries_keys_values = linear(shape.width, 3 * shape.heads * shape.head_size)
        self.output = linear(shape.heads * shape.head_size, shape.width)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor, before: Sums) -> tuple[Tensor, Sums]:
        """What was read, B T D, and the sums with the valid tokens of the segment."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            projected = self.queries_keys_values(at_least_fp32(x_BTD)).chunk(3, dim=-1)
            queries, keys, values = (split_heads(part, self.head_size) for part in projected)
            queries, keys = F.elu(queries) + 1, F.elu(keys) + 1
            scores_BHTT = (queries @ keys.mT).tril()
            divisor_BHT = scores_BHTT.sum(-1) + (queries @ before.keys_BHK[..., None]).squeeze(-1) + 1e-6
            read_BHTK = (scores_BHTT @ values + queries @ before.values_BHKK) / divisor_BHT[..., None]
            keys = keys * valid_BT[:, None, :, None]
            after = Sums(before.values_BHKK + keys.mT @ values, before.keys_BHK + keys.sum(2))
            return self.output(join_heads(read_BHTK)), after


@final
class Linear(EmbeddingModel):
    """Layers of linear attention; with `mem=0` each segment is read by itself."""

    def __init__(self, shape: Shape, mem: int, arch: LinearArch) -> None:
        super().__init__(shape, cache=0, memory=mem)
        self.add_head(arch)
        layers = [PreNormLayer(shape, LinearAttention(shape), dropout=arch.dropout) for _ in range(shape.layers)]
        self.layers = nn.ModuleList(layers)

    @property
    def memory_cost(self) -> MemoryCost:
        """Reading and writing a K x K matrix per layer and head."""
        shape = self.shape
        return MemoryCost(recurrence=2.0 * shape.layers * shape.heads * shape.head_size**2)

    def activations(self, *, half: bool) -> Activations:
        """With queries, keys and values in each layer."""
        shape = self.shape
        kept = 3.0 * shape.segment * shape.layers * shape.heads * shape.head_size
        return super().activations(half=half)._replace(memory=FULL * kept)

    def init_state(self, lanes: int) -> State:
        return State(cache=(), memory=self._empty(lanes) if self.memory_slots else ())

    def clear(self, state: State, reset_B: Tensor) -> State:
        return State((), tuple(Sums(*(zero_lanes(part, reset_B) for part in sums)) for sums in state.memory))

    def step(self, tokens_BT: Tensor, valid_BT: Tensor, state: State) -> SegmentOutput:
        hidden_BTD, after = self._read(tokens_BT, valid_BT, state.memory or self._empty(len(tokens_BT)))
        if not self.memory_slots:
            return SegmentOutput(hidden_BTD, state, aux={}, gauges={})
        gauges = mean_of_layers(memory_size=[sums.keys_BHK.detach().mean() for sums in after] if watched() else [])
        return SegmentOutput(hidden_BTD, State((), after), aux={}, gauges=gauges)

    def extend(self, tokens_BT: Tensor, state: State, kept: Tree | None) -> Extension:
        before = (state.memory or self._empty(len(tokens_BT))) if kept is None else kept
        return Extension(*self._read(tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool), before))

    def _read(self, tokens_BT: Tensor, valid_BT: Tensor, before: tuple[Sums, ...]) -> tuple[Tensor, tuple[Sums, ...]]:
        x_BTD, after = self.embed(tokens_BT), []
        for layer, sums in zip(self.layers, before, strict=True):
            mixed_BTD, sums = layer.attention(layer.attention_norm(x_BTD), valid_BT, sums)
            x_BTD = layer.add(x_BTD, mixed_BTD)
            after.append(sums)
        return x_BTD, tuple(after)

    def _empty(self, lanes: int) -> tuple[Sums, ...]:
        like, heads, size = self.head.embedding_VD, self.shape.heads, self.shape.head_size
        return (Sums(like.new_zeros(lanes, heads, size, size), like.new_zeros(lanes, heads, size)),) * self.shape.layers


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Settings of the new architecture, which is known by its schema and its class."""
    monkeypatch.setitem(ARCHS, "linear", LinearArch)
    monkeypatch.setattr(model_build, "_class_of", lambda arch: Linear)
    plain = configure("arch=vanilla", f"segment={SEGMENT}")
    return replace(plain, arch=LinearArch(name="linear"), mem=1, bptt_segments=3, accumulate=4)


CLAUSES = {
    name: test
    for name, test in vars(test_contract).items()
    if name.startswith("test_") and set(inspect.signature(test).parameters) in ({"case", "text"}, {"placed", "text"})
}


@pytest.mark.parametrize("name", CLAUSES)
def test_it_passes_the_clause(name: str, config: TrainConfig, text: Text) -> None:
    if "cuda" in name and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    model = model_build.build_model(config, vocabulary=VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    CLAUSES[name](Case(config, model), text)


def test_enough_clauses_were_tried() -> None:
    assert len(CLAUSES) >= 12


def test_a_plan_counts_what_the_model_says_of_its_memory(config: TrainConfig) -> None:
    more = table.operations(config)
    parts = {item.what: item.bytes for item in memory.items(config, vocabulary=VOCABULARY)}
    size = config.size
    tokens = config.lanes * config.segment * (config.bptt_segments + 1)
    assert parts["activations of the memory"] == tokens * 3 * size.layers * size.heads * size.head_size * 4
    assert parts["bias and mask of attention"] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Linear, "memory_cost", MemoryCost())
        less = table.operations(config)
    assert more - less == pytest.approx(2 * 3 * 2 * size.layers * size.heads * size.head_size**2)
