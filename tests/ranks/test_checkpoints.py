"""Checkpoints of several processes: the same run goes on, in as many processes or in others, and nothing in them runs code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memexp.store.folder import Run
from memexp.train import checkpoint

from ..train.conftest import assert_same_result, losses, weights
from .conftest import Group
from .work import run, saved_beside_training

SHARED = "shard_weights=true"

ADAFACTOR = ["optim=adafactor", "optim.factor_from=1", "optim.momentum=0.9"]
"""With which small matrices are factored as well."""

SETTINGS = ["arch=knn", "lanes=4", "accumulate=2", "steps=14", "checkpoint_every=100", "log_every=3", "segment=8"]


class _Code:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._path),)


def test_parts_go_with_their_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        path = tmp_path / f"step-{step:07d}.pt"
        for rank in (0, 1):
            checkpoint.save(checkpoint.part_of(path, rank, 2), {"identity": "", "state": []})
        if step < 3:  # the last one lacks what all share, as if a process had ended before it was written
            checkpoint.save(path, {"identity": ""})
    assert checkpoint.newest(tmp_path) == tmp_path / "step-0000002.pt"
    checkpoint.forget_old(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000002.0-of-2.pt", "step-0000002.1-of-2.pt", "step-0000002.pt",
    ]  # fmt: skip


@pytest.mark.hard
@pytest.mark.parametrize("settings", [["arch.dropout=0.1"], [SHARED]], ids=" ".join)
def test_a_run_goes_on_bit_for_bit_in_as_many_processes(
    settings: list[str], groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    """What each process draws, and its rows of weights and averages, must go on as well."""
    words = [*SETTINGS, *settings]
    expected = Run(Path(groups(2)(run, overrides=words, root=str(roots("whole")))[0]))
    root = str(roots("stopped"))
    stopped = groups(2)(run, overrides=words, root=root, stop={"rank": 1, "step": 5})
    assert [each.split(";")[0] for each in stopped] == ["Interrupted: stopped at step 5 of 14 and saved"] * 2
    found = Run(Path(groups(2)(run, overrides=words, root=root)[0]))
    assert_same_result(found, expected)
    assert list((found.path / "checkpoints").iterdir()) == []


@pytest.mark.hard
@pytest.mark.parametrize("arch", ["knn", "thought", "block"])
def test_a_run_goes_on_in_another_number_of_processes(
    arch: str, groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    words = [*SETTINGS[1:], f"arch={arch}"]
    alone = Run(Path(run(words, str(roots("alone")))))
    root = str(roots("changing"))
    for ranks, step in ((2, 4), (4, 7), (1, 9), (2, 11)):
        stop = {"rank": ranks - 1, "step": step}
        stopped = groups(ranks)(run, overrides=words, root=root, stop=stop) if ranks > 1 else [run(words, root, stop)]
        assert {each.split(";")[0] for each in stopped} == {f"Interrupted: stopped at step {step} of 14 and saved"}
    found = Run(Path(run(words, root)))
    assert found.name == alone.name
    for (step, tokens, loss, norm), expected in zip(losses(found), losses(alone), strict=True):
        assert (step, tokens) == expected[:2]
        assert loss == pytest.approx(expected[2], rel=2e-6)
        assert norm == pytest.approx(expected[3], rel=1e-5)
    ours, theirs = weights(found), weights(alone)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
    assert found.summary is not None
    assert alone.summary is not None
    assert found.summary["memory_fill"] == alone.summary["memory_fill"]


@pytest.mark.hard
def test_a_checkpoint_is_there_when_the_last_part_is(
    groups: Callable[[int], Group], roots: Callable[[str], Path]
) -> None:
    """While processes train; if a part cannot be written, all end, and the checkpoint before is whole."""
    first, last = groups(2)(saved_beside_training, overrides=SETTINGS, root=str(roots("beside")))
    name, parts = "step-0000001.pt", ["step-0000001.0-of-2.pt", "step-0000001.1-of-2.pt"]
    assert name not in first.early
    assert parts[1] not in first.early
    assert first.first == last.first
    assert first.first == [*parts, name]
    assert set(first.second) == {*parts, name, "step-0000003.0-of-2.pt"}
    assert (first.error, last.error) == ("SaidByAnother", "UserError")
    assert first.noticed
    assert last.noticed


@pytest.mark.hard
def test_no_part_of_a_checkpoint_runs_code(groups: Callable[[int], Group], roots: Callable[[str], Path]) -> None:
    root = roots("edited")
    groups(2)(run, overrides=SETTINGS, root=str(root), stop={"rank": 0, "step": 3})
    (part,) = root.glob("results/runs/*/checkpoints/step-0000003.1-of-2.pt")
    content = part.read_bytes()
    for bad in (pickle.dumps(_Code(root / "made")), content[: len(content) // 2]):
        part.write_bytes(bad)
        found = run(SETTINGS, str(root))
        assert found.startswith("UserError")
        assert part.name in found
        assert not (root / "made").exists()
    torch.save({"state": _Code(root / "made")}, part)
    assert run(SETTINGS, str(root)).startswith("UserError")
    assert not (root / "made").exists()


@pytest.mark.hard
@pytest.mark.parametrize(
    ("optimizer", "turns"),
    [
        ([], ((2, 3, True), (2, 5, True), (4, 7, True), (1, 9, False), (2, 11, True), (2, 12, False))),
        (ADAFACTOR, ((4, 5, True), (1, 9, False))),
    ],
    ids=["AdamW", "Adafactor"],
)
def test_shared_weights_go_on_whole_and_shared(
    optimizer: list[str],
    turns: tuple[tuple[int, int, bool], ...],
    groups: Callable[[int], Group],
    roots: Callable[[str], Path],
) -> None:
    # which four processes cannot share out evenly
    words = [*SETTINGS, "size.width=48", "size.feedforward=65", *optimizer]
    alone = Run(Path(run(words, str(roots("alone")))))
    shared = [*words, SHARED]
    whole = Run(Path(groups(2)(run, overrides=shared, root=str(roots("whole")))[0]))
    root = str(roots("changing"))
    for ranks, step, shares in turns:
        stop, settings = {"rank": ranks - 1, "step": step}, shared if shares else words
        stopped = (
            groups(ranks)(run, overrides=settings, root=root, stop=stop) if ranks > 1 else [run(settings, root, stop)]
        )
        assert {each.split(";")[0] for each in stopped} == {f"Interrupted: stopped at step {step} of 14 and saved"}
    found = Run(Path(groups(2)(run, overrides=shared, root=root)[0]))
    for other in (found, whole):
        assert other.name == alone.name
        for (step, tokens, loss, norm), expected in zip(losses(other), losses(alone), strict=True):
            assert (step, tokens) == expected[:2]
            assert loss == pytest.approx(expected[2], rel=2e-6)
            assert norm == pytest.approx(expected[3], rel=1e-5)
        ours, theirs = weights(other), weights(alone)
        assert ours.keys() == theirs.keys()
        assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
