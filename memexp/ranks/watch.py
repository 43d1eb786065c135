"""Whether the other processes live: each gives a sign of life every second, and all end if one gives none for long.

A process that was killed closes its connections, which the others notice at once. One that was stopped, or whose machine hangs,
does not: the others would wait for it in their next sum.
"""

import os
import threading
from datetime import timedelta

import torch.distributed as dist

from memexp.ranks.exchange import client, rank, ranks
from memexp.ranks.place import LOST, seconds_of
from memexp.terminal import same_command

BEAT_SECONDS = 1.0

SILENT_SECONDS = "MEMEXP_SILENT_SECONDS"
"""Environment variable: after how many seconds without a sign of life a process counts as lost; default: `PATIENCE`."""
PATIENCE = 30.0

ENDING_SECONDS = 5.0
"""How long the main thread may take to notice itself that the first process has ended."""

_ending = threading.Event()
_threads: list[threading.Thread] = []


def begin() -> None:
    """Watch the others from now on, until `end`; in one process, or if this was called before, do nothing."""
    if ranks() == 1 or _threads:
        return
    patience = seconds_of(SILENT_SECONDS, PATIENCE)
    others = range(1, ranks()) if rank() == 0 else (0,)  # the first process watches all others, and these watch it
    quiet = dict.fromkeys(others, 0)
    store = client(timedelta(seconds=patience))
    # Two threads, because a question to the first process gets no answer while it is stopped.
    _threads.append(threading.Thread(target=_listen, args=(store, quiet), daemon=True))
    _threads.append(threading.Thread(target=_watch, args=(store, quiet, patience), daemon=True))
    for thread in _threads:
        thread.start()


def end() -> None:
    """Watch no longer, because this process is done or has failed.

    The threads end first: one that returns from PyTorch's C++ code while Python itself ends would abort the process.
    """
    _ending.set()
    for thread in _threads:
        thread.join(ENDING_SECONDS)  # a question to a process that is stopped gets no answer


def _listen(store: dist.Store, quiet: dict[int, int]) -> None:
    """Give signs of life, and note those of the others."""
    last = dict.fromkeys(quiet, 0)
    while not _ending.wait(BEAT_SECONDS):
        try:
            store.add(f"beat {rank()}", 1)
            for other in quiet:
                if (beat := store.add(f"beat {other}", 0)) != last[other]:
                    last[other], quiet[other] = beat, 0
        except RuntimeError:
            # The store is in the first process, which has ended. The main thread notices it, unless it waits for a GPU.
            if not _ending.wait(ENDING_SECONDS):
                os._exit(LOST)
            return


def _watch(store: dist.Store, quiet: dict[int, int], patience: float) -> None:
    """Count how long each of the others has been quiet, in seconds that this process lived through itself."""
    while not _ending.wait(BEAT_SECONDS):
        for other in quiet:
            quiet[other] += 1
            if quiet[other] * BEAT_SECONDS > patience and not _ending.is_set():
                _leave(other, patience, says=rank() == 1 or (rank() == 0 and store.add("speaks", 1) == 1))


def _leave(other: int, patience: float, *, says: bool) -> None:
    if says:
        os.write(
            2,
            f"memexp: no sign of life from rank {other} of {ranks()} processes in {patience:g} s; expected one every second. Likely "
            f"cause: it was stopped, or its machine hangs; {same_command()} continues from the newest checkpoint\n".encode(),
        )
    os._exit(1 if says else LOST)
