"""Training on the device: the time of a step, kernels, waits, checkpoints, and several jobs at once."""

import gc
import math
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch

from memexp.bench.gpu.device import kernels_of, peak, rates, restart_peak, seconds_of, waits_of
from memexp.bench.gpu.ground import Ground
from memexp.bench.gpu.sessions import fill, folder_for, opened, settings, with_lanes_that_fit
from memexp.bench.gpu.values import difference
from memexp.bench.measurement import Figure
from memexp.config.train import TrainConfig
from memexp.cost.memory import items
from memexp.cost.table import on_device, operations_by_precision, vocabulary_of
from memexp.machine import memory_bytes
from memexp.model.knn_memory.ring import Ring
from memexp.model.state import state_bytes
from memexp.train.compilation import missing_compiler
from memexp.train.loop import update
from memexp.train.session import Session, open_session, save_session

OVER_FLOOR = 4.0
"""Largest wanted time of a step, relative to its products at the measured rate of half precision."""
OVER_NONE = (1.25, 1.9)
"""Largest wanted time with each size of the memory, relative to none."""
OVER_PLAN = 1.1
"""Largest wanted peak, relative to what `memexp plan` says."""
SPARE = 256 << 20
"""Bytes of what is small beside a memory of pairs."""
CONTINUED = 1e-3
"""Largest relative difference of the loss after a resume; sums on a device have no fixed order."""
JOB_STEPS = 20
START_SECONDS = 100
"""The longest that jobs wait until all of them have started."""


def _knn(ground: Ground, slots: int) -> TrainConfig:
    return settings(ground, "arch=knn", *ground.large, "precision=bf16", f"mem={slots}", "data.max_document=0")


def step(ground: Ground) -> Iterator[Figure]:
    """Steps of kNN memory of each size: time, kernels and peak; the smallest also compiled."""
    for slots, over_none in zip(ground.slots, OVER_NONE, strict=True):
        config = with_lanes_that_fit(_knn(ground, slots), ground)
        named = f"step of knn, {' '.join(ground.large)}, {slots:,} slots"
        if config is None:
            yield Figure.without(named, f"left out: one lane does not fit into {ground.memory / 1e9:.0f} GB")
            continue
        what = f"{named}, {config.lanes} lanes"
        plain = yield from _plain(ground, config, what, over_none)
        if ground.compiled and slots == ground.slots[0]:
            yield _compiled(ground, config, what, plain)


def _plain(ground: Ground, config: TrainConfig, what: str, over_none: float) -> Generator[Figure, None, list[float]]:
    """A step beside its floor and beside one without memory, its kernels, and its peak beside its plan; gives its seconds."""
    counted = sum(operations_by_precision(config)) * config.lanes * config.segment * config.accumulate
    floor = rates(ground).floor(bytes=0, operations=counted)
    with opened(config) as session:
        update(session)
        fill(session)
        restart_peak(ground.device)
        update(session)
        highest = peak(ground.device)
        plain = _seconds_of_step(session, ground)
        seen = kernels_of(lambda: update(session, gauges_wanted=False), ground.device)
    with opened(replace(config, mem=0)) as session:
        update(session)
        without = _seconds_of_step(session, ground)
    names = ", ".join(f"{count} x {name[:80]}" for name, count in seen.attention.most_common())
    yield Figure(
        what, "step", "its products in half precision", "s", plain, [floor] * len(plain), ratio_at_most=OVER_FLOOR,
        note=f"attention: {names or 'no kernel that is named so'}", facts={"kernels": seen.number, "lanes": config.lanes},
    )  # fmt: skip
    yield Figure(
        f"cost of the memory in a {what}", "step", "without memory", "s", plain, without, ratio_at_most=over_none
    )
    yield Figure(
        f"kernels of a {what}", "seen", "wanted", "", [float(seen.number)], [float(ground.kernels)], ratio_at_most=1.0
    )
    if ground.device == "cuda":
        yield Figure(
            f"peak of a {what}", "peak", "plan", "bytes", [float(highest)], [float(on_device(config))],
            ratio_at_most=OVER_PLAN,
        )  # fmt: skip
    return plain


def _compiled(ground: Ground, config: TrainConfig, what: str, plain: list[float]) -> Figure:
    """A compiled step beside the plain one."""
    if missing := missing_compiler(torch.device(ground.device)):
        return Figure.without(f"{what}, compiled", f"left out: {missing} was not found")
    with opened(replace(config, compile="true")) as session:
        began = time.perf_counter()
        for _ in range(2):
            update(session)
        waited = time.perf_counter() - began
        fill(session)
        compiled = _seconds_of_step(session, ground)
    return Figure(
        f"{what}, compiled", "compiled", "not compiled", "s", compiled, plain, ratio_at_most=1.0,
        note=f"the first two steps took {waited:.0f} s",
    )  # fmt: skip


def _seconds_of_step(session: Session, ground: Ground) -> list[float]:
    return seconds_of(lambda: update(session, gauges_wanted=False), replace(ground, repeats=3))


def waits(ground: Ground) -> Iterator[Figure]:
    """How often the host waits for the device in a step: once, for its numbers."""
    cases = {
        "knn": (("arch=knn", "mem=1024"), 1),
        "knn, Adafactor": (("arch=knn", "mem=1024", "optim=adafactor"), 1),
        "rmt": (("arch=rmt",), 1),
        "vanilla, adaptive softmax": (
            ("arch=vanilla", "size.cutoffs=[10,20]", "size.narrowing=2", "data.tokenizer.kind=lines"),
            1,
        ),
    }
    for name, (words, wanted) in cases.items():
        with opened(settings(ground, *ground.small, *words, "data.max_document=0")) as session:
            for _ in range(2):
                update(session)
            seen = waits_of(lambda session=session: update(session, gauges_wanted=False), ground.device)  # type: ignore[misc]
        yield Figure(
            f"waits of the host in a step of {name}", "seen", "wanted", "", [float(seen.total())], [float(wanted)],
            ratio_at_most=1.0, note=", ".join(f"{count} x {place}" for place, count in seen.most_common(5)),
        )  # fmt: skip


