"""Several processes train to the numbers of one: every architecture, and every option that changes a step."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Group
from .work import Steps, run, sent, steps

pytestmark = pytest.mark.hard

ARCHS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "arch").glob("*.yaml"))

SETTINGS = ["lanes=4", "accumulate=4", "steps=8", "optim.warmup=2", "size.memory=40", "segment=8", "eval.documents=0"]

SHARED = "shard_weights=true"

OPTIONS = {
    "recompute": ["arch=rmt", "recompute=true"],
    "recomputed thought": ["arch=thought", "recompute=true", "mem=4"],
    "published thought": ["arch=thought", "arch.faithful=true", "arch.recall_target=embeddings", "mem=4"],
    "adafactor": ["arch=knn", "optim=adafactor"],
    "adafactor with momentum": ["arch=block", "optim=adafactor", "optim.momentum=0.9"],
    "negatives": ["arch=knn", "arch.negatives=2", "arch.combine=joint", "bptt_segments=1"],
    "negatives without gradient to other lanes": ["arch=knn", "arch.negatives=3", "arch.combine=joint", "bptt_segments=3"],
    "short windows": ["arch=rmt", "bptt_segments=1"],
    "auxiliary loss": ["arch=rmt", "arch.aux_weight=0.5"],
    "whole documents": ["arch=knn", "data.max_document=0", "eval.max_document=0"],
    "growing crops": ["arch=xl", "data.grow_from=16"],
    "joint": ["arch=knn", "arch.combine=joint", "arch.write=leaving"],
    "eight lanes": ["arch=block_knn", "lanes=8"],
}  # fmt: skip


RECOMPUTED = {"rmt": ["recompute=true"], "thought": ["recompute=true"], "knn_routed": ["recompute=true"]}
"""Architectures whose segments are also computed again where weights are shared out."""


def relative(ours: float, theirs: float) -> float:
    """A difference, relative to what is compared if that is not small."""
    return abs(ours - theirs) / max(1.0, abs(theirs))


def named(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """The largest difference of numbers with names; what compares lanes of a process depends on how many it has."""
    pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in a | b if "between" not in name]
    return max((relative(*pair) for pair in pairs), default=0.0)


def difference(found: list[Steps], alone: Steps) -> dict[str, float]:
    """The largest differences between what processes found and what one finds."""
    ours = found[0]
    states = [
        np.abs(np.concatenate(parts) - whole).max(initial=0) / max(1.0, np.abs(whole).max(initial=0))
        for whole, *parts in zip(alone.state, *(each.state for each in found), strict=True)
    ]
    return {
        "loss": max(map(relative, ours.losses, alone.losses)),
        "norm": max(map(relative, ours.norms, alone.norms)),
        "aux": named(ours.aux, alone.aux),
        "gauges": named(ours.gauges, alone.gauges),
        "weights": max(float(np.abs(ours.weights[name] - alone.weights[name]).max()) for name in alone.weights),
        "state": float(max(states, default=0.0)),
        "scores": float(np.abs(ours.nats - alone.nats).max()),
    }


def compare(
    groups: Callable[[int], Group],
    roots: Callable[[str], Path],
    words: list[str],
    *,
    only_several: list[str] | None = None,
) -> None:
    found = groups(2)(steps, overrides=[*words, *(only_several or [])], root=str(roots("several")), count=4)
    alone = steps(words, str(roots("alone")), 4)
    seen = difference(found, alone)
    print(" | ".join([*words, *(f"{name} {value:.1e}" for name, value in seen.items())]))
    assert found[0].tokens == alone.tokens
    for other in found[1:]:
        assert other.losses == found[0].losses
        assert all(np.array_equal(other.weights[name], found[0].weights[name]) for name in alone.weights)
        assert np.array_equal(other.nats, found[0].nats)
    assert seen["loss"] < 3e-7
    assert seen["norm"] < 3e-6
    assert seen["aux"] < 1e-5
    assert seen["gauges"] < 1e-5
    assert seen["weights"] < 1e-4  # a step of AdamW has its length also where gradients nearly cancel
    assert seen["state"] < 1e-5
    assert seen["scores"] < 1e-5


@pytest.mark.parametrize("arch", ARCHS)
def test_two_processes_train_like_one(arch: str, groups: Callable[[int], Group], roots: Callable[[str], Path]) -> None:
    compare(groups, roots, [*SETTINGS, f"arch={arch}"])


@pytest.mark.parametrize("arch", ARCHS)
def test_shared_weights_train_like_those_of_one_process(
    arch: str, groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    compare(groups, roots, [*SETTINGS, f"arch={arch}", *RECOMPUTED.get(arch, [])], only_several=[SHARED])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains_like_one_process(
    option: str, groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    compare(groups, roots, [*SETTINGS, *OPTIONS[option]])


def test_adafactor_means_whole_matrices_where_they_are_shared_out(
    groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    """Also matrices of a single row, which only one process has, and of an odd number of rows."""
    words = ["arch=knn", "size.feedforward=65", "optim=adafactor", "optim.factor_from=1", "optim.momentum=0.9"]
    compare(groups, roots, [*SETTINGS, *words], only_several=[SHARED])


def test_half_precision_is_summed_in_full(groups: Callable[[int], Group], roots: Callable[[str], Path]) -> None:
    words = [*SETTINGS, "arch=rmt", "precision=bf16"]
    found = groups(2)(steps, overrides=words, root=str(roots("several")), count=4)
    seen = difference(found, steps(words, str(roots("alone")), 4))
    print(seen)
    assert found[1].losses == found[0].losses
    assert seen["loss"] < 1e-3  # of lanes that are fewer, products are rounded otherwise
    assert seen["norm"] < 1e-2


@pytest.mark.parametrize("settings", [["arch=rmt"], ["arch=block", "recompute=true"]], ids=" ".join)
def test_half_precision_is_the_same_with_shared_weights(
    settings: list[str], groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    """In as many processes: what is rounded, and what is summed in fp32, does not depend on who holds the weights."""
    words = [*SETTINGS, "precision=bf16", *settings]
    found, expected = (
        groups(2)(steps, overrides=[*words, f"shard_weights={shared}"], root=str(roots(shared)), count=4)
        for shared in ("true", "false")
    )
    assert [each.losses for each in found] == [pytest.approx(each.losses, rel=3e-7) for each in expected]
    assert found[0].norms == pytest.approx(expected[0].norms, rel=3e-6)


def test_weights_of_another_run_are_taken_by_all(groups: Callable[[int], Group], roots: Callable[[str], Path]) -> None:
    start = run([*SETTINGS, "arch=xl"], str(roots("start")))
    compare(groups, roots, [*SETTINGS, "arch=knn", f"init_from={start}"])


def test_classes_are_learned_and_scored_by_all(
    groups: Callable[[int], Group], roots: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = [
        {"text": f"{'yes' if number % 2 else 'no'} {'word ' * (number + 3)}", "kind": str(number % 2)}
        for number in range(24)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    words = [
        "data=text", f"data.path={tmp_path / 'texts.jsonl'}", "data.source.label=kind", "data.tokenizer.kind=bytes", "task=classify",
        "data.valid_documents=4", "data.test_documents=5",
    ]  # fmt: skip
    compare(
        groups,
        roots,
        [*(each for each in SETTINGS if each != "eval.documents=0"), "eval.documents=5", "arch=rmt", *words],
    )


def test_clusters_of_words_that_only_one_process_reads(
    groups: Callable[[int], Group], roots: Callable[[str], Path], tmp_path: Path
) -> None:
    text = [" ".join(f"w{(number * place) % 60}" for place in range(1, 60)) for number in range(1, 13)]
    (tmp_path / "text").mkdir()
    for number, line in enumerate(text):
        (tmp_path / "text" / f"{number}.txt").write_text(line + "\n")
    words = [
        "data=text", f"data.path={tmp_path / 'text'}", "data.tokenizer.kind=lines", "data.tokenizer.vocabulary=100", "data.tokenizer.lossless=false",
        "size.cutoffs=[10,40]", "size.narrowing=2", "data.valid_documents=2", "data.test_documents=3",
    ]  # fmt: skip
    compare(groups, roots, [*SETTINGS, "arch=xl", *words])


@pytest.mark.parametrize("segments", [1, 4])
def test_a_step_sends_each_gradient_once(
    segments: int, groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    words = [*SETTINGS, "arch=knn", f"accumulate={segments}"]
    for found, numbers, parameters in groups(2)(sent, overrides=words, root=str(roots("counted"))):
        assert found == 4 * numbers + parameters  # and a byte that says whether there is a gradient
