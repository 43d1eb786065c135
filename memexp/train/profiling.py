"""What a training step spends its time on: a few steps under PyTorch's profiler, summed by the parts that the code names.

Times are of the device: what its kernels took on a GPU, else what the processor took. An operation of the forward pass
counts as the innermost part around it; one of the backward pass as the part of the operation that it is the gradient of.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memexp.files import write_atomically, write_json, write_text
from memexp.regions import MARK, marked, part
from memexp.train.loop import Update, commit, update
from memexp.train.session import Session, open_session
from memexp.train.spec import RunSpec

STEPS = 3
"""Measured without the profiler, and as many under it."""
FILL_SECONDS = 60.0
"""At most, to fill the memory before that."""

PARTS = {
    "search": "search", "top-k": "top-k", "gather": "gather", "attention": "attention", "feed-forward": "feed-forward",
    "layers": "other layers", "head": "head and loss", "backward": "other gradients", "optimizer": "optimizer",
    "data": "data", "step": "rest",
}  # fmt: skip
"""The names that `memexp.regions.part` is given in this package, and what people read; another name is shown as it is."""

ENGINE = "autograd::engine::evaluate_function: "
"""What the name of each operation of a backward pass begins with."""


class Share(NamedTuple):
    """What a part takes of a step, in seconds."""

    part: str
    forward: float
    backward: float


class _Measured(NamedTuple):
    shares: list[Share]
    seconds: float
    """Of a step."""
    memory_fill: float | None
    """Mean of the steps, each where it ended."""


def profile(spec: RunSpec, *, command: str) -> str:
    """Measure steps of a run, and write what they take below `results/profiles`; gives the page that was written.

    They are the steps after the run's newest checkpoint, or after its start; nothing of them is kept, and the run's folder
    is not touched. Before them the lanes read on without training until the memory is as full as it gets, for an empty
    one costs nothing.

    Raises:
        UserError: as for training.
    """
    config = spec.config
    if config.threads:
        torch.set_num_threads(config.threads)
    session = open_session(spec)
    for note in session.notes:
        print(note)
    _fill(session)
    folder = spec.root / "results" / "profiles" / spec.run.name
    update(session)
    plain = [_timed(session) for _ in range(STEPS)]
    tokens_before = session.tokens
    measured = _profiled(session, folder / "trace.json")
    document = {
        "run": spec.run.name,
        "after_step": session.step - 2 * STEPS,
        "steps": STEPS,
        "seconds_a_step": median(plain),
        "seconds_a_step_profiled": measured.seconds,
        "tokens_a_step": (session.tokens - tokens_before) / STEPS,
        "memory_fill": measured.memory_fill,
        "parts": [share._asdict() for share in measured.shares],
        "precision": config.precision,
        "compile": config.compile,
        "recompute": config.recompute,
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
        "command": command,
    }
    page = _page(document, measured.shares)
    write_json(folder / "profile.json", document)
    write_text(folder / "profile.md", page)
    return f"{page}\n{folder}"


@torch.no_grad()
def _fill(session: Session) -> None:
    """Read until the memory is full, or as full as it gets where documents end before that."""
    session.model.train()
    begun_B = torch.zeros(session.spec.config.lanes, dtype=torch.long, device=session.device)
    highest, end = 0.0, time.monotonic() + FILL_SECONDS
    while time.monotonic() < end:
        for batch in session.lanes.take().batches:
            output, _ = session.read(batch, session.state)
            session.state = output.state
            begun_B += batch.reset_B
        fill = _memory_fill(output.gauges)
        highest = max(highest, fill or 0.0)
        if fill is None or fill == 1 or (begun_B.min() > 1 and fill > 0.9 * highest):
            return


def _memory_fill(gauges: dict[str, Tensor]) -> float | None:
    """That of the fullest memory; None without one."""
    return max((float(value) for name, value in gauges.items() if name.startswith("memory_fill")), default=None)


def _timed(session: Session) -> float:
    began = time.perf_counter()
    update(session)  # ends with a transfer from the device
    return time.perf_counter() - began


def _profiled(session: Session, trace: Path) -> _Measured:
    """Steps under the profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if session.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it says on the terminal that it begins and ends
    updates: list[Update] = []
    with marked(), torch.profiler.profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(STEPS):
            with part("step"):
                updates.append(update(session))
        seconds = time.perf_counter() - began
    _export(profiler, trace)
    fills = [fill for each in updates if (fill := _memory_fill(each.gauges)) is not None]
    return _Measured(
        shares(profiler.events(), seconds, on_device=session.device.type == "cuda"),
        seconds / STEPS,
        sum(fills) / len(fills) if fills else None,
    )