def checkpoint(ground: Ground) -> Iterator[Figure]:
    """Save and resume with the largest memory: what both hold beside the session, and whether the next step is the same."""
    config = _that_can_be_saved(ground)
    what = f"{ground.slots[-1]:,} slots"
    if config is None:
        yield Figure.without(
            f"checkpoint of {what}", "left out: one lane fits into too little of the device, the host or the disk"
        )
        return
    what += f", {config.lanes} lanes"
    with folder_for(config) as spec:
        torch.manual_seed(config.seed)
        session = open_session(spec)
        update(session)
        fill(session)
        update(session)
        held = restart_peak(ground.device)
        state = float(state_bytes(session.state))
        began = time.perf_counter()
        save_session(session)
        waited = time.perf_counter() - began
        session.saving.finish()
        saving = time.perf_counter() - began
        extra = peak(ground.device) - held
        yield Figure(
            f"a checkpoint of {what}", "held beside the run", "tolerated", "bytes", [float(extra)], [float(SPARE)],
            ratio_at_most=1.0, note=f"{saving:.1f} s for a state of {state / 1e9:.1f} GB, of which training waits {waited:.1f} s",
        )  # fmt: skip
        stored = _prints(session)
        expected = update(session).loss
        del session
        gc.collect()
        before = restart_peak(ground.device)
        began = time.perf_counter()
        session = open_session(spec)
        resuming = time.perf_counter() - began
        extra = peak(ground.device) - (held if ground.device == "cuda" else before)
        yield Figure(
            f"a resume with {what}", "held beside the run", "tolerated", "bytes", [float(max(extra, 0))], [float(SPARE)],
            ratio_at_most=1.0, note=f"{resuming:.1f} s",
        )  # fmt: skip
        changed = max((abs(a - b) for a, b in zip(stored, _prints(session), strict=True)), default=0.0)
        yield difference(f"memory after a resume with {what}", changed, 1e-9, "the one that was saved")
        distance = abs(update(session).loss - expected) / abs(expected)
        yield difference(f"loss after a resume with {what}", distance, CONTINUED, "the run that went on")


def _that_can_be_saved(ground: Ground) -> TrainConfig | None:
    """Settings with as many lanes as the device, the host and the disk for temporary files have room for."""
    room = min(ground.saved, memory_bytes() // 4, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    config = with_lanes_that_fit(_knn(ground, ground.slots[-1]), ground)
    while config is not None and _planned_state(config) > room:
        config = replace(config, lanes=config.lanes // 2) if config.lanes > 1 else None
    return config


def _planned_state(config: TrainConfig) -> int:
    """Bytes of what a checkpoint keeps."""
    kept = [item for item in items(config, vocabulary=vocabulary_of(config)) if item.lasting]
    return sum(item.bytes for item in kept if item.what != "gradients")


def _prints(session: Session) -> list[float]:
    """Sums over each lane of the memories of pairs, from which a lost or moved number is seen."""
    rings = (part for part in session.state.memory if isinstance(part, Ring))
    return [
        float((lane.float() * torch.arange(1, lane.shape[-1] + 1, device=lane.device)).sum(dtype=torch.float64))
        for ring in rings
        for kept in (ring.keys_BHRK, ring.values_BHRK)
        for lane in kept
    ]


def jobs(ground: Ground) -> Iterator[Figure]:
    """Several small runs on the device at the same time, beside one after another: the same losses, in no more time."""
    alone = _together(ground, 1)
    together = _together(ground, ground.jobs)
    losses = [abs(loss - alone[0][1]) / abs(alone[0][1]) for _, loss in together]
    yield difference(
        f"losses of {ground.jobs} jobs on one device", max(losses, key=_nan_first), CONTINUED, "a job alone"
    )
    yield Figure(
        f"{ground.jobs} jobs of {JOB_STEPS} steps on one device", "together", "one after another", "s",
        [max(seconds for seconds, _ in together)], [ground.jobs * alone[0][0]], ratio_at_most=1.0,
    )  # fmt: skip


def _nan_first(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _together(ground: Ground, number: int) -> list[tuple[float, float]]:
    """Seconds and the last loss of each of the jobs, which start their steps together.

    Raises:
        RuntimeError: one of them failed.
    """
    context = get_context("spawn")
    barrier = context.Barrier(number)
    pipes = [context.Pipe(duplex=False) for _ in range(number)]
    processes = [context.Process(target=_job, args=(ground, barrier, send)) for _, send in pipes]
    for process in processes:
        process.start()
    for _, send in pipes:
        send.close()
    try:
        return [_answer(receive) for receive, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _answer(receive: Any) -> tuple[float, float]:
    try:
        seconds, loss = receive.recv()
    except EOFError as error:
        raise RuntimeError("a job ended before its last step") from error
    return seconds, loss


def _job(ground: Ground, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    words = (*ground.small, "arch=knn", "mem=1024", "data.max_document=0")
    with opened(settings(ground, *words)) as session:
        for _ in range(3):
            update(session)
        barrier.wait(START_SECONDS)
        began = time.perf_counter()
        for _ in range(JOB_STEPS):
            loss = update(session, gauges_wanted=False).loss
        results.send((time.perf_counter() - began, loss))
