"""The training loop, the same for every architecture: each segment maps a state to a new state, which is detached at the horizon."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils import _pytree as pytree

from memexp.data.lanes import Batch
from memexp.device import describe, peak_memory
from memexp.errors import UserError
from memexp.files import SUMMARY, encoded, fingerprint, write_json, write_sealed
from memexp.machine import commit
from memexp.model.segment import SegmentModel
from memexp.model.state import Tree, detach, state_bytes
from memexp.model.watching import Gauges, is_fill, on_host
from memexp.ranks import draws, watch
from memexp.ranks.exchange import agreed, first, gathered, is_first, ranks, sum_gradients, summing, told
from memexp.ranks.sharding import whole
from memexp.regions import part
from memexp.store.folder import CHECKPOINTS, IDENTITY_FILE, METRICS_FILE, UNREADABLE, WEIGHTS, Run, as_yaml, tag_of
from memexp.terminal import same_command, tell, warn
from memexp.train import checkpoint, shards
from memexp.train.interrupt import Interrupted, StopRequest, stop_on_signal
from memexp.train.metrics_file import MetricsFile, NoMetrics
from memexp.train.progress import Progress
from memexp.train.session import Session, cpu_seconds_of_all, open_session, save_session
from memexp.train.spec import RunSpec
from memexp.train.trackers import Nowhere, Sink, open_tracker
from memexp.train.weights import trained_weights

Validate = Callable[[SegmentModel], float]
"""Gives the nats per token of the validation split."""


class Update(NamedTuple):
    """The numbers of one optimizer step."""

    loss: float
    """Mean nats per scored token, without auxiliary losses."""
    grad_norm: float
    memory_fill: float | None
    """The largest of all segments; None without memory."""
    aux: dict[str, float]
    nats: list[float]
    """Nats of every lane and segment; the lanes of the first segment come first."""
    gauges: Gauges
    """Those of the last segment; only `memory_fill...` if nobody watches."""
    stop: int = 0
    """The signal that asks any of several processes to stop; 0 without."""
    unsaved: bool = False
    """Whether the last checkpoint could not be written."""


def train(spec: RunSpec, *, command: str, validate: Validate | None = None) -> Run:
    """Train a run to its end, from its newest checkpoint if it has one; a finished run is not changed.

    Several processes train it together: all of them call this, and the first one writes.

    Args:
        command: the command that the user typed, for the summary.
        validate: called every `validate_every` steps.

    Raises:
        UserError: another process trains this run, a checkpoint is damaged, or the loss is not finite.
        Interrupted: a signal stopped the run; a checkpoint was saved.
    """
    run, config = spec.run, spec.config
    encoded(command)  # what cannot be written is refused before the work
    as_yaml(asdict(config))
    if config.threads:
        torch.set_num_threads(config.threads)
    for name in (CHECKPOINTS, METRICS_FILE, "tensorboard", "wandb"):
        run.within(run.path / name)
    if first(lambda: _done(spec)):
        return run
    with ExitStack() as held:
        first(lambda: held.enter_context(run.locked()))
        request = held.enter_context(stop_on_signal())
        if first(lambda: _done(spec)):  # another process has finished the run in the meantime
            return run
        first(lambda: _tidy(run))
        session = open_session(spec)
        session.request = request
        held.callback(session.saving.finish)
        first(lambda: _begin(spec))
        watch.begin()
        with_others = f", and {ranks() - 1} others" * (ranks() > 1)
        print(f"device: {describe(session.device, asked=config.device)}{with_others}")
        tell(session.notes)
        print(f"{session.lanes.padding:.1%} of the tokens read are padding after the ends of documents")
        sink: Sink = Nowhere()
        if is_first():
            sink = open_tracker(config.tracker, run=run.name, config=asdict(config), folder=run.path, step=session.step)
        with closing(sink):
            with (
                closing(
                    MetricsFile(run.path / METRICS_FILE, upto=session.step) if is_first() else NoMetrics()
                ) as metrics,
                Progress(run.name, done=session.step, steps=config.steps) as progress,
            ):
                _run_to_the_end(session, metrics, sink, progress, request, validate)
            _finish(session, command)  # before the tracker closes, which may take a while
        if stop := max(told(request.signal_number or 0)):
            raise _interrupted(session, stop)
    return run


def _tidy(run: Run) -> None:
    """Delete what a process that was killed has left half written."""
    for left in [*run.path.glob(".*.partial"), *run.path.glob("checkpoints/.*.partial")]:
        left.unlink()
    checkpoint.forget_lost_parts(run.path / CHECKPOINTS)


def _begin(spec: RunSpec) -> None:
    """Write what makes the folder a run; only after all that can be refused, so that a refused run leaves nothing that is listed."""
    write_json(spec.run.path / IDENTITY_FILE, spec.identity)
    # last: a run is listed by its config.yaml, and must then have an identity
    spec.run.write_config(asdict(spec.config))


def update(session: Session, *, gauges_wanted: bool = True) -> Update:
    """One optimizer step: `accumulate` segments in windows of `bptt_segments + 1`, each window one backward pass.

    Several processes take it together, each with its lanes; the numbers are those of all lanes.

    Args:
        gauges_wanted: whether all gauges are computed. The loss, weights and state are the same without.
    """
    config, seen = session.spec.config, _Seen(torch.zeros((), device=session.device), gauges_wanted)
    with part("data"):
        step = session.lanes.take()
    session.model.train()
    with part("optimizer"):
        session.optimizer.zero_grad(set_to_none=True)
        if session.halves is not None:
            session.halves.refresh()
    window_length = config.bptt_segments + 1
    for start in range(0, len(step.batches), window_length):
        window_loss = torch.zeros((), device=session.device)
        with summing():
            for batch in step.batches[start : start + window_length]:
                window_loss = window_loss + _segment(session, batch, seen, scored=max(1, step.scored))
            with part("backward"), session.arithmetic.unless_cast(session.device):
                window_loss.backward()
        session.state = detach(session.state)
    with part("exchange"):
        if not session.sharded:  # then the backward pass has summed them
            sum_gradients(list(session.model.parameters()))
    with part("optimizer"):
        norm = whole(torch.nn.utils.clip_grad_norm_(session.model.parameters(), config.optim.clip or math.inf))
        session.optimizer.step()
        session.schedule.step()
    with part("data"):
        session.lanes.read_ahead()
    gauges = seen.gauges
    if seen.memory_grads:
        gauges = gauges | {"memory_grad": torch.stack(seen.memory_grads).sum().sqrt()}
    unsaved = session.saving.failed
    if ranks() == 1:
        numbers = _on_host(seen, norm, gauges, unsaved=unsaved)
    else:
        numbers = _from_all(seen, norm, gauges, session.request, unsaved=unsaved)
    _refuse_nonfinite(session, numbers)
    session.step += 1
    session.tokens += step.scored
    if numbers.memory_fill is not None:
        session.memory_fill = max(session.memory_fill or 0.0, numbers.memory_fill)
    return numbers


@dataclass
class _Seen:
    """Results of the segments of a step, still on the device."""

    loss: Tensor
    gauges_wanted: bool
    """Whether all gauges are computed."""
    aux: dict[str, Tensor] = field(default_factory=dict)
    fills: list[Tensor] = field(default_factory=list)
    memory_grads: list[Tensor] = field(default_factory=list)
    nats_B: list[Tensor] = field(default_factory=list)
    gauges: Gauges = field(default_factory=dict)
    """The gauges of the last segment."""


def _segment(session: Session, batch: Batch[Tensor], seen: _Seen, *, scored: int) -> Tensor:
    """Read one segment and return its part of the step's loss, with auxiliary losses."""
    config = session.spec.config
    if config.recompute:
        output, nats_BT = torch.utils.checkpoint.checkpoint(
            session.read,
            batch,
            session.state,
            watch=seen.gauges_wanted,
            use_reentrant=False,
            context_fn=draws.same_again,
        )
    else:
        output, nats_BT = session.read(batch, session.state, watch=seen.gauges_wanted)
    if seen.gauges_wanted:
        _watch(session.state.memory, seen.memory_grads)
    session.state = output.state
    with part("head"):
        nats_B = torch.where(batch.weight_BT > 0, nats_BT * batch.weight_BT, 0).sum(-1)
        loss = nats_B.sum() / scored
        seen.nats_B.append(nats_B.detach())
        seen.loss += loss.detach()
        for name, value in output.aux.items():
            seen.aux[name] = seen.aux.get(name, torch.zeros_like(seen.loss)) + value.detach() / config.accumulate
            loss = loss + value / config.accumulate / ranks()  # each process has that of all lanes
    seen.fills += [value for name, value in output.gauges.items() if is_fill(name)]
    seen.gauges = output.gauges
    return loss


