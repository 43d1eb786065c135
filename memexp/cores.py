"""How many processes or threads the machine can run at once."""

import os


def cores() -> int:
    """Processor cores that this process may use; all there are where the system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
