"""Every architecture at tiny size, and inputs that have document borders in them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from memexp.config.arch import ARCHS as SCHEMAS
from memexp.config.arch.base import AttentionArch
from memexp.config.train import TrainConfig
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel
from memexp.model.state import State

from ..tiny import configure

VOCABULARY = 40
LANES = 3
SEGMENT = 8
SEGMENTS = 8
"""More tokens than the largest memory and cache together, so that rings have wrapped; each one more costs time."""

ARCHS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "arch").glob("*.yaml"))

SHARP = [f"segment={SEGMENT}", "size.memory=40", "size.attention.scale=4.0"]
"""Small enough to run everywhere, sharp enough that every part matters."""

VARIANTS = {
    "armt": [["mem=0"], ["mem=1", "arch.key_size=16"], ["arch.memory=parallel", "mem=3"]],
    "block": [
        ["mem=0"],
        ["arch.window=4", "mem=3"],
        ["arch.gate_kind=lstm", "arch.gates=dual", "arch.feedback=true"],
        ["arch.recurrent_layers=[1,2]", "arch.gates=single", "arch.shared_values=true"],
    ],
    "block_knn": [
        ["mem=0", "arch.window=4"],
        ["arch.pairs=0"],
        ["arch.window=4", "arch.pairs=13", "arch.neighbours=4", "arch.write=leaving", "arch.combine=joint"],
        ["arch.knn_layers=[1,2]", "arch.recurrent_layers=[1,2]", "arch.shared_values=true", "arch.search=routed"],
    ],
    "compressive": [
        ["mem=0"],
        ["mem=3", "arch.factor=4", "arch.compress=max"],
        ["mem=20", "arch.factor=1", "arch.compress=mean", "arch.cache=20"],
        ["arch.cache=4", "arch.normalise=false", "arch.scale=1"],
    ],
    "delta": [
        ["mem=0"],
        ["mem=3", "arch.window=5", "arch.decay=channel", "arch.value_factor=1"],
        ["arch.decay=none", "arch.recurrent_layers=[2]"],
        ["arch.write=add", "arch.unit_keys=false", "arch.window=0"],
    ],
    "infini": [["mem=0"], ["arch.write=linear"], ["arch.normalise=false", "arch.scale=1"]],
    "knn": [
        ["arch.combine=joint"],
        ["arch.write=leaving"],
        ["arch.knn_layers=[1,2]", "arch.neighbours=4"],
        ["arch.cache=0", "mem=13", "arch.neighbours=4"],
        ["arch.cache=20", "arch.write=leaving"],
        ["arch.search=bucketed"],
        ["arch.search=faiss_flat"],
        ["arch.search=faiss_ivf", "arch.neighbours=4"],
        ["arch.stored=bf16"],
        ["arch.reach=window", "arch.combine=joint", "arch.cache=5"],
        ["mem=0"],
        ["arch.write=leaving", "arch.cache=10", "arch.sinks=3"],
        ["arch.position=rotary", "arch.place=edge", "arch.combine=joint", "arch.sinks=1"],
        ["arch.negatives=2", "arch.combine=joint", "bptt_segments=1", "accumulate=2", "lanes=3"],
    ],
    "knn_routed": [
        ["arch.stored=bf16"],
        ["arch.combine=joint"],
        ["arch.write=leaving", "arch.knn_layers=[1,2]", "arch.neighbours=4"],
    ],
    "rmt": [
        ["mem=0"],
        ["mem=1"],
        ["mem=3", "arch.cache=5"],
        ["arch.aux_weight=0.5"],
        ["mem=3", "arch.past_memories=4"],
        ["mem=3", "arch.adapters=true"],
    ],
    "rmt_xl": [
        ["mem=0", "arch.aux_weight=0"],
        ["arch.cache=20"],
        ["arch.memory_sees_cache=both"],
        ["arch.past_memories=2", "arch.adapters=true"],
    ],
    "thought": [
        ["mem=0"],
        ["mem=3", "arch.recall_target=embeddings", "arch.updater_layers=2"],
        ["arch.recall=0", "arch.composition=0", "arch.variance=0", "arch.covariance=0"],
        ["arch.faithful=true", "arch.recall_target=embeddings"],
    ],
    "titans": [
        ["mem=0", "arch.chunk=16"],
        ["mem=3", "arch.window=5", "arch.chunk=4", "arch.forget=start"],
        ["arch.role=layer", "arch.window=0", "arch.memory=linear", "arch.chunk=2"],
        ["arch.momentum=false", "arch.forget=none", "arch.expansion=2", "arch.clip=0.5"],
        ["arch.role=context", "arch.window=0", "arch.persistent=3", "arch.chunk=4", "arch.memory=linear"],
    ],
    "xl": [
        ["mem=0"],
        ["mem=3"],
        ["mem=20"],
        *([f"mem={mem}", "arch.reach=window"] for mem in (3, 20)),
        ["mem=3", "arch.sinks=2"],
    ],
    "xl_enhanced": [["mem=0"], ["mem=3"], ["mem=20"], ["mem=5", "arch.reach=window"]],
}
"""Besides each file as it stands, further settings that the whole contract is run with."""

if os.environ.get("MEMEXP_PRETRAINED"):  # `make published`, where transformers is installed
    from ..checkpoints import checkpoint

    def _with(family: str, *words: str, **said: Any) -> list[str]:
        """The architecture with the layers of a small published checkpoint, all of whose weights are trained."""
        folder = checkpoint(family, vocab_size=VOCABULARY, pad_token_id=None, **said)
        return [
            "size=checkpoint",
            f"size.checkpoint={folder}",
            "size.attention.scale=1",
            "optim.train=all",
            "steps=4",
            *words,
        ]

    GATED = [
        "arch.combine=gate",
        "arch.gate=0",
        "arch.write=all",
        "arch.place=none",
        "arch.sinks=0",
        "arch.neighbours=4",
    ]
    LOW_RANK = ["optim.train=lora", "optim.rank=2"]
    VARIANTS["vanilla"] = [_with("Llama"), _with("Gemma", head_dim=8, num_key_value_heads=1)]
    VARIANTS["xl"] += [
        _with("Llama"),
        _with("GPTNeoX", "mem=20", num_key_value_heads=None),
        _with("Llama", "mem=3", *LOW_RANK),
    ]
    VARIANTS["knn"] += [
        _with("Llama"),
        _with("Llama", "arch.cache=10", *LOW_RANK),
        _with("GPTNeoX", *GATED, num_key_value_heads=None),
        _with("Mistral", *GATED, "arch.knn_layers=[2]", sliding_window=5),
    ]
    VARIANTS["armt"] += [_with("Llama"), _with("GPTNeoX", "mem=3", "arch.memory=parallel", num_key_value_heads=None)]
    VARIANTS["infini"] += [_with("Llama")]
    VARIANTS["rmt"] += [_with("Llama"), _with("GPTNeoX", "mem=3", "arch.cache=5", num_key_value_heads=None)]

POSITIONS = ["t5", "xl", "rotary", "xpos", "alibi", "dynamic", "none"]

SHARED = [["arch.key_smear=true"], ["arch.position=xl"], ["arch.position=rotary"]]
"""Settings that every architecture with attention has, besides the papers' defaults: of the positions a learned bias and a
turning."""

FURTHER = [[f"arch.position={name}"] for name in POSITIONS if name not in ("t5", "xl", "rotary")]
"""The other positions, for the clauses in which places matter: causality, forgetting, pieces of a segment."""


def cases(*more: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(architecture, overrides) of every model under contract."""
    found = []
    for name in ARCHS:
        shared = [*SHARED, *more] if issubclass(SCHEMAS[name], AttentionArch) else []
        found += [(name, tuple(extra)) for extra in [[], *VARIANTS.get(name, []), *shared]]
    return found


