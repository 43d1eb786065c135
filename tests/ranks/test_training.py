"""Several processes train to the numbers of one: every architecture, and every option that changes a step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Group
from .work import Steps, steps

pytestmark = pytest.mark.hard

ARCHS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "arch").glob("*.yaml"))

SETTINGS = ["lanes=4", "accumulate=4", "steps=8", "optim.warmup=2", "size.memory=40", "segment=8", "eval.documents=0"]

OPTIONS = {
    "recompute": ["arch=rmt", "recompute=true"],
    "recomputed thought": ["arch=thought", "recompute=true", "mem=4"],
    "published thought": ["arch=thought", "arch.faithful=true", "arch.recall_target=embeddings", "mem=4"],
    "adafactor": ["arch=knn", "optim=adafactor"],
    "adafactor with momentum": ["arch=block", "optim=adafactor", "optim.momentum=0.9"],
    "negatives": ["arch=knn", "arch.negatives=2", "arch.combine=joint", "bptt_segments=1"],
    "negatives without gradient to other lanes": ["arch=knn", "arch.negatives=3", "arch.combine=joint", "bptt_segments=3"],
    "adaptive softmax": ["arch=xl", "data.tokenizer.kind=lines", "data.tokenizer.vocabulary=0", "size.cutoffs=[20,60]", "size.narrowing=2"],
    "short windows": ["arch=rmt", "bptt_segments=1"],
    "auxiliary loss": ["arch=rmt", "arch.aux_weight=0.5"],
    "whole documents": ["arch=knn", "data.max_document=0", "eval.max_document=0"],
    "growing crops": ["arch=xl", "data.grow_from=16"],
    "joint": ["arch=knn", "arch.combine=joint", "arch.write=leaving"],
    "eight lanes": ["arch=block_knn", "lanes=8"],
}  # fmt: skip


def difference(ours: Steps, theirs: Steps) -> dict[str, float]:
    """The largest differences: relative of losses and norms, absolute of weights and nats."""
    return {
        "loss": float(np.max(np.abs(np.array(ours.losses) / np.array(theirs.losses) - 1))),
        "norm": float(np.max(np.abs(np.array(ours.norms) / np.array(theirs.norms) - 1))),
        "aux": max(
            (abs(a[name] - b[name]) for a, b in zip(ours.aux, theirs.aux, strict=True) for name in a | b), default=0.0
        ),
        "gauges": max(
            abs(a[name] - b[name])
            for a, b in zip(ours.gauges, theirs.gauges, strict=True)
            for name in a | b
            if not name.startswith("memory_between")
        )
        if ours.gauges[0]
        else 0.0,
        "weights": max(float(np.abs(ours.weights[name] - theirs.weights[name]).max()) for name in theirs.weights),
        "scores": float(np.abs(ours.nats - theirs.nats).max()),
    }


def compare(groups: Callable[[int], Group], roots: Callable[[str], Path], words: list[str], ranks: int = 2) -> None:
    found = groups(ranks)(steps, overrides=words, root=str(roots("several")), count=4)
    alone = steps(words, str(roots("alone")), 4)
    seen = difference(found[0], alone)
    print(" | ".join([*words, *(f"{name} {value:.1e}" for name, value in seen.items())]))
    assert found[0].tokens == alone.tokens
    for other in found[1:]:
        assert other.losses == found[0].losses
        assert all(np.array_equal(other.weights[name], found[0].weights[name]) for name in alone.weights)
        assert np.array_equal(other.nats, found[0].nats)
    assert seen["loss"] < 3e-7
    assert seen["norm"] < 1e-6
    assert seen["aux"] < 1e-6
    assert seen["gauges"] < 1e-4
    for leaves in zip(alone.state, *(each.state for each in found), strict=True):
        assert np.allclose(np.concatenate(leaves[1:]), leaves[0], atol=1e-4)
    assert seen["scores"] < 1e-4


@pytest.mark.parametrize("arch", ARCHS)
def test_two_processes_train_like_one(arch: str, groups: Callable[[int], Group], roots: Callable[[str], Path]) -> None:
    compare(groups, roots, [*SETTINGS, f"arch={arch}"])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains_like_one_process(
    option: str, groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    compare(groups, roots, [*SETTINGS, *OPTIONS[option]])