def _export(profiler: torch.profiler.profile, trace: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / trace.name
        profiler.export_chrome_trace(str(path))
        write_atomically(trace, path.read_bytes())


def shares(events: Iterable[Any], seconds: float, *, on_device: bool) -> list[Share]:
    """What each part takes of a step; together they are a step.

    Args:
        events: of `STEPS` steps, as a profiler gives them.
        seconds: how long they were altogether.
        on_device: sum what kernels took; the rest is then the time in which the device had nothing to do.
    """
    found = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    # Every operation has the number of the gradient's node that is made next, so the last that has one has made it.
    makers = {
        (event.thread, event.sequence_nr): event for event in found if event.sequence_nr >= 0 and not event.fwd_thread
    }
    took: dict[tuple[str, bool], float] = defaultdict(float)
    for event in found:
        microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
        took[_part_of(event, makers)] += microseconds / 1e6
    rest = seconds - sum(took.values())
    took["step", False] += rest
    unknown = sorted({name for name, _ in took} - PARTS.keys())
    names = [*(name for name in PARTS if name != "step"), *unknown, "step"]
    return [
        Share(PARTS.get(name, name), took[name, False] / STEPS, took[name, True] / STEPS)
        for name in names
        if took[name, False] or took[name, True]
    ]


def _part_of(event: Any, makers: dict[tuple[int, int], Any]) -> tuple[str, bool]:
    """The part that an operation belongs to, and whether it belongs to its backward pass."""
    each = event
    while each is not None and not each.name.startswith((MARK, ENGINE)):
        each = each.cpu_parent
    if each is None:
        return "step", False
    if each.name.startswith(MARK):
        # segments that are computed again have the marks of the forward pass inside those of the backward pass
        return each.name.removeprefix(MARK), _in_backward(each)
    maker = makers.get((each.fwd_thread, each.sequence_nr))
    name = "backward" if maker is None else _part_of(maker, {})[0]
    return (name if name != "step" else "backward"), True


def _in_backward(event: Any) -> bool:
    while event is not None:
        if event.name.startswith(ENGINE) or event.name == f"{MARK}backward":
            return True
        event = event.cpu_parent
    return False


def _page(document: dict[str, Any], found: list[Share]) -> str:
    """The summary as Markdown that reads as plain text."""
    step = sum(share.forward + share.backward for share in found)
    rows = [
        (
            share.part,
            _milliseconds(share.forward),
            _milliseconds(share.backward),
            f"{(share.forward + share.backward) / step:.1%}",
        )
        for share in found
    ]
    fill = "" if document["memory_fill"] is None else f", memory {document['memory_fill']:.0%} full"
    return "\n".join(
        [
            f"# {document['run']}",
            "",
            f"A step takes {document['seconds_a_step']:.3g} s, {document['tokens_a_step'] / document['seconds_a_step']:,.0f} "
            f"tokens/s ({document['seconds_a_step_profiled']:.3g} s under the profiler); {document['device']}, "
            f"{document['threads']} threads, {document['precision']}{', compiled' if document['compile'] else ''}, torch "
            f"{document['torch']}; after step {document['after_step']}{fill}.",
            "",
            f"| {'part':<15} | {'forward, ms':>11} | {'backward, ms':>12} | {'share':>6} |",
            f"| {'-' * 15} | {'-' * 10}: | {'-' * 11}: | {'-' * 5}: |",
            *(
                f"| {name:<15} | {forward:>11} | {backward:>12} | {share:>6} |"
                for name, forward, backward, share in rows
            ),
            "",
        ]
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}" if seconds else ""
