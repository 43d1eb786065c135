"""What SIGINT, SIGTERM, SIGHUP and SIGUSR2 do: end a command with one line, or a run at the end of a step."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A run was asked to stop by the signal `signal_number`, and has saved a checkpoint."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Stopped(KeyboardInterrupt):
    """The signal `signal_number` ends this command."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that mean: save and end. Schedulers send the last one some time before a job's time is over; the exit code, 128 and the
signal's number, then tells a batch script to put the job into the queue again."""

GRACE_SECONDS = 2.0
"""How long a step may go on after a second signal, before the process ends in the middle of it."""


class StopRequest:
    """The signal that asked the run to stop; None until one arrives."""

    signal_number: int | None = None


def _handlers() -> dict[signal.Signals, Any]:
    """The handlers of the signals. A signal that is already ignored stays ignored, as nohup intends."""
    return {number: found for number in STOPS if (found := signal.getsignal(number)) not in (signal.SIG_IGN, None)}


def leave(name: str, number: int) -> None:
    """End this process at once, with one line."""
    os.write(2, f"{name}: interrupted\n".encode())
    os._exit(128 + number)


@contextmanager
def stopped_by_signals(name: str) -> Iterator[None]:
    """Turn the first signal into `Stopped`; a second one, before the command has ended, ends the process at once.

    Args:
        name: of the command, for the line that is printed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can have handlers
        return
    before, hook = _handlers(), sys.unraisablehook
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if asked:
            leave(name, number)
        asked.append(number)
        raise Stopped(number)

    def unraisable(what: Any) -> None:
        if isinstance(what.exc_value, Stopped):  # Python would print a traceback and go on
            leave(name, what.exc_value.signal_number)
        hook(what)

    sys.unraisablehook = unraisable
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        if asked and not isinstance(error, Stopped):  # such as an import that the signal broke off
            raise Stopped(asked[0]) from error
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Record the first signal instead of ending the process; the second signal ends it, even in the middle of a long step."""
    request = StopRequest()
    before = _handlers()

    def note(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for caught, handler in before.items():
            signal.signal(caught, handler)

    for number in before:
        signal.signal(number, note)
    try:
        with _told(before):
            yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told(caught: Any) -> Iterator[None]:
    """Tell the user at once what a signal does. Python's own handlers wait for the end of a long call into C, such as a step."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def listen() -> None:
        count = 0
        while heard := os.read(reader, 1):
            if heard[0] not in caught:
                continue
            count += 1
            if count == 1:
                os.write(2, b"stopping after this step; again to stop now\n")
            elif not ended.wait(GRACE_SECONDS):
                leave("memexp", heard[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writer)  # the listener reads its end
        listener.join()
        os.close(reader)
