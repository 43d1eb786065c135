"""Where a training step spends its time: a few steps under PyTorch's profiler, summed by the parts named in the code.

Times are those of the device: of its kernels on a GPU, else of the processor. An operation of the forward pass counts for
the innermost part around it. An operation of the backward pass counts for the part of its forward operation.
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

from memexp.device import describe
from memexp.files import write_atomically, write_json, write_text
from memexp.machine import commit
from memexp.model.watching import Gauges, is_fill
from memexp.regions import MARK, marked, part
from memexp.terminal import tell
from memexp.train.compilation import is_compiled
from memexp.train.loop import Update, update
from memexp.train.session import Session, open_session
from memexp.train.spec import RunSpec

STEPS = 3
"""Steps measured without the profiler, and again with it."""
FILL_SECONDS = 60.0
"""The most time spent on filling the memory before that."""

PARTS = {
    "search": "search", "top-k": "top-k", "gather": "gather", "attention": "attention", "feed-forward": "feed-forward",
    "layers": "other layers", "head": "head and loss", "backward": "other gradients", "optimizer": "optimizer",
    "data": "data", "step": "rest",
}  # fmt: skip
"""Names passed to `memexp.regions.part` in this package, and the words shown for them; other names are shown unchanged."""

ENGINE = "autograd::engine::evaluate_function: "
"""The prefix of the names of all operations of a backward pass."""


class Share(NamedTuple):
    """The time of a part per step, in seconds."""

    part: str
    forward: float
    backward: float


class _Measured(NamedTuple):
    shares: list[Share]
    seconds: float
    """Per step."""
    memory_fill: float | None
    """Mean over the steps, each measured at its end."""


def profile(spec: RunSpec, *, command: str) -> str:
    """Measure a few steps of a run, write the result to `results/profiles`, and return the page as text.

    The steps start from the run's newest checkpoint, or from its start. They are not saved, and the run folder is not
    changed. Before them, segments are read without training until the memory is as full as it gets, because searching an
    empty memory costs nothing.

    Raises:
        UserError: as for training.
    """
    config = spec.config
    if config.threads:
        torch.set_num_threads(config.threads)
    session = open_session(spec)
    tell(session.notes)
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
        "compile": is_compiled(session.model),
        "recompute": config.recompute,
        "device": str(session.device),
        "hardware": describe(session.device, asked=session.spec.config.device).record,
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
    """Read until the memory is full, or as full as it gets if documents are too short."""
    session.model.train()
    begun_B = torch.zeros(session.spec.config.lanes, dtype=torch.long, device=session.device)
    highest, end = 0.0, time.monotonic() + FILL_SECONDS
    while time.monotonic() < end:
        for batch in session.lanes.take().batches:
            output, _ = session.read(batch, session.state, watch=False)
            session.state = output.state
            begun_B += batch.reset_B
        fill = _memory_fill(output.gauges)
        highest = max(highest, fill or 0.0)
        if fill is None or fill == 1 or (begun_B.min() > 1 and fill > 0.9 * highest):
            return


def _memory_fill(gauges: Gauges) -> float | None:
    """The fill of the fullest memory; None without memory."""
    return max((float(value) for name, value in gauges.items() if is_fill(name)), default=None)


def _timed(session: Session) -> float:
    began = time.perf_counter()
    update(session, gauges_wanted=False)  # waits for the device at its end
    return time.perf_counter() - began


def _profiled(session: Session, trace: Path) -> _Measured:
    """Run steps under the profiler and write its trace."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if session.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints lines of its own
    updates: list[Update] = []
    with marked(), torch.profiler.profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(STEPS):
            with part("step"):
                updates.append(update(session, gauges_wanted=False))
        seconds = time.perf_counter() - began
    _export(profiler, trace)
    fills = [fill for step in updates if (fill := _memory_fill(step.gauges)) is not None]
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
    """The time of each part per step; together the parts are a whole step.

    Args:
        events: the profiler's events of `STEPS` steps.
        seconds: the duration of all these steps together.
        on_device: sum the time of kernels; the part "rest" is then the time in which the device was idle.
    """
    on_cpu = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    # An operation carries the number of the autograd node that is created next, so the last operation with a number created it.
    makers = {
        (event.thread, event.sequence_nr): event for event in on_cpu if event.sequence_nr >= 0 and not event.fwd_thread
    }
    took: dict[tuple[str, bool], float] = defaultdict(float)
    for event in on_cpu:
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
    outer = event
    while outer is not None and not outer.name.startswith((MARK, ENGINE)):
        outer = outer.cpu_parent
    if outer is None:
        return "step", False
    if outer.name.startswith(MARK):
        # recomputed segments have the marks of the forward pass inside those of the backward pass
        return outer.name.removeprefix(MARK), _in_backward(outer)
    maker = makers.get((outer.fwd_thread, outer.sequence_nr))
    name = "backward" if maker is None else _part_of(maker, {})[0]
    return (name if name != "step" else "backward"), True


def _in_backward(event: Any) -> bool:
    while event is not None:
        if event.name.startswith(ENGINE) or event.name == f"{MARK}backward":
            return True
        event = event.cpu_parent
    return False


def _page(document: dict[str, Any], parts: list[Share]) -> str:
    """The summary as Markdown that is also readable as plain text."""
    step = sum(share.forward + share.backward for share in parts)
    rows = [
        (
            share.part,
            _milliseconds(share.forward),
            _milliseconds(share.backward),
            f"{(share.forward + share.backward) / step:.1%}",
        )
        for share in parts
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
