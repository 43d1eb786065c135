"""The program `memexp`, also as `python -m memexp`. A signal ends it with one line, even while modules are being imported."""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{' '.join(['memexp', *sys.argv[1:2]])}: interrupted\n".encode(errors="replace"))
    os._exit(128 + number)


def run() -> None:
    """Run the command of this process's arguments, and exit with its code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    from memexp.machine import end_with_parent

    end_with_parent()
    from memexp.cli.main import main

    sys.exit(main())


if __name__ == "__main__":
    run()