class Case(NamedTuple):
    """A model under contract."""

    config: TrainConfig
    model: SegmentModel


Build = Callable[..., Case]


def build(name: str, *overrides: str, bptt_segments: int = 0) -> Case:
    """The model of `arch=name` with random weights everywhere, so that nothing hides behind a zero.

    Args:
        bptt_segments: the horizon that the model is told, also where no gradient crosses a border.
    """
    config = replace(configure(f"arch={name}", *SHARP, *overrides), bptt_segments=bptt_segments)
    torch.manual_seed(0)
    model = build_model(config, vocabulary=VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    if getattr(config.arch, "negatives", 0):
        model.eval()  # what training alone reads, of other lanes, is asked for in tests/model/test_cross_batch.py
    return Case(config, model)


def named(case: tuple[str, tuple[str, ...]]) -> str:
    return "-".join([case[0], *case[1]])


EVERY_COMMIT = ("vanilla", "xl", "knn")
"""Architectures that every commit tries with all settings that are shared; `make hard` tries the others too."""

SLOW = ("thought", "titans", "block_knn", "knn_routed", "compressive")
"""Architectures that every commit tries as their file stands; `make hard` tries their other settings too."""


def marked(*more: list[str]) -> list[Any]:
    """The cases; those with another shared setting, or of a slow architecture with other settings, are hard."""
    return [pytest.param(case, marks=pytest.mark.hard if is_hard(*case) else []) for case in cases(*more)]


def is_hard(arch: str, overrides: tuple[str, ...]) -> bool:
    shared = list(overrides) in SHARED or any(word.startswith("arch.position=") for word in overrides)
    return (shared and arch not in EVERY_COMMIT) or (bool(overrides) and arch in SLOW)


@pytest.fixture(params=marked(), ids=named)
def case(request: pytest.FixtureRequest) -> Case:
    name, overrides = request.param
    return build(name, *overrides)


@pytest.fixture(params=marked(*FURTHER), ids=named)
def placed(request: pytest.FixtureRequest) -> Case:
    """A model under contract with any of the positions."""
    name, overrides = request.param
    return build(name, *overrides)


@pytest.fixture(params=ARCHS)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Text(NamedTuple):
    """Segments for every lane: tokens S B T, valid S B T, reset S B."""

    tokens: Tensor
    valid: Tensor
    reset: Tensor


@pytest.fixture
def text() -> Text:
    """Eight segments; lane 1 begins a second document at segment 5, after one that ends in padding."""
    torch.manual_seed(1)
    tokens = torch.randint(VOCABULARY, (SEGMENTS, LANES, SEGMENT))
    valid = torch.ones(SEGMENTS, LANES, SEGMENT, dtype=torch.bool)
    reset = torch.zeros(SEGMENTS, LANES, dtype=torch.bool)
    reset[0] = True
    reset[5, 1] = True
    valid[4, 1, 3:] = False
    return Text(tokens, valid, reset)


@torch.no_grad()
def run(model: SegmentModel, text: Text, state: State | None = None) -> tuple[Tensor, State]:
    """All segments in turn, without gradients: hidden S B T D, and the last state."""
    state = model.init_state(text.tokens.shape[1]) if state is None else state
    hidden = []
    for tokens, valid, reset in zip(*text, strict=True):
        output = model(tokens, valid, state, reset)
        hidden.append(output.hidden_BTD)
        state = output.state
    return torch.stack(hidden), state
