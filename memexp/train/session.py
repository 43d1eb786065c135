"""A training session: everything that changes while a run trains, and how it is saved and restored."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils import _pytree as pytree

from memexp.config.train import TrainConfig
from memexp.data.lanes import Batch, Growth, TrainingLanes
from memexp.device import pick_device
from memexp.model.build import build_model
from memexp.model.segment import SegmentModel, SegmentOutput
from memexp.model.state import State, detach, pack, unpack
from memexp.model.watching import watching
from memexp.ranks import draws
from memexp.ranks.exchange import everywhere, first, is_first, own, rank, ranks, told
from memexp.ranks.place import share
from memexp.ranks.sharding import gathered_weights, move_all_but_matrices, shard
from memexp.regions import part
from memexp.store.folder import CHECKPOINTS
from memexp.terminal import Remark, same_command
from memexp.train import checkpoint, shards
from memexp.train.compilation import compile_layers, compiles
from memexp.train.interrupt import StopRequest
from memexp.train.loader import Reader
from memexp.train.optimizer import build_optimizer, build_schedule
from memexp.train.precision import HalfWeights, arithmetic
from memexp.train.remarks import of_the_model
from memexp.train.saving import Saving
from memexp.train.spec import RunSpec
from memexp.train.weights import fitting, start_from, take, trained_weights


@dataclass
class Session:
    """A run in training, after `step` updates; `state` is what every lane of this process carries into the next step."""

    spec: RunSpec
    device: torch.device
    model: SegmentModel
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    lanes: Reader
    state: State
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float | None = 0.0
    """Processor time of all threads of this process; other programs on the machine affect it little. None if an older version began
    the run."""
    memory_fill: float | None = None
    """Largest share of a memory's slots that was ever filled; None without memory."""
    memory_restarts: int = 0
    """How often the run went on from a checkpoint with an empty memory, because checkpoints do not hold it."""
    loss: float = float("nan")
    """Mean nats per token of the last logged steps."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics."""
    notes: list[Remark] = field(default_factory=list)
    """Messages for the user before training begins, such as which weights another run did not have."""
    reads: "Pass | None" = None
    """The model and its head as one module; default: made of the model."""
    request: StopRequest = field(default_factory=StopRequest)
    """Whether this process was asked to stop."""
    halves: HalfWeights | None = field(init=False, default=None)
    """The bf16 copies of the weights; None in fp32."""

    def __post_init__(self) -> None:
        self._pass = self.reads or Pass(self.model)
        self.arithmetic = arithmetic(self.spec.config)
        self.saving = Saving(self.device, background=self.device.type == "cuda")
        if self.spec.config.precision == "bf16" and not self.sharded:
            self.halves = HalfWeights(self._pass)

    @property
    def sharded(self) -> bool:
        """Whether each process has only a part of the weights."""
        return self.spec.config.shard_weights and ranks() > 1

    def gathered_weights(self) -> AbstractContextManager[None]:
        """Inside, each process has all weights."""
        return gathered_weights(self._pass)

    def read(self, batch: Batch[Tensor], state: State, *, watch: bool = True) -> tuple[SegmentOutput, Tensor]:
        """Pass one segment through the model; returns its output and the nats of its targets, B T.

        Args:
            watch: whether all gauges are computed.
        """
        with watching(watch), self.arithmetic.on(self.device):
            if self.halves is None:
                result: tuple[SegmentOutput, Tensor] = self._pass(batch, state)
            else:
                result = torch.func.functional_call(self._pass, self.halves.leaves(), (batch, state), tie_weights=False)
        return result


class Pass(nn.Module):
    """Model and head as one module, so that `functional_call` can replace the weights of both."""

    def __init__(self, model: SegmentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch[Tensor], state: State) -> tuple[SegmentOutput, Tensor]:
        with part("layers"):
            output: SegmentOutput = self.model(batch.tokens_BT, batch.valid_BT, state, batch.reset_B)
        with part("head"):
            return output, self.model.head.nats(output.hidden_BTD, batch.targets_BT)