def _on_host(seen: _Seen, norm: Tensor, gauges: Gauges, *, unsaved: bool) -> Update:
    """Move all numbers of a step but gauges to the host in one transfer; only here does the host wait for the device."""
    fill = [torch.stack(seen.fills).max()] if seen.fills else []
    scalars = torch.stack([seen.loss, norm, *seen.aux.values(), *fill])
    loss, grad_norm, *rest = torch.cat([scalars, *seen.nats_B]).tolist()
    aux, rest = rest[: len(seen.aux)], rest[len(seen.aux) :]
    memory_fill = rest.pop(0) if fill else None
    return Update(loss, grad_norm, memory_fill, dict(zip(seen.aux, aux, strict=True)), rest, gauges, unsaved=unsaved)


def _from_all(seen: _Seen, norm: Tensor, gauges: Gauges, request: StopRequest, *, unsaved: bool) -> Update:
    """The numbers of a step of all processes, in one exchange and one transfer.

    A gauge is a mean over lanes, but of `memory_fill` the largest counts, and `memory_grad` is a norm.
    """
    fill = [torch.stack(seen.fills).max()] if seen.fills else []
    scalars = [seen.loss, norm, *seen.aux.values(), *fill, *gauges.values()]
    scalars += [torch.full_like(seen.loss, number) for number in (request.signal_number or 0, unsaved)]
    own = torch.cat([torch.stack([each.to(seen.loss) for each in scalars]), *seen.nats_B])
    rows = gathered(own).tolist()
    columns = iter(zip(*rows, strict=True))
    loss, grad_norm = sum(next(columns)), next(columns)[0]
    aux = {name: next(columns)[0] for name in seen.aux}
    memory_fill = max(next(columns)) if fill else None
    means = {name: torch.tensor(_of_all(name, next(columns))) for name in gauges}
    stop, any_unsaved = int(max(next(columns))), any(next(columns))
    lanes = len(seen.nats_B[0])
    nats_SRB = torch.tensor(list(columns)).view(-1, lanes, len(rows)).transpose(1, 2)
    return Update(loss, grad_norm, memory_fill, aux, nats_SRB.flatten().tolist(), means, stop, any_unsaved)


