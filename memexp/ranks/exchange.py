"""What the processes of a run tell each other: sums over lanes, decisions, gradients. In one process all of it is the identity.

Each process has its share of the lanes, and their state never leaves it. A loss is a sum over own lanes divided by a count of
all lanes, so that gradients are summed and never averaged. What a model itself adds up over lanes for a loss, it adds up
with `total`. All processes call the functions here in the same order.

Shapes: B lanes of this process, R processes, N numbers.
"""

import os
import platform
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memexp.errors import UserError
from memexp.ranks.place import LISTENING, Place, seconds_of, share
from memexp.terminal import escape

Result = TypeVar("Result")

BUCKET_BYTES = 32 << 20
"""Gradients are sent in pieces of at most about this size, so that one is packed while another is on its way."""
AT_ONCE = 4
"""How many pieces are on their way at once; each is a copy, which takes memory."""

JOIN_SECONDS = "MEMEXP_JOIN_SECONDS"
"""Environment variable: how long the processes of a run wait for each other to come; default: `PATIENCE`."""
PATIENCE = 600
"""Seconds; on a cluster, machines may start minutes apart."""

SLICE_SECONDS = 5.0
"""Waiting in PyTorch's C++ code, a process hears no signal, so it waits at most so long at a time."""

LONGEST = timedelta(days=7)
"""How long one process may wait for another that is alive, such as the first one that prepares a corpus. Those that are not
are noticed otherwise (`memexp.ranks.watch`)."""


SPEAKING = timedelta(seconds=60)
"""How long a process waits for the one that has to say why all of them end."""


class SaidByFirst(Exception):
    """The first process has raised the error that this one also ends by, and says it."""


class SaidByAnother(Exception):
    """Another process has raised an error, and says it; this one ends too."""


class _Joined:
    """What this process knows of the others; nothing in one process."""

    store: dist.Store | None = None
    place: Place | None = None
    apart: dist.ProcessGroup | None = None
    """Connections beside those of the main thread."""
    on_this_machine = 1
    """How many of the processes are on this machine."""
    summing = False
    """Whether all processes take the same steps now, so that `total` may wait for the others."""


_joined = _Joined()