def open_session(spec: RunSpec) -> Session:
    """Build model, optimizer and lanes from the seed, then restore the newest checkpoint if there is one.

    Raises:
        UserError: the checkpoint or the weights to start from are damaged or do not fit; or the device is not there, or cannot run
            the model.
    """
    config, corpus = spec.config, spec.corpus
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    model = build_model(config, vocabulary=corpus.vocabulary, classes=len(corpus.classes))
    model.check_device(device)
    newest = first(lambda: checkpoint.newest(spec.run.path / CHECKPOINTS))
    notes = []
    if spec.start is not None and newest is None:
        notes = [Remark(line, warns=False) for line in start_from(model, spec, spec.start)]
    reads, shared_out = Pass(model), config.shard_weights and ranks() > 1
    if shared_out:
        move_all_but_matrices(reads, device)
    else:
        model.to(device)
    notes += _prepare(model, config, device)
    state = detach(model.init_state(config.lanes // ranks() if newest is None else 1))
    if newest is not None:  # a checkpoint brings the state of all lanes; of none it shows what form they must have
        state = pytree.tree_map(lambda leaf: leaf.new_empty((0, *leaf.shape[1:])), state)
    if shared_out:
        shard(reads, device, bf16=config.precision == "bf16")
    optimizer = build_optimizer(model, config.optim)
    lanes = TrainingLanes(
        corpus.split("train"),
        lanes=config.lanes,
        segment=config.segment,
        seed=config.seed,
        max_document=config.data.max_document,
        cut=config.data.cut,
        growth=Growth(config.data.grow_from, config.tokens) if config.data.grow_from else None,
        drop_tails=config.data.drop_tails,
        rank=rank(),
        ranks=ranks(),
    )
    draws.begin(torch.get_rng_state(), seed=config.seed, step=0)
    session = Session(
        spec=spec,
        device=device,
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.optim, steps=config.steps),
        lanes=Reader(lanes, segments=config.accumulate, device=device),
        state=state,
        notes=notes,
        reads=reads,
    )
    if newest is not None:
        _restore(session, newest)
    return session


def save_session(session: Session) -> Path:
    """Write a checkpoint of this step and delete the oldest; on a GPU in the background, until `Session.saving` has finished.

    Several processes write the state of their lanes each, into a part of its own. When all parts are there, the first writes
    what all share, and with it the checkpoint is one. A process has finished when all have.
    """
    folder = session.spec.run.path / CHECKPOINTS
    path = folder / f"step-{session.step:07d}.pt"
    of_lanes: dict[str, Any] = {
        "state": pytree.tree_leaves(_in_checkpoint(session)),
        "random": checkpoint.random_state(session.device),
    }
    part_of_this: dict[str, Any] = {}
    if ranks() > 1:
        part_of_this = {"identity": session.spec.hash, "step": session.step, **of_lanes}
        if session.sharded:
            part_of_this |= shards.local(trained_weights(session.model), session.model, session.optimizer)
        of_lanes = {"parts": ranks(), "random": [draws.common_state()]}
    cpu_seconds = cpu_seconds_of_all(session)
    of_all = {
        "identity": session.spec.hash,
        "step": session.step,
        "tokens": session.tokens,
        "seconds": session.seconds,
        "cpu_seconds": cpu_seconds,
        "memory_fill": session.memory_fill,
        "memory_restarts": session.memory_restarts,
        "loss": session.loss,
        "losses": session.losses,
        **shards.common(trained_weights(session.model), session.optimizer, sharded=session.sharded),
        "schedule": session.schedule.state_dict(),
        "lanes": session.lanes.state(),
        **of_lanes,
    }

    def write(written: tuple[dict[str, Any], dict[str, Any]]) -> None:
        part_of_this, of_all = written
        if part_of_this:
            everywhere(lambda: _write(checkpoint.part_of(path, rank(), ranks()), part_of_this), apart=True)
        first(lambda: _complete(path, of_all), apart=True)

    session.saving.save((part_of_this, of_all if is_first() else {}), write)
    return path


def _complete(path: Path, content: dict[str, Any]) -> None:
    """Write what is not in parts: from now on the checkpoint is there."""
    _write(path, content)
    checkpoint.forget_old(path.parent)


def _in_checkpoint(session: Session) -> Any:
    """The part of the state that a checkpoint holds."""
    return session.state if session.spec.config.checkpoint_memory else session.state.cache


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, or a part of one, in which the leaves of the state are packed."""
    packed = {"state": pack(content["state"])} if "state" in content else {}
    checkpoint.save(path, content | packed)


def cpu_seconds_of_all(session: Session) -> float | None:
    """The processor time of all processes together; None if it is not known."""
    found = told(session.cpu_seconds)
    return None if None in found else sum(found)


def _prepare(model: SegmentModel, config: TrainConfig, device: torch.device) -> list[Remark]:
    """Compile the model if asked; returns what the user should know of it on this device."""
    if compiles(model, config, device):
        compile_layers(model, asked=config.compile == "true")
    return of_the_model(model, config, device)


def _restore(session: Session, path: Path) -> None:
    remedy = f"delete it, and {same_command()} continues from the checkpoint before, or from the start"
    content = checkpoint.load(path, identity=session.spec.hash, remedy=remedy)
    parts = content.get("parts", 1)

    def part_of(number: int) -> dict[str, Any]:
        """What the process of this number has written."""
        if parts == 1:
            return content
        return checkpoint.load(checkpoint.part_of(path, number, parts), identity=session.spec.hash, remedy=remedy)

    found = _of_own_lanes(session.spec.config.lanes, parts, part_of)
    with fitting(path, remedy=remedy):
        lanes = session.spec.config.lanes // ranks()
        restored = unpack(found, like=_in_checkpoint(session), lanes=lanes)
        if session.sharded or "model" not in content:
            weights = trained_weights(session.model)
            shards.restore(weights, session.model, session.optimizer, content, part_of, sharded=session.sharded)
        else:
            take(session.model, content["model"])
            session.optimizer.load_state_dict(content["optimizer"])
    session.schedule.load_state_dict(content["schedule"])
    session.lanes.restore(content["lanes"])
    session.step, session.tokens = content["step"], content["tokens"]
    session.seconds, session.cpu_seconds = content["seconds"], content.get("cpu_seconds")
    if not is_first() and session.cpu_seconds is not None:
        session.cpu_seconds = 0.0  # the first has that of all until here
    session.memory_fill, session.memory_restarts = content["memory_fill"], content.get("memory_restarts", 0)
    if session.spec.config.checkpoint_memory:
        session.state = restored
    else:
        with session.gathered_weights():
            session.state = State(restored, detach(session.model.init_state(lanes).memory))
        _tell_of_restart(session)
    session.loss, session.losses = content["loss"], content["losses"]
    draws.begin(content["random"][0], seed=session.spec.config.seed, step=session.step)
    if parts == ranks():  # with another number, what is drawn for single lanes is drawn anew
        checkpoint.restore_random_state(part_of(rank())["random"], session.device)


def _tell_of_restart(session: Session) -> None:
    if not session.model.memory_slots:
        return
    session.memory_restarts += 1
    what = "the memory starts empty, because checkpoint_memory=false left it out of the checkpoint"
    then = "from here on the run is not that of one that was never stopped"
    session.notes.append(Remark(f"{what}; {then} (memory_restarts: {session.memory_restarts})"))


def _of_own_lanes(lanes: int, parts: int, part_of: Callable[[int], dict[str, Any]]) -> list[Tensor]:
    """The state of the lanes of this process, from a checkpoint that any number of processes has written.

    Args:
        lanes: those of all processes.
        parts: how many processes have written it.
        part_of: reads what the process of a number has written.
    """
    if parts == ranks() == 1:
        state: list[Tensor] = part_of(0)["state"]
        return state
    mine, pieces = own(lanes), []
    for number in range(parts):
        there = share(lanes, number, parts)
        start, stop = max(mine.start, there.start), min(mine.stop, there.stop)
        if start < stop:
            pieces.append([leaf[start - there.start : stop - there.start].clone() for leaf in part_of(number)["state"]])
    return [torch.cat(leaves) for leaves in zip(*pieces, strict=True)]