def _of_all(name: str, values: tuple[float, ...]) -> float:
    """A gauge of all processes."""
    if is_fill(name):
        return max(values)
    return math.hypot(*values) if name == "memory_grad" else sum(values) / len(values)


def _watch(memory: Tree, squares: list[Tensor]) -> None:
    """Make the backward pass append the squared norm of the gradient that reaches the writes of earlier segments."""
    for leaf in pytree.tree_leaves(memory):
        if leaf.grad_fn is not None:
            leaf.register_hook(lambda gradient: squares.append(gradient.detach().float().square().sum()))


def _run_to_the_end(
    session: Session,
    metrics: MetricsFile | NoMetrics,
    sink: Sink,
    progress: Progress,
    request: StopRequest,
    validate: Validate | None,
) -> None:
    config = session.spec.config
    gauges: dict[str, float] = {}
    while session.step < config.steps:
        logged = (session.step + 1) % config.log_every == 0 or session.step + 1 == config.steps
        began, cpu_began, tokens_before = time.perf_counter(), time.process_time(), session.tokens
        rate = session.schedule.get_last_lr()[0]
        result = update(session, gauges_wanted=logged)
        seconds = time.perf_counter() - began
        session.seconds += seconds
        if session.cpu_seconds is not None:
            session.cpu_seconds += time.process_time() - cpu_began
        if session.tokens > tokens_before:  # a step without scored tokens has no loss
            session.losses.append(result.loss)
        speed = (session.tokens - tokens_before) / seconds
        if logged:
            gauges = on_host(result.gauges)
            if session.losses:
                session.loss = sum(session.losses) / len(session.losses)
                session.losses.clear()
            line = {
                "step": session.step,
                "tokens": session.tokens,
                "epoch": session.lanes.epoch,
                "loss": _known(session.loss),
                "rate": rate,
                "grad_norm": result.grad_norm,
                "tokens_per_second": speed,
                "seconds": session.seconds,
                "gauges": gauges,
            }
            if result.aux:
                line["aux"] = result.aux
            _refuse_if_gone(session)
            metrics.append(line)
            sink.log(session.step, _flat(line))
        shown = session.losses[-1] if session.losses else session.loss
        progress.show(session.step, loss=shown, tokens_per_second=speed, gauges=gauges)
        if validate is not None and config.validate_every and session.step % config.validate_every == 0:
            with session.gathered_weights():
                nats = validate(session.model)
            metrics.append({"step": session.step, "valid_nats_per_token": nats})
            sink.log(session.step, {"valid_nats_per_token": nats})
        stop = request.signal_number if ranks() == 1 else result.stop
        if stop and session.step < config.steps:
            _save(session, metrics)
            raise _interrupted(session, stop)
        due = session.step % config.checkpoint_every == 0
        # the last step needs no checkpoint: `_finish` saves the weights
        if (due or result.unsaved) and session.step < config.steps:
            _save(session, metrics)  # and raise why the last one could not be written
    metrics.flush()