def ranks() -> int:
    """How many processes share the lanes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, counted from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def is_first() -> bool:
    """Whether this process prints, tracks and writes."""
    return rank() == 0


def own(count: int) -> slice:
    """Which of `count` lanes this process has."""
    return share(count, rank(), ranks())


def join(place: Place, *, on_gpu: bool) -> None:
    """Meet the other processes.

    Args:
        on_gpu: whether tensors are on GPUs: then this process takes one of them.

    Raises:
        UserError: some of them do not come.
    """
    if on_gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("group", _meet(place)),
        rank=place.rank,
        world_size=place.ranks,
        timeout=LONGEST,
    )
    _joined.apart = dist.new_group(backend="gloo", timeout=LONGEST)
    _joined.on_this_machine = told(platform.node()).count(platform.node())


def on_this_machine() -> int:
    """How many of the processes share this machine."""
    return _joined.on_this_machine


def _meet(place: Place) -> dist.Store:
    """A store of short texts that all processes share, once all of them are there."""
    _refuse_unknown(place)
    seconds = seconds_of(JOIN_SECONDS, PATIENCE)
    until = time.monotonic() + seconds
    listening = os.environ.get(LISTENING)
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has one already
    listens = place.rank == 0 and not theirs
    try:
        store = _patiently(
            lambda slice: dist.TCPStore(
                place.host,
                place.port,
                is_master=listens,
                timeout=slice,
                wait_for_workers=False,
                master_listen_fd=int(listening) if listening and place.rank == 0 else None,
            ),
            0.0 if listens else until,  # if it cannot listen, it will not later
        )
    except RuntimeError as error:  # DistNetworkError and its like
        if listens:
            raise UserError(
                f"port {place.port} of this machine cannot be opened; expected one where {place.ranks} processes can meet. Likely cause: "
                "another program uses it; MASTER_PORT=N, given to all processes, takes another one"
            ) from error
        raise UserError(
            f"no answer from {place.host}, port {place.port}, in {seconds:.0f} s; expected rank 0 of {place.ranks} processes there. "
            "Likely cause: it has ended, or a firewall is between the machines"
        ) from error
    meeting = dist.PrefixStore(_prefix(), store)
    _joined.store, _joined.place = meeting, place
    meeting.set(f"here {place.rank}", "")
    for other in range(place.ranks):
        try:
            _patiently(partial(meeting.wait, [f"here {other}"]), until)
        except RuntimeError as error:
            away = [number for number in range(place.ranks) if not meeting.check([f"here {number}"])]
            raise UserError(
                f"of {place.ranks} processes only {place.ranks - len(away)} came in {seconds:.0f} s; expected all. Missing: rank "
                f"{', '.join(map(str, away))}. Likely cause: they were not started, or could not start; {JOIN_SECONDS}=N waits N seconds"
            ) from error
    meeting.set_timeout(LONGEST)
    return meeting


def _refuse_unknown(place: Place) -> None:
    """Refuse a name of the first machine that no waiting makes known."""
    try:
        socket.getaddrinfo(place.host, place.port)
    except (socket.gaierror, UnicodeError) as error:
        if isinstance(error, UnicodeError) or error.errno == socket.EAI_NONAME:
            raise UserError(
                f"no machine is known here as {escape(place.host)}, where rank 0 of {place.ranks} processes should be; expected a name or an "
                "address. Likely cause: it is misspelt, or Slurm has names of its own for machines; MASTER_ADDR=ADDRESS gives another one"
            ) from error


def _patiently(ask: Callable[[timedelta], Result], until: float) -> Result:
    """What `ask` finds in a time that it is given, asked again and again: in between, this process hears that it should end.

    Args:
        until: the time of `time.monotonic` after which its error counts.
    """
    while True:
        left = until - time.monotonic()
        try:
            return ask(timedelta(seconds=min(SLICE_SECONDS, left) if left > 0 else SLICE_SECONDS))
        except RuntimeError:
            if left <= SLICE_SECONDS:
                raise


def _prefix() -> str:
    """Of all keys, so that processes which torchrun has started again do not read those of the ones before."""
    return f"memexp {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def client(timeout: timedelta) -> dist.Store:
    """A connection to the store, for another thread: one connection answers one question at a time."""
    assert _joined.place is not None
    store = dist.TCPStore(_joined.place.host, _joined.place.port, is_master=False, timeout=timeout)
    return dist.PrefixStore(_prefix(), store)


def leave() -> None:
    """Take leave of the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _joined.store, _joined.apart, _joined.on_this_machine = None, None, 1


def speaks() -> bool:
    """Whether this process is the first of all that asks this: it says why all of them end, the others are silent."""
    if _joined.store is None:
        return True
    try:
        return _joined.store.add("speaks", 1) == 1
    except RuntimeError:  # the store was that of a process that has ended, and has said why
        return False


def until_said() -> None:
    """Wait until another process begins to say why all of them end: for that it needs the store, which is in the first one."""
    if _joined.store is not None:
        with suppress(RuntimeError):  # then nobody says it in this time
            _joined.store.wait(["speaks"], SPEAKING)


@contextmanager
def summing() -> Iterator[None]:
    """All processes do the same inside, in the same order, so `total` and `of_all_lanes` read the lanes of all.

    Outside, as in evaluation, where processes read different numbers of segments, these are the identity.
    """
    before, _joined.summing = _joined.summing, ranks() > 1
    try:
        yield
    finally:
        _joined.summing = before


def total(x: Tensor) -> Tensor:
    """The sum over all processes, whose gradient is summed as well.

    A loss that is made of it is the same in every process, so each adds 1 / `ranks()` of it to what it differentiates.
    """
    if not _joined.summing:
        return x
    summed: Tensor = _Total.apply(x)
    return summed


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    result = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result)
    return result


