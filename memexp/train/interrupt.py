"""Stopping a run at the end of a step after Ctrl-C, SIGTERM or the loss of the terminal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A run was asked to stop by the signal `signal_number`, and has saved a checkpoint."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """The signal that asked the run to stop; None until one arrives."""

    signal_number: int | None = None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Record the first SIGINT, SIGTERM or SIGHUP instead of ending the process; the second signal ends it."""
    request = StopRequest()
    # a signal that is already ignored stays ignored, as nohup intends
    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for caught, handler in before.items():
            signal.signal(caught, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