def _save(session: Session, metrics: MetricsFile | NoMetrics) -> None:
    _refuse_if_gone(session)
    metrics.flush()
    save_session(session)


def _refuse_if_gone(session: Session) -> None:
    if is_first():  # it has locked the folder
        session.spec.run.refuse_if_gone()


def _interrupted(session: Session, signal_number: int) -> Interrupted:
    message = f"stopped at step {session.step} of {session.spec.config.steps} and saved; {same_command()} continues from there"
    return Interrupted(message, signal_number)


def _done(spec: RunSpec) -> bool:
    """Whether the run is finished; if so, print that, and give the run the tag in its settings if there is a new one.

    Its settings and identity are known, so they are written again if they were damaged or deleted.
    """
    run, tag = spec.run, spec.config.tag
    if run.summary is None or not (run.path / WEIGHTS).exists():
        return False
    print(f"{run.name} is done; nothing to train")
    if tag_of(run) == UNREADABLE:
        warn(f"{run.path / 'config.yaml'} was damaged; it is written again from these settings")
        run.write_config(asdict(spec.config))
    if not _as_written(run, spec.identity):
        warn(f"{run.path / 'identity.json'} was damaged; it is written again from these settings")
        write_json(run.path / IDENTITY_FILE, spec.identity)
    size, data = asdict(spec.config.size), asdict(spec.config.data)
    if size["checkpoint"] != (there := run.config.get("size", {}).get("checkpoint")):
        print(f"its checkpoint was {there} and is now {size['checkpoint']}")
        run.write_config(run.config | {"size": size, "data": data})
    before = run.config.get("tag")
    if tag and before != tag:
        print(f"its tag was {before!r} and is now {tag!r}")
        run.write_config(run.config | {"tag": tag})
    return True