def of_all_lanes(x: Tensor) -> Tensor:
    """The rows of all lanes, in order, of a tensor that has a row for each lane of this process; gradients go back to their lane."""
    if not _joined.summing:
        return x
    gathered: Tensor = _OfAllLanes.apply(x)
    return gathered


class _OfAllLanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.lanes = len(x)
        return torch.cat(list(gathered(x.detach())))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        first = rank() * ctx.lanes
        return _summed(gradient)[first : first + ctx.lanes]


def of_own_lanes(x: Tensor) -> Tensor:
    """The rows of the lanes of this process, of a tensor that has a row for each of all lanes."""
    return x[own(len(x))] if _joined.summing else x


def gathered(x: Tensor) -> Tensor:
    """The tensors of all processes, which have the same shape; the first axis is the process."""
    if ranks() == 1:
        return x[None]
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks())]
    dist.all_gather(found, x.contiguous())
    return torch.stack(found)


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradients by their sums over all processes; a parameter that has none anywhere keeps none."""
    if ranks() == 1:
        return
    there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    dist.all_reduce(there, dist.ReduceOp.MAX)
    gradients = []
    for parameter, anywhere in zip(parameters, there.tolist(), strict=True):
        if anywhere:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    sent: deque[tuple[list[Tensor], Tensor, dist.Work]] = deque()
    for bucket in _buckets(gradients):
        if len(sent) == AT_ONCE:
            _take_sum(*sent.popleft())
        alone = len(bucket) == 1 and bucket[0].is_contiguous()
        flat = bucket[0] if alone else torch.cat([each.flatten() for each in bucket])
        sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for each in sent:
        _take_sum(*each)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in lists of one type that are sent together; a large one is alone."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        size = sum(each.nbytes for each in bucket) + gradient.nbytes
        if bucket and (size > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _take_sum(bucket: list[Tensor], flat: Tensor, work: dist.Work) -> None:
    """Wait for a sum, and copy it to the gradients if it is not already there."""
    work.wait()
    if flat is not bucket[0]:
        parts = flat.split([each.numel() for each in bucket])
        torch._foreach_copy_(bucket, [part.view_as(each) for part, each in zip(parts, bucket, strict=True)])


def first(do: Callable[[], Result], *, apart: bool = False) -> Result:
    """What the first process finds, told to all.

    Args:
        apart: as `told` takes it.

    Raises:
        SaidByFirst: in the other processes, if the first raised an error.
    """
    if ranks() == 1:
        return do()
    box: list[Any] = [None]
    if is_first():
        try:
            box = [(do(), True)]
        except Exception:
            _broadcast([(None, False)], apart=apart)
            raise
    _broadcast(box, apart=apart)
    value, done = box[0]
    if not done:
        raise SaidByFirst
    result: Result = value
    return result


def _broadcast(box: list[Any], *, apart: bool) -> None:
    dist.broadcast_object_list(box, src=0, group=_group(apart=apart), device=torch.device("cpu"))


def _group(*, apart: bool) -> dist.ProcessGroup | None:
    return _joined.apart if apart else None


def everywhere(do: Callable[[], None], *, apart: bool = False) -> None:
    """Every process does this; afterwards all have done it.

    Args:
        apart: as `told` takes it.

    Raises:
        SaidByAnother: in the processes that raised no error, if another did.
    """
    failed = True
    try:
        do()
        failed = False
    finally:
        others = told(failed, apart=apart)
    if any(others):
        raise SaidByAnother


def agreed(error: Exception) -> Exception:
    """What each process has to raise for an error that all of them see: the first one says it."""
    return error if is_first() else SaidByFirst()


def told(value: Any, *, apart: bool = False) -> list[Any]:
    """What every process says, by rank.

    Args:
        apart: whether this is said over other connections than those of the main thread, whose order is another one. Then all
            processes call the functions of this file that they call so in the same order.
    """
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, value, group=_group(apart=apart))
    return found


def wait() -> None:
    """Until all processes are here."""
    told(None)
