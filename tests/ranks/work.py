"""What the tests do in one process and in several: training steps, whole runs, scores."""

import os
import signal
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from memexp.config.compose import compose, typed
from memexp.config.train import TrainConfig
from memexp.data.classes import for_task
from memexp.data.library import prepare
from memexp.errors import UserError
from memexp.eval.evaluate import pick_documents, score_with_progress
from memexp.ranks.exchange import SaidByAnother, SaidByFirst, first, rank, ranks, wait
from memexp.ranks.sharding import here, own_rows, whole
from memexp.train import checkpoint, loop
from memexp.train.interrupt import Interrupted
from memexp.train.loop import train, update
from memexp.train.saving import Saving
from memexp.train.session import Session, open_session, save_session
from memexp.train.spec import RunSpec, specify

from ..tiny import configure

HANG = 60


class Steps(NamedTuple):
    """The numbers of some training steps."""

    losses: list[float]
    norms: list[float]
    aux: list[dict[str, float]]
    gauges: list[dict[str, float]]
    tokens: list[int]
    weights: dict[str, np.ndarray]
    state: list[np.ndarray]
    """Of the lanes of this process."""
    nats: np.ndarray
    """Of every scored token of the test split, by the trained weights."""


def spec_of(overrides: list[str], root: str) -> RunSpec:
    if any(word.startswith("data=") for word in overrides):
        here = (
            "size=tiny",
            "device=cpu",
            "compile=false",
            *(["precision=fp32"] if "precision=bf16" not in overrides else []),
        )
        config: TrainConfig = typed(compose("train", [*here, *overrides]))
    else:
        config = configure(*overrides)
    first(lambda: prepare(config.data, Path(root)) and None)
    return specify(config, for_task(prepare(config.data, Path(root)), config.data), Path(root))


def opened(overrides: list[str], root: str) -> Session:
    """A session whose model has weights large enough that every part of it matters."""
    spec = spec_of(overrides, root)
    (spec.run.path / "checkpoints").mkdir(parents=True, exist_ok=True)
    session = open_session(spec)
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in session.model.parameters():
            noise, local = torch.randn(parameter.shape, generator=chance) * 0.1, here(parameter)
            local.add_(noise if local is parameter else noise[own_rows(len(noise))])
    return session


def steps(overrides: list[str], root: str, count: int) -> Steps:
    """Train so many steps, then score."""
    torch.set_num_threads(1)
    session = opened(overrides, root)
    found = []
    for _ in range(count):
        before = session.tokens
        found.append((update(session), session.tokens - before))
    config, corpus = session.spec.config, session.spec.corpus
    with session.gathered_weights():
        scores = score_with_progress(
            session.model, pick_documents(corpus, config.eval), config.eval, config, memory="on",
            answers_from=corpus.answers_from, retrieved=0, title="",
        )  # fmt: skip
    return Steps(
        [result.loss for result, _ in found],
        [result.grad_norm for result, _ in found],
        [result.aux for result, _ in found],
        [{name: float(value) for name, value in result.gauges.items()} for result, _ in found],
        [tokens for _, tokens in found],
        {name: whole(value).detach().numpy() for name, value in session.model.state_dict().items()},
        [leaf.detach().float().numpy() for leaf in pytree.tree_leaves(session.state)],
        scores.nats,
    )


def run(overrides: list[str], root: str, stop: dict[str, int] | None = None, fail: dict[str, int] | None = None) -> str:
    """Train a run to its end; returns its folder, or why it ended before.

    Args:
        stop: the rank that is asked to stop, and in which step.
        fail: the rank that raises an error, and in which step.
    """
    torch.set_num_threads(1)
    plain = loop.update

    def update(session: Session, **options: Any) -> loop.Update:
        step = session.step + 1
        if stop is not None and (rank(), step) == (stop["rank"], stop["step"]):
            os.kill(os.getpid(), signal.SIGTERM)
        found = plain(session, **options)
        if fail is not None and (rank(), step) == (fail["rank"], fail["step"]):
            raise RuntimeError("a bug")
        return found

    loop.update = update
    try:
        return str(train(spec_of(overrides, root), command="memexp train").path)
    except (Interrupted, UserError, SaidByFirst) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        loop.update = plain


class Saved(NamedTuple):
    """Names of files of checkpoints that were saved in the background, in order of time."""

    early: list[str]
    """When the last process had not yet written its part."""
    first: list[str]
    second: list[str]
    """When its second part could not be written."""
    error: str
    """What ended the second one."""
    noticed: bool
    """Whether the next step has noticed that."""


def saved_beside_training(overrides: list[str], root: str) -> Saved:
    """Save twice while training goes on: the part of the last process is late, and its second one fails."""
    session = opened(overrides, root)
    session.saving = Saving(session.device, background=True)
    folder, go, plain = session.spec.run.path / "checkpoints", Event(), checkpoint.save

    def save(path: Path, content: dict[str, Any]) -> None:
        if rank() == ranks() - 1:
            assert go.wait(HANG)
            if "0000003" in path.name:
                raise UserError("full")
        plain(path, content)

    def files() -> list[str]:
        found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        wait()  # until all have looked
        return [path.name for path in found]

    checkpoint.save = save
    try:
        update(session)
        save_session(session)
        update(session)
        early = files()
        go.set()
        session.saving.finish()
        written = files()
        update(session)
        save_session(session)
        session.saving.wait()
        noticed = update(session).unsaved
        try:
            session.saving.finish()
            error = ""
        except (UserError, SaidByAnother) as seen:
            error = type(seen).__name__
        return Saved(early, written, files(), error, noticed)
    finally:
        checkpoint.save = plain


def count() -> int:
    """How many processes there are."""
    return ranks()


def sent(overrides: list[str], root: str) -> tuple[int, int, int]:
    """Bytes that are summed over processes in a step, and the numbers and the count of the parameters with gradients."""
    session, found = opened(overrides, root), [0]
    update(session)
    plain = dist.all_reduce

    def counted(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        found[0] += x.nbytes
        return plain(x, *arguments, **options)

    dist.all_reduce = counted
    try:
        update(session)
    finally:
        dist.all_reduce = plain
    parameters = [parameter for parameter in session.model.parameters() if parameter.grad is not None]
    return found[0], sum(parameter.numel() for parameter in parameters), len([*session.model.parameters()])