def _as_written(run: Run, identity: dict[str, Any]) -> bool:
    try:
        return fingerprint(run.identity) == fingerprint(identity)
    except UserError:
        return False


def _finish(session: Session, command: str) -> None:
    """Save the weights, then write the summary, which marks the run as done, and delete the checkpoints.

    Only then is raised what was wrong with the last checkpoint.
    """
    session.saving.wait()
    cpu_seconds, peak = cpu_seconds_of_all(session), max(told(peak_memory(session.device)))
    weights = shards.whole_weights(trained_weights(session.model))
    first(lambda: _write_result(session, command, weights, cpu_seconds=cpu_seconds, peak=peak))
    session.saving.finish()


def _write_result(
    session: Session, command: str, weights: dict[str, Tensor], *, cpu_seconds: float | None, peak: int
) -> None:
    spec = session.spec
    path, corpus = spec.run.path, spec.corpus
    spec.run.refuse_if_gone()
    checkpoint.save(path / WEIGHTS, {"identity": spec.hash, "step": session.step, "model": weights})
    spec.run.refuse_if_gone()
    write_sealed(
        path / SUMMARY,
        {
            "run": spec.run.name,
            "state": "done",
            "steps": session.step,
            "tokens": session.tokens,
            "parameters": sum(parameter.numel() for parameter in session.model.parameters()),
            "state_bytes_per_lane": state_bytes(session.state) * ranks() // spec.config.lanes,
            "peak_memory_bytes": peak,
            "seconds": session.seconds,
            "cpu_seconds": cpu_seconds,
            "tokens_per_second": session.tokens / session.seconds if session.seconds else 0.0,
            "loss": _known(session.loss),
            "memory_fill": session.memory_fill,
            "memory_restarts": session.memory_restarts,
            "command": command,
            "commit": commit(),
            "config_hash": spec.hash,
            "corpus": corpus.seen_from(spec.root),
            "data_hash": corpus.tokens_checksum,
            "tokenizer_hash": corpus.tokenizer_hash,
            "versions": {name: version(name) for name in ("torch", "numpy", "sentencepiece")},
            "device": str(session.device),
            "devices": ranks(),
            "hardware": describe(session.device, asked=session.spec.config.device).record,
            "threads": torch.get_num_threads(),
        },
    )
    checkpoint.forget_old(path / CHECKPOINTS, keep=0)


def _refuse_nonfinite(session: Session, numbers: Update) -> None:
    for index, nats in enumerate(numbers.nats):
        if not math.isfinite(nats):
            lane, lanes = index % session.spec.config.lanes, session.spec.config.lanes
            whose = f" (rank {lane * ranks() // lanes} of {ranks()} processes)" * (ranks() > 1)
            raise agreed(UserError(_not_finite(session, f"the loss is {nats} in lane {lane}{whose}")))
    if not math.isfinite(numbers.grad_norm):
        raise agreed(UserError(_not_finite(session, f"the gradient's norm is {numbers.grad_norm}")))


def _not_finite(session: Session, seen: str) -> str:
    session.saving.wait()  # it may be the first one
    good = checkpoint.newest(session.spec.run.path / CHECKPOINTS)
    return (
        f"{seen} at step {session.step + 1} of {session.spec.run.name}; expected a finite number. Likely cause: optim.rate is "
        f"too high. {f'The last good checkpoint is {good}' if good else 'No checkpoint was written yet'}"
    )


def _known(loss: float) -> float | None:
    """The loss; None if nothing was scored yet, because JSON has no NaN."""
    return None if math.isnan(loss) else loss


def _flat(line: dict[str, Any]) -> dict[str, float]:
    """A line of metrics with nested names joined by a slash, as trackers expect."""
    flat = {name: value for name, value in line.items() if isinstance(value, int | float)}
    for group in ("gauges", "aux"):
        flat |= {f"{group}/{name}": value for name, value in line.get(group, {}).items()}
    return flat
