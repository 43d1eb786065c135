"""The processes of a run on this machine: this very command once more for each device, until all have ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from memexp.launch.processes import import_path
from memexp.machine import PARENT, cores
from memexp.ranks.place import LISTENING, LOST
from memexp.terminal import same_command, typed_words
from memexp.train.interrupt import STOPS

POLL_SECONDS = 0.05
ENDING_SECONDS = 5.0
"""How long the others may take to end after one has failed; then they are killed."""
SAVING_SECONDS = 600.0
"""How long they may take after one has saved and ended because it was asked to."""

Worker = subprocess.Popen[bytes]


def run_workers(count: int, *, name: str) -> int:
    """Run this command in `count` processes and wait for all of them.

    Each has a session of its own, so that Ctrl-C in the terminal reaches it once, through this process.

    Args:
        name: of the command, for the line that is printed if a process was killed.

    Returns:
        The exit code of the first process that failed, which has said why; 0 if none did.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=count) as meeting:
        workers = [_start(rank, count, meeting) for rank in range(count)]
    with _handing_signals_on(workers):
        try:
            failed = _first_to_fail(workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    if failed is None:
        return 0
    code = workers[failed].returncode
    if code < 0:
        print(
            f"{name}: rank {failed} of {count} processes was killed by {signal.Signals(-code).name}"
            f"{' (out of memory?)' if code == -signal.SIGKILL else ''}, so the others ended too; {same_command()} continues from the "
            "newest checkpoint",
            file=sys.stderr,
        )
        return 128 - code
    if code == LOST:
        print(
            f"{name}: the processes lost each other; {same_command()} continues from the newest checkpoint",
            file=sys.stderr,
        )
    return code


def _start(rank: int, ranks: int, meeting: socket.socket) -> Worker:
    environment = os.environ | {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(meeting.getsockname()[1]), LISTENING: str(meeting.fileno()), PARENT: str(os.getpid()),
        "PYTHONPATH": import_path(),
    }  # fmt: skip
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ranks)))
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's name may lead nowhere
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "memexp", *typed_words()],
        stdin=subprocess.DEVNULL,
        env=environment,
        pass_fds=[meeting.fileno()] if rank == 0 else [],
        start_new_session=True,
    )


def _first_to_fail(workers: Sequence[Worker]) -> int | None:
    """The rank of the process that failed first, once all have ended or have had the time to; None if all are done.

    A process that only lost the others counts only if no other has failed.
    """
    failed: int | None = None
    until = float("inf")
    while True:
        ended = {rank: worker.poll() for rank, worker in enumerate(workers)}
        wrong = [rank for rank, code in ended.items() if code]
        if wrong and until == float("inf"):
            asked = ended[wrong[0]] in [128 + number for number in STOPS]
            until = time.monotonic() + (SAVING_SECONDS if asked else ENDING_SECONDS)
        if failed is None or workers[failed].returncode == LOST:
            failed = next((rank for rank in wrong if ended[rank] != LOST), wrong[0] if wrong else None)
        if None not in ended.values() or time.monotonic() > until:
            return failed
        time.sleep(POLL_SECONDS)


@contextmanager
def _handing_signals_on(workers: Sequence[Worker]) -> Iterator[None]:
    """Send the signals that this process gets to all; a signal that is ignored stays ignored, as nohup intends."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            worker.send_signal(number)

    handled = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
